"""deploy/nginx.conf in a real nginx, in front of a real node."""

import contextlib
import http.server
import json
import re
import resource
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import requests

from tests.e2e.gateway import PASSWORD, Gateway
from tests.e2e.nginx import has_ipv6, in_front


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    with in_front(tmp_path_factory.mktemp("front")) as place:
        yield place


def test_people_come_in_by_https_alone(front):
    https, http, folder, _ = front
    moved = requests.get(f"{http}/login?next=/tools", allow_redirects=False)
    assert moved.status_code == 308
    assert moved.headers["Location"] == "https://localhost/login?next=/tools"
    page = requests.get(f"{https}/login", verify=folder / "cert.pem")
    assert page.status_code == 200
    assert page.headers["Strict-Transport-Security"]
    assert re.match(r"__Host-\w+=.*; Secure", page.headers["Set-Cookie"])


def test_sec_013_the_access_log_names_no_query(front):
    https, _, folder, _ = front
    callback = f"{https}/oauth/callback?code=c0de&state=st4te"
    for url in (callback, f"{https}/health"):  # the first is logged before the second is served
        requests.get(url, verify=folder / "cert.pem")
    log = (folder / "gateway.access.log").read_text()
    assert "/oauth/callback" in log
    assert "c0de" not in log and "st4te" not in log


def test_another_name_gets_no_handshake(front):
    https, _, folder, _ = front
    anyone = ssl.create_default_context(cafile=folder / "cert.pem")
    anyone.check_hostname = False
    port = int(https.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            anyone.wrap_socket(link, server_hostname="elsewhere.example.com")


def test_sec_098_a_chunked_disguise_is_refused_at_the_front(front):
    https, _, folder, _ = front
    trusted = ssl.create_default_context(cafile=folder / "cert.pem")
    port = int(https.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        with trusted.wrap_socket(link, server_hostname="localhost") as tls:
            head = f"POST /mcp/x HTTP/1.1\r\nHost: localhost:{port}\r\n"
            tls.sendall(f"{head}Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n".encode())
            assert re.match(rb"HTTP/1.1 (400|501) ", tls.recv(100))


class Patient(http.server.BaseHTTPRequestHandler):
    """An MCP server that sends the second event only when the test has seen the first."""

    protocol_version = "HTTP/1.1"
    seen = threading.Event()

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if message["method"] == "initialize":
            hello = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}}
            hello["serverInfo"] = {"name": "patient", "version": "1"}
            return self.reply("application/json", self.answer(message, hello))
        if message["method"] != "tools/call":
            return self.reply("application/json", b"", status=202)
        note = {"progressToken": "p", "progress": 1, "total": 2}
        first = {"jsonrpc": "2.0", "method": "notifications/progress", "params": note}
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.event(json.dumps(first).encode())
        assert self.seen.wait(30), "nobody saw the first event"
        self.event(self.answer(message, {"content": [], "isError": False}))
        self.close_connection = True

    def answer(self, message, result) -> bytes:
        return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()

    def reply(self, kind, body, *, status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def event(self, data):
        self.wfile.write(b"event: message\ndata: " + data + b"\n\n")
        self.wfile.flush()

    def log_message(self, *_):
        """Nothing: it would go to the terminal."""


@pytest.fixture
def patient():
    Patient.seen.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Patient)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/mcp"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_event_comes_through_before_the_next_one_is_made(front, patient, tmp_path):
    https, _, folder, node = front
    record = {"name": "Patient", "slug": "patient", "url": patient, "auth_type": "none"}
    (tmp_path / "patient.json").write_text(json.dumps(record))
    node.flask("users", "create-admin", "a@example.com", "--password-stdin", stdin=PASSWORD)
    node.flask("gateways", "add", str(tmp_path / "patient.json"))
    params = {"name": "any", "arguments": {}, "_meta": {"progressToken": "p"}}
    answer = requests.post(
        f"{https}/mcp/patient",
        json={"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params},
        headers={
            "Authorization": f"Bearer {node.token('a@example.com')}",
            "Accept": "application/json, text/event-stream",
        },
        verify=folder / "cert.pem",
        stream=True,
        timeout=20,
    )
    with answer:
        events = (line for line in answer.iter_lines(chunk_size=1) if line.startswith(b"data:"))
        assert b"notifications/progress" in next(events)
        Patient.seen.set()
        assert json.loads(next(events).removeprefix(b"data:"))["id"] == 7


def test_browsers_get_http_2_also_over_ipv6(front):
    address = "[::1]" if has_ipv6() else "127.0.0.1"
    to = ["--resolve", f"localhost:{front.port}:{address}", "--cacert", front.certificate]
    shown = ["--http2", "-s", "-o", "/dev/null", "-w", "%{http_version} %{http_code} %{remote_ip}"]
    done = subprocess.run(
        ["curl", *shown, *to, f"{front.https}/health"], capture_output=True, text=True, timeout=60
    )
    version, status, came_from = done.stdout.split()
    assert (version, status) == ("2", "200") and came_from == address.strip("[]")


# -- half a request, and no more (SEC-099) ---------------------------------------------------------

HALF = (
    b"GET /login HTTP/1.1\r\nHost: half",
    b"POST /login HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1000\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\n\r\nhalf",
)


HELLO = (b"\x16\x03\x01\x02\x00\x01\x00",)  # and half of the way into TLS


@contextlib.contextmanager
def half_open(
    port: int, number: int, pieces: Sequence[bytes], trust: Path | None = None
) -> Iterator[list[socket.socket]]:
    """As many connections, each with one of the pieces; with `trust`, inside TLS."""
    trusted = ssl.create_default_context(cafile=trust) if trust else None
    with contextlib.ExitStack() as opened:
        links = []
        for index in range(number):
            link = socket.create_connection(("127.0.0.1", port), timeout=60)
            if trusted is not None:
                link = trusted.wrap_socket(link, server_hostname="localhost")
            links.append(opened.enter_context(link))
            link.sendall(pieces[index % len(pieces)])
        yield links


def halves(host: str) -> list[bytes]:
    return [piece.replace(b"HOST", host.encode()) for piece in HALF]


def answered(links: list[socket.socket]) -> int:
    """How many of them got an answer, or an end."""
    poll = select.poll()
    for link in links:
        poll.register(link, select.POLLIN)
    return len(poll.poll(0))


@pytest.fixture(scope="module")
def many_handles():
    """Two thousand sockets here, and as many in what is started from here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("number", [60, 2000])
def test_sec_099_half_open_clients_stop_nobody_at_gevent(many_handles, tmp_path, number):
    with Gateway(f"sqlite:///{tmp_path}/gateway.db") as node:
        host = node.url.removeprefix("http://")
        with half_open(int(host.rpartition(":")[2]), number, halves(host)) as links:
            for _ in range(20):
                assert requests.get(f"{node.url}/login", timeout=60).status_code == 200
            assert not answered(links)


@pytest.mark.parametrize("number", [60, 2000])
def test_sec_099_half_open_clients_stop_nobody_at_gthread_behind_nginx(
    many_handles, tmp_path, number
):
    """With 16 threads. What limits the time is for the next test: here nobody shall be let go."""
    patient = {"GUNICORN_CMD_ARGS": "-k gthread --threads 8", "workers": 2}
    with in_front(tmp_path, patience="300s", **patient) as front:
        host = front.https.removeprefix("https://")
        inside = half_open(front.port, 60, halves(host), front.certificate)
        with half_open(front.port, number, HELLO) as raw, inside as links:
            for _ in range(20):
                page = requests.get(f"{front.https}/login", verify=front.certificate, timeout=60)
                assert page.status_code == 200
            assert not answered(links + raw)


def test_sec_099_nginx_lets_go_of_half_a_request_by_itself(front):
    """Of one inside TLS, of one that never began it, and of one on the way to it."""
    plain, head = int(front.http.rpartition(":")[2]), HALF[:1]
    with (
        half_open(front.port, 1, head, front.certificate) as inside,
        half_open(front.port, 1, HELLO) as before,
        half_open(plain, 1, head) as others,
    ):
        for link in (*inside, *before, *others):
            assert link.recv(4096) == b""
