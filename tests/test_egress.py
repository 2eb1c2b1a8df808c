from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import urllib3
from flask import Flask
from requests_oauthlib import OAuth2Session

from app import addresses, certificates, egress
from app.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from tests import authority
from tests.authority import Authority

LOOPBACK = addresses.networks("127.0.0.0/8", "::1/128")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Script = Callable[[socket.socket, bytes], None]
NOT_PUBLIC = """
127.0.0.1 127.1.2.3 0.0.0.0 0.1.2.3 10.0.0.1 172.16.3.4 192.168.1.1 169.254.169.254 100.64.0.1
192.0.0.8 192.88.99.1 198.18.0.1 203.0.113.1 224.0.0.1 240.0.0.1 255.255.255.255 168.63.129.16
:: ::1 fe80::1 fe80::1%eth0 fc00::1 fec0::1 ff02::1 100::1 4000::1 5f00::1 3fff::1 2001:db8::1
::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::1
2002:a9fe:a9fe:: 2001:0:4136:e378:: fd00:ec2::254"""


@dataclass(frozen=True)
class Own:
    """A gateway's own CA, and the certificate it shows."""

    ca_pem: str | None
    cert_pem: str | None = None
    key: str | None = None

    def key_pem(self) -> str | None:
        return self.key


class Peer:
    """A server that reads one request head after the other; `script` answers each of them."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.heads: list[bytes] = []
        self.connections = 0
        self.hung_up = threading.Event()
        self._script, self._tls = script, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(
                    target=self._serve, args=(self._listener.accept()[0],), daemon=True
                ).start()

    def _serve(self, sock: socket.socket) -> None:
        self.connections += 1
        with contextlib.suppress(OSError):
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            with sock:
                while head := _read_head(sock):
                    self.heads.append(head)
                    self._script(sock, head)
        self.hung_up.set()

    def close(self) -> None:
        self._listener.close()


def _read_head(sock: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        piece = sock.recv(65_536)
        if not piece:
            return b""
        head += piece
    return head


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    with contextlib.ExitStack() as stack:

        def start(script: Script, tls: ssl.SSLContext | None = None) -> Peer:
            started = Peer(script, tls)
            stack.callback(started.close)
            return started

        yield start


@contextlib.contextmanager
def allowing(
    *ranges: addresses.Network, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """As in an app whose operator opened these ranges."""
    app = Flask(__name__)
    app.config.update(UPSTREAM_CONNECT_TIMEOUT=2.0, UPSTREAM_READ_TIMEOUT=5.0)
    app.extensions["egress"] = door = egress.Door(ranges, clock)
    with app.app_context():
        yield
        door.close()


@pytest.fixture
def loopback() -> Iterator[None]:
    with allowing(*LOOPBACK):
        yield


@pytest.fixture
def guarded(loopback: None) -> Iterator[requests.Session]:
    with egress.session() as session:
        yield session


def answers(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Every name resolves to these, whatever the real resolver would say."""

    def resolve(_host: str, port: int, *_: object) -> list[object]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


# --- addresses and URLs


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_sec_090_an_address_that_is_not_public_is_blocked(address: str) -> None:
    with pytest.raises(egress.Blocked):
        addresses.check_address(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111"])
def test_a_public_address_passes(address: str) -> None:
    addresses.check_address(address)


def test_sec_091_the_operator_opens_ranges() -> None:
    addresses.check_address("10.1.2.3", addresses.networks("10.0.0.0/8"))
    addresses.check_address("64:ff9b::808:808", addresses.networks("64:ff9b::/96"))


METADATA = ("169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "169.254.0.1")
CARRIED = ("{0}", "::{0}", "::ffff:{0}", "::ffff:0:{0}", "64:ff9b::{0}")
NEVER = [form.format(address) for address in METADATA for form in CARRIED]
NEVER += ["fd00:ec2::254", "fe80::1", "fe80::a9fe:a9fe", "febf::1", "2002:a9fe:a9fe::1"]
OPENED = (["0.0.0.0/0"], ["::/0"], ["0.0.0.0/0", "::/0"], ["169.254.0.0/16", "fe80::/10"])


@pytest.mark.parametrize("ranges", OPENED, ids=" ".join)
@pytest.mark.parametrize("address", NEVER)
def test_sec_091_nothing_opens_cloud_metadata(address: str, ranges: list[str]) -> None:
    with pytest.raises(egress.Blocked):
        addresses.check_address(address, addresses.networks(*ranges))


def test_sec_091_a_range_opens_itself_and_nothing_else() -> None:
    opened = addresses.networks("10.1.0.0/16", "fd12::/16")
    for inside in ("10.1.0.0", "10.1.255.255", "fd12::1"):
        addresses.check_address(inside, opened)
    for outside in ("10.0.255.255", "10.2.0.0", "fd13::1", "127.0.0.1", "::ffff:10.2.0.1"):
        with pytest.raises(egress.Blocked):
            addresses.check_address(outside, opened)


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::1]", "localhost"]
)
def test_sec_090_no_spelling_of_loopback_gets_through(host: str) -> None:
    with allowing(), egress.session() as session:
        with pytest.raises((egress.Blocked, requests.ConnectionError)) as caught:
            session.get(f"https://{host}:9/", timeout=2)
        # a ConnectionError is only right where the resolver does not know the spelling
        assert isinstance(caught.value, egress.Blocked) or "resolve" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "file:///x",
        "https:///x",
        "https://u:p@example.com/",
        "https://u@example.com/",
        "https://example.com/#f",
        "https://example.com:22/",
        "https://example.com:99999/",
        "https://exa mple.com/",
        "https://example.com\\@evil.test/",
        "https://example.com/\r\nX: y",
        "https://[::1/",
        "https://example.com/" + "a" * 2_048,
    ],
)
def test_sec_096_a_url_no_admin_means_is_blocked(url: str) -> None:
    with pytest.raises(egress.Blocked):
        addresses.check_url(url)


@pytest.mark.parametrize(
    "url", ["https://example.com/mcp?x=1", "https://[2606:4700::1]:8443/", "http://127.0.0.1:8000/"]
)
def test_an_ordinary_url_passes(url: str) -> None:
    addresses.check_url(url)


# --- one resolution, one place to go


def test_sec_089_one_bad_answer_blocks_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, "93.184.216.34", "127.0.0.1")
    with allowing(), egress.session() as session, pytest.raises(egress.Blocked):
        session.get("https://mixed.test/", timeout=1)


def test_sec_089_the_checked_answer_is_the_one_used(
    peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = peer(lambda sock, _: sock.sendall(OK))
    asked: list[str] = []

    def flip(host: str, port: int, *_: object) -> list[object]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "10.255.255.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", flip)
    with allowing(*LOOPBACK), egress.session() as session:
        assert session.get(f"http://localhost:{server.port}/", timeout=2).text == "ok"
    assert asked == ["localhost"]


def test_sec_089_tls_checks_the_name_and_not_the_address(
    peer: Callable[..., Peer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str | None] = []
    ca = Authority()
    context = authority.server(ca.signs("good.test"), tmp_path)
    context.sni_callback = lambda _sock, name, _context: names.append(name)
    server = peer(lambda sock, _: sock.sendall(OK), context)
    answers(monkeypatch, "127.0.0.1")
    with allowing(*LOOPBACK), egress.session(Own(ca.pem)) as session:
        good = session.get(f"https://good.test:{server.port}/", timeout=3)
        assert (good.text, names) == ("ok", ["good.test"])
        assert f"Host: good.test:{server.port}".encode() in server.heads[0]
        with pytest.raises(requests.exceptions.SSLError):
            session.get(f"https://other.test:{server.port}/", timeout=3)


@pytest.mark.parametrize(
    "argument", [{"verify": False}, {"verify": ""}, {"verify": "/x.pem"}, {"cert": "/x.pem"}]
)
def test_sec_094_no_argument_changes_whom_we_trust(
    peer: Callable[..., Peer], guarded: requests.Session, argument: dict[str, object]
) -> None:
    server = peer(lambda sock, _: sock.sendall(OK))
    with pytest.raises(egress.Blocked):
        guarded.get(server.url, **argument)  # type: ignore[arg-type]
    assert server.connections == 0


def test_sec_094_a_variable_with_cas_changes_nothing(
    peer: Callable[..., Peer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = Authority()
    server = peer(
        lambda sock, _: sock.sendall(OK), authority.server(ca.signs("127.0.0.1"), tmp_path)
    )
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(ca.pem)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(bundle))
    with allowing(*LOOPBACK), egress.session() as session:
        with pytest.raises(requests.exceptions.SSLError):
            session.get(f"https://127.0.0.1:{server.port}/", timeout=3)


def test_sec_094_old_tls_is_not_spoken(tmp_path: Path) -> None:
    ca = Authority()
    made = certificates.tls(ca.pem, None, None)
    assert made.minimum_version == ssl.TLSVersion.TLSv1_2
    assert made.verify_mode == ssl.CERT_REQUIRED and made.check_hostname


def test_sec_092_netrc_and_proxy_variables_change_nothing(
    peer: Callable[..., Peer],
    guarded: requests.Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = peer(lambda sock, _: sock.sendall(OK))
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login evil password pw\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    token = {"Authorization": "Bearer user-token"}
    guarded.get(server.url, headers=token, timeout=2)
    egress.pool().request("GET", server.url, headers=token)
    assert len(server.heads) == 2
    assert all(b"Authorization: Bearer user-token\r\n" in head for head in server.heads)
    guarded.get(server.url, timeout=2)
    assert b"Authorization" not in server.heads[2]


def test_proxies_given_by_hand_are_refused(guarded: requests.Session) -> None:
    with pytest.raises(egress.Blocked):
        guarded.get("https://127.0.0.1:9/", proxies={"https": "http://127.0.0.1:9"})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_sec_035_a_redirect_is_not_followed(
    peer: Callable[..., Peer], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")  # oauthlib refuses http even on loopback
    other = peer(lambda sock, _: sock.sendall(OK))
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {other.url}\r\nContent-Length: 0\r\n\r\n"
    server = peer(lambda sock, _: sock.sendall(head.encode()))
    with allowing(*LOOPBACK), egress.guard(OAuth2Session("client")) as client:
        with pytest.raises(requests.TooManyRedirects):
            client.post(server.url, data={"client_secret": "s"}, timeout=2)
        assert egress.pool().request("POST", server.url).status == status
    assert [head.split()[1] for head in server.heads] == [b"/", b"/"]
    assert other.connections == 0


@pytest.mark.parametrize("follows", [True, False])
def test_the_body_of_a_redirect_is_not_read(
    peer: Callable[..., Peer], guarded: requests.Session, follows: bool
) -> None:
    ended = threading.Event()

    def without_end(sock: socket.socket, _: bytes) -> None:
        sock.sendall(b"HTTP/1.1 302 F\r\nLocation: /x\r\nContent-Length: 99999999999\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(b"x" * 65_536)
        ended.set()

    server = peer(without_end)
    with pytest.raises(requests.TooManyRedirects):
        guarded.get(server.url, stream=True, allow_redirects=follows, timeout=30)
    assert ended.wait(30)  # we hung up


def test_sec_047_the_pools_do_not_retry(peer: Callable[..., Peer]) -> None:
    server = peer(lambda sock, _: sock.close())
    with allowing(*LOOPBACK), pytest.raises(urllib3.exceptions.ProtocolError):
        egress.pool().request("POST", server.url, body=b"{}")
    assert len(server.heads) == 1


def test_a_connection_that_rested_is_not_used_again(
    peer: Callable[..., Peer],
) -> None:
    """Its server may be closing it, and a call whose fate is unknown is never sent twice."""
    server, now = peer(lambda sock, _: sock.sendall(OK)), [100.0]
    with allowing(*LOOPBACK, clock=lambda: now[0]):
        for _ in range(2):
            egress.pool().request("POST", server.url)
        assert server.connections == 1
        now[0] += egress.IDLE_S
        egress.pool().request("POST", server.url)
        assert server.connections == 2


# --- time, size, and what was sent


def drip(start: bytes) -> Script:
    """A byte now and then, for as long as the other side listens (at most 10 s)."""

    def script(sock: socket.socket, _head: bytes) -> None:
        sock.sendall(start)
        sock.settimeout(0.05)
        for _ in range(200):
            sock.sendall(b"a")
            with contextlib.suppress(TimeoutError):
                if not sock.recv(1):
                    return

    return script


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"]
)
def test_sec_095_a_dripping_answer_ends_at_the_deadline(
    peer: Callable[..., Peer], guarded: requests.Session, start: bytes
) -> None:
    server = peer(drip(start))
    with pytest.raises(egress.DeadlineExceeded), egress.call(0.4) as call:
        guarded.post(server.url, timeout=2)
    assert call.sent


def test_sec_095_a_head_that_drips_is_given_up_without_a_deadline(
    peer: Callable[..., Peer], loopback: None
) -> None:
    """As the proxy calls: only silence is limited, and this one is never silent."""
    server = peer(drip(b"HTTP/1.1 200 OK\r\nX: "))
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        egress.pool().request("POST", server.url, timeout=egress.silence(0.4))
    assert server.hung_up.wait(5)


def test_sec_095_a_body_may_take_longer_than_its_head(
    peer: Callable[..., Peer], loopback: None
) -> None:
    begun = threading.Event()

    def slowly(sock: socket.socket, _head: bytes) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        for _ in range(6):
            begun.wait(0.1)
            sock.sendall(b"a")

    answer = egress.pool().request("GET", peer(slowly).url, timeout=egress.silence(0.4))
    assert answer.data == b"aaaaaa"


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port where connections are neither taken nor refused: its queue is full."""
    with contextlib.ExitStack() as open_ones:
        listener = open_ones.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = open_ones.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_f_02_a_connection_that_is_not_taken_ends_at_the_deadline(
    guarded: requests.Session,
) -> None:
    with black_hole() as port:
        with pytest.raises(egress.DeadlineExceeded), egress.call(0.4) as call:
            guarded.post(f"http://127.0.0.1:{port}/", timeout=30)
        assert not call.sent
        with pytest.raises(urllib3.exceptions.ConnectTimeoutError) as caught:
            egress.pool().request("POST", f"http://127.0.0.1:{port}/", timeout=0.4)
        assert egress.is_unsent(caught.value)


def test_f_42_a_name_that_takes_too_long_leads_nowhere(
    peer: Callable[..., Peer], guarded: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolver cannot be stopped, but what it says too late is not used."""
    server, over = peer(lambda sock, _: sock.sendall(OK)), threading.Event()

    def slowly(_host: str, port: int, *_: object) -> list[object]:
        assert over.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    with pytest.raises(egress.DeadlineExceeded), egress.call(0.2) as call:
        threading.Timer(0.5, over.set).start()
        guarded.get(f"http://localhost:{server.port}/", timeout=30)
    assert server.connections == 0 and not call.sent


def test_a_name_with_many_addresses_is_not_tried_for_ever(
    guarded: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    tried: list[str] = []
    answers(monkeypatch, *(f"127.0.0.{number}" for number in range(1, 50)))
    check = sys.addaudithook
    check(lambda event, args: tried.append(args[1][0]) if event == "socket.connect" else None)
    with pytest.raises(requests.ConnectionError):
        guarded.get(f"http://localhost:{port}/", timeout=2)
    assert tried == [f"127.0.0.{number}" for number in range(1, egress.TRIED + 1)]


def test_sec_095_a_silent_handshake_ends_at_the_deadline(guarded: requests.Session) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"https://127.0.0.1:{mute.getsockname()[1]}/"
        with pytest.raises(egress.DeadlineExceeded), egress.call(0.4) as call:
            guarded.get(url, timeout=3)
    assert not call.sent


def test_sec_095_a_pooled_connection_obeys_the_next_deadline(
    peer: Callable[..., Peer], guarded: requests.Session
) -> None:
    server = peer(lambda sock, head: sock.sendall(OK) if head.startswith(b"GET") else None)
    with egress.call(2):
        guarded.get(server.url)
    with pytest.raises(egress.DeadlineExceeded), egress.call(0.4):
        guarded.post(server.url)
    assert [head.split()[0] for head in server.heads] == [b"GET", b"POST"]


def test_sec_095_the_second_address_obeys_the_deadline_of_the_first(
    peer: Callable[..., Peer], guarded: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is refused, and its number comes back for the socket of the second."""
    server = peer(drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"))
    with socket.create_server(("127.0.0.2", 0)) as closed:
        closed_at = closed.getsockname()[1]
    both = [("127.0.0.2", closed_at), ("127.0.0.1", server.port)]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", one) for one in both]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    with pytest.raises(egress.DeadlineExceeded), egress.call(0.4):
        guarded.post(f"http://localhost:{server.port}/")
    assert server.hung_up.wait(5)


def test_sec_047_a_broken_tls_connection_is_not_taken_for_unsent() -> None:
    assert not egress.is_unsent(ssl.SSLEOFError(8, "EOF occurred in violation of protocol"))
    assert egress.is_unsent(egress.HandshakeFailed(8, "EOF occurred in violation of protocol"))


def test_sec_012_a_call_knows_whether_anything_was_sent(
    peer: Callable[..., Peer], guarded: requests.Session
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refused = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    with pytest.raises(requests.ConnectionError), egress.call(2) as call:
        guarded.post(refused)
    assert not call.sent
    server = peer(lambda sock, _: sock.close())
    with pytest.raises(requests.ConnectionError), egress.call(2) as call:
        guarded.post(server.url)
    assert call.sent


def test_sec_049_a_bomb_ends_at_the_cap(
    peer: Callable[..., Peer], guarded: requests.Session
) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    server = peer(lambda sock, _: sock.sendall(head + bomb))
    tracemalloc.start()
    with pytest.raises(egress.TooLarge):
        egress.read_capped(guarded.get(server.url, stream=True, timeout=5), 1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


# --- in our terms


def test_our_errors_name_the_host_and_keep_the_cause(
    peer: Callable[..., Peer],
    guarded: requests.Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refused = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    redirect = peer(
        lambda sock, _: sock.sendall(b"HTTP/1.1 302 F\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n")
    )
    mute = peer(lambda _sock, _head: None)
    context = authority.server(Authority().signs("127.0.0.1"), tmp_path)  # whose CA nobody knows
    untrusted = peer(lambda sock, _: sock.sendall(OK), context).port
    cases = [
        (refused, UpstreamUnreachable, "connect_failed"),
        ("http://10.0.0.1/", UpstreamUnreachable, "blocked_address"),
        (redirect.url, UpstreamError, "redirected"),
        (mute.url, UpstreamTimeout, "timeout"),
        (f"https://127.0.0.1:{untrusted}/", UpstreamUnreachable, "tls_failed"),
    ]
    for url, kind, code in cases:
        with pytest.raises(kind) as caught, egress.upstream_errors(url):
            guarded.get(url, timeout=0.3)
        assert caught.value.code == code and caught.value.__cause__ is not None, url

    def unknown(*_: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UpstreamUnreachable) as caught, egress.upstream_errors("https://no.test/"):
        guarded.get("https://no.test/", timeout=1)
    assert caught.value.code == "dns_failed" and "no.test" in caught.value.message
