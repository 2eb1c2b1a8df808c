"""The only way out to the network.

A name is resolved once, every answer is checked, and the connection goes to a checked address.
Host, SNI and the certificate name stay the name. So neither a second DNS answer, a redirect, a
proxy variable nor a .netrc can send a request, or a credential, anywhere else.
"""

from __future__ import annotations

import contextvars
import functools
import http.client
import io
import math
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from flask import current_app
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
)
from urllib3.exceptions import (
    TimeoutError as Urllib3Timeout,
)

from . import certificates
from .addresses import Blocked, Network, check_address, check_url
from .errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable

S = TypeVar("S", bound=requests.Session)

CONNECT_S, READ_S = 5.0, 30.0
IDLE_S = 3.0  # servers end a resting connection after 5 s (uvicorn) or more
TRIED = 4  # addresses of one name: each may take the time to connect
_KEPT = 64  # gateways' own TLS settings with their pools; each takes 40 ms to build
_REFUSALS = re.compile("ALERT_.*(CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED|HANDSHAKE_FAILURE)")


class DeadlineExceeded(Exception):
    """The whole exchange took longer than it may."""


class TooLarge(Exception):
    """The decoded body is larger than it may be."""


class Call:
    """What one exchange did: `sent` says whether any byte of the request may have left.

    Only a call with `sent` False may be repeated without asking what the peer made of it.
    """

    def __init__(self, around: Call | None = None, seconds: float = math.inf) -> None:
        self.sent = False
        self.expired = False
        self._ends = time.monotonic() + seconds
        self._around = around  # a call that this one is part of: its deadline holds, too
        self._lock = threading.Lock()
        self._handles: dict[int, socket.socket] = {}

    def watch(self, sock: socket.socket) -> None:
        """Keep a second handle: it can end the connection even after TLS took over the first."""
        if self._around is not None:
            self._around.watch(sock)
        with self._lock:
            before = self._handles.pop(sock.fileno(), None)
            if before is not None:  # perhaps of another socket: numbers of closed ones come back
                before.close()
            self._handles[sock.fileno()] = socket.socket(fileno=os.dup(sock.fileno()))
        if self.expired:
            self.cut()

    @property
    def is_over(self) -> bool:
        """To be asked while bytes come: of a cut connection those that wait can still be read, so a
        peer that is never silent hides the cut, and may keep the timer's thread off.
        """
        if time.monotonic() > self._ends:
            self.expired = True
        return self.expired or (self._around is not None and self._around.is_over)

    def cut(self) -> None:
        with self._lock:
            self.expired = True
            for handle in self._handles.values():
                with suppress(OSError):
                    handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            for handle in self._handles.values():
                handle.close()
            self._handles.clear()


class Line(Call):
    """The connection of one exchange, for somebody who may have to end it: a caller hung up.

    It has no deadline and costs nothing until it is cut.
    """

    _sock: socket.socket | None = None
    _token: contextvars.Token[Call | None]

    def watch(self, sock: socket.socket) -> None:
        self._sock = sock
        if self._around is not None:
            self._around.watch(sock)
        if self.expired:
            self.cut()

    def cut(self) -> None:
        self.expired = True
        sock = self._sock
        if sock is not None and sock.fileno() >= 0:
            with suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as handle:
                handle.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> None:
        """What is asked inside runs on this line, and under the deadline around it."""
        self._around = _call.get()
        self._token = _call.set(self)

    def __exit__(self, *_: object) -> None:
        _call.reset(self._token)
        self._around = None


_call: contextvars.ContextVar[Call | None] = contextvars.ContextVar("call", default=None)


@contextmanager
def call(seconds: float) -> Iterator[Call]:
    """A limit on all inside: connect, handshake, a dripping answer. Raises DeadlineExceeded.

    Read the body inside, too: http.client takes a connection cut in the head for the end of the
    head, so what came out of a call that ran over its time is never used. Name resolution is not
    limited.
    """
    this = Call(_call.get(), seconds)
    timer = threading.Timer(seconds, this.cut)
    timer.daemon = True
    timer.start()
    token = _call.set(this)
    try:
        yield this
        if this.expired:
            raise DeadlineExceeded
    except (requests.RequestException, HTTPError, OSError) as error:
        if this.expired:
            raise DeadlineExceeded from error
        raise
    finally:
        _call.reset(token)
        timer.cancel()
        this.close()


def in_time() -> None:
    """Raises DeadlineExceeded when the time of the call around this is over."""
    this = _call.get()
    if this is not None and this.is_over:
        raise DeadlineExceeded


class _Limit:
    """Until when the head of an answer may come. It is read in pieces, each of which may pause."""

    __slots__ = ("clock", "ends")

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.ends = clock, math.inf


class _Bytes(io.RawIOBase):
    """What comes on a socket, under a limit."""

    def __init__(self, sock: Any, limit: _Limit) -> None:
        self._raw, self._limit = sock.makefile("rb", buffering=0), limit

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int | None:
        if self._limit.clock() > self._limit.ends:
            raise TimeoutError("the head of the answer took too long")
        got: int | None = self._raw.readinto(into)
        return got

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Source:
    """For http.client, which asks a socket for a file."""

    def __init__(self, sock: Any, limit: _Limit) -> None:
        self._made = sock, limit

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Bytes(*self._made))


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: Any, limit: _Limit, *args: Any, **kwargs: Any) -> None:
        source: Any = _Source(sock, limit)
        super().__init__(source, *args, **kwargs)
        self._limit = limit

    def begin(self) -> None:
        try:
            super().begin()
        finally:
            self._limit.ends = math.inf


class _Pinned(HTTPConnection):
    allow: Sequence[Network] = ()
    clock: Callable[[], float] = staticmethod(time.monotonic)
    _sent_at = 0.0  # of the clock

    def response_class(  # type: ignore[override]  # called like one, and never asked for more
        self, sock: Any, *args: Any, **kwargs: Any
    ) -> _Answer:
        """The time of silence is also that of the whole head: one that drips is never silent."""
        limit = _Limit(self.clock)
        if isinstance(self.timeout, int | float):
            limit.ends = self.clock() + self.timeout
        return _Answer(sock, limit, *args, **kwargs)

    @property
    def is_connected(self) -> bool:
        """Asked before a pooled connection is used again.

        One that rests may be closed by the other side just as we send, and a call whose fate is
        unknown is never sent twice.
        """
        return super().is_connected and self.clock() - self._sent_at < IDLE_S

    def addresses(self) -> Sequence[Any]:
        """What the name stands for, all checked. Raises NameResolutionError, Blocked."""
        try:
            answers = socket.getaddrinfo(self._dns_host, self.port, 0, socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        for answer in answers:
            check_address(str(answer[4][0]), self.allow)  # one bad answer blocks the name
        return answers

    def _new_conn(self) -> socket.socket:
        """Stands in for urllib3's own: same errors, but checked addresses only."""
        answers = self.addresses()
        failure: OSError = OSError("no address")
        for family, kind, protocol, _, address in answers[:TRIED]:
            in_time()  # a name may have taken long to resolve
            try:
                return self._open(socket.socket(family, kind, protocol), address)
            except OSError as error:
                failure = error
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, "connecting took too long") from failure
        raise NewConnectionError(self, "connection refused") from failure

    def _open(self, sock: socket.socket, address: Any) -> socket.socket:
        try:
            sock.settimeout(self.timeout if isinstance(self.timeout, int | float) else CONNECT_S)
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            this = _call.get()
            if this is not None:
                this.watch(sock)
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        self._sent_at = self.clock()
        this = _call.get()
        if this is not None and self.sock is not None:
            this.watch(self.sock)  # a pooled connection was opened by an earlier call
            this.sent = True
        super().send(data)


class HandshakeFailed(ssl.SSLError):
    """Before anything was sent. The cause says why."""


class _PinnedTLS(_Pinned, HTTPSConnection):
    def connect(self) -> None:
        try:
            super().connect()
        except ssl.SSLError as error:
            raise HandshakeFailed(*error.args) from error


class Trust(Hashable, Protocol):
    """Of one gateway; equal ones are the same. None stands for the usual CAs and no certificate."""

    @property
    def ca_pem(self) -> str | None: ...
    @property
    def cert_pem(self) -> str | None: ...
    def key_pem(self) -> str | None: ...


class Door:
    """What one app keeps for its calls: where they may go, and TLS settings with their pools.

    Gateways with a CA or certificate of their own share neither with anybody (SEC-094).
    """

    def __init__(
        self, allow: Sequence[Network], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock`: by which pooled connections rest."""
        self.classes = _classes(allow, clock)
        self._tls: dict[Hashable, ssl.SSLContext] = {}
        self._pools: dict[Hashable, _Pool] = {}
        self._lock = threading.Lock()

    def tls(self, trust: Trust | None) -> ssl.SSLContext:
        """Raises Unsealable, and HandshakeFailed where OpenSSL does not take what was pasted."""
        if trust is None:
            return _usual()
        found = self._tls.get(trust)
        return found if found is not None else self._make(trust)

    def _make(self, trust: Trust) -> ssl.SSLContext:
        key = trust.key_pem()
        try:
            made = certificates.tls(
                trust.ca_pem, trust.cert_pem, key, bundle=DEFAULT_CA_BUNDLE_PATH
            )
        except ssl.SSLError as error:  # of one gateway, whose calls fail as at a bad server
            raise HandshakeFailed(*error.args) from error
        with self._lock:
            for gone in list(self._tls)[: 1 - _KEPT]:  # what is under way there goes on
                self._pools.pop(gone, None)
                del self._tls[gone]
            return self._tls.setdefault(trust, made)

    def pool(self, trust: Trust | None) -> _Pool:
        """Raises Unsealable."""
        found = self._pools.get(trust)
        if found is None:
            made = _Pool(num_pools=500, maxsize=256, timeout=silence(), ssl_context=self.tls(trust))
            made.pool_classes_by_scheme = self.classes
            found = self._pools.setdefault(trust, made)
        return found

    def close(self) -> None:
        for pool in self._pools.values():
            pool.clear()
        self._pools.clear()


@functools.cache
def _usual() -> ssl.SSLContext:
    """The system's CAs and those that come with `requests`, as a slim image has none."""
    return certificates.tls(None, None, None, bundle=DEFAULT_CA_BUNDLE_PATH)


def _door() -> Door:
    door: Door = current_app.extensions["egress"]
    return door


def _classes(
    allow: Sequence[Network], clock: Callable[[], float]
) -> dict[str, type[HTTPConnectionPool]]:
    own = {"allow": allow, "clock": staticmethod(clock)}
    plain = type("PinnedHTTP", (_Pinned,), own)
    tls = type("PinnedHTTPS", (_PinnedTLS,), own)
    return {
        "http": type("PinnedHTTPPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("PinnedHTTPSPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
    }


class _Adapter(HTTPAdapter):
    """For `requests` and everything built on it. Its TLS is ours, whatever an argument says."""

    def __init__(self, door: Door, trust: Trust | None) -> None:
        self._door, self._tls = door, door.tls(trust)
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._tls)
        self.poolmanager.pool_classes_by_scheme = self._door.classes

    def proxy_manager_for(self, *_args: Any, **_kwargs: Any) -> Any:
        raise Blocked("proxies are not used")

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """The one of `requests` loads a list of CAs into the context, which others share."""

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        check_url(request.url or "")
        if kwargs.get("verify", True) is not True or kwargs.get("cert") is not None:
            raise Blocked("whom to trust and what to show is said once, by the gateway")
        kwargs["timeout"] = kwargs.get("timeout") or (CONNECT_S, READ_S)
        return super().send(request, *args, **kwargs)


class _Pool(urllib3.PoolManager):
    def urlopen(  # type: ignore[override]  # PoolManager's own signature, which differs from its base
        self, method: str, url: str, redirect: bool = False, **kw: Any
    ) -> urllib3.BaseHTTPResponse:
        check_url(url)
        return super().urlopen(method, url, redirect=False, **{**kw, "retries": False})


def guard(session: S, trust: Trust | None = None) -> S:
    """Make any `requests` session, an OAuth2Session too, ours: a redirect raises.

    `trust`: of the gateway it is for. Raises Unsealable.
    """
    session.trust_env = False  # no .netrc, no proxy variables, no CA bundle from the environment
    session.get_redirect_target = _no_redirect  # type: ignore[assignment, method-assign]
    door = _door()
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Adapter(door, trust))
    return session


def _no_redirect(response: requests.Response) -> None:
    """Asked before `requests` reads a redirect's body, of whatever size, though nobody follows."""
    if response.is_redirect:
        response.close()
        raise requests.TooManyRedirects("redirects are not followed", response=response)


def session(trust: Trust | None = None) -> requests.Session:
    return guard(requests.Session(), trust)


def pool(trust: Trust | None = None) -> urllib3.PoolManager:
    """For the proxy: no redirects, no retries, answers handed on as they come. One per trust.

    Raises Unsealable.
    """
    return _door().pool(trust)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who stands at an address, as a check looks at it."""

    address: str
    ends: datetime | None  # of the certificate; None without TLS


def resolve(url: str) -> str:
    """The first address that a call of this URL would go to. Connects nowhere.

    Raises UpstreamError. Name resolution is not limited.
    """
    with upstream_errors(url):
        return str(_line_to(url, None).addresses()[0][4][0])


def greet(url: str, trust: Trust | None, seconds: float) -> Peer:
    """Connect as a call would, with all checks of TLS, and hang up. Sends nothing else.

    Raises UpstreamError, Unsealable.
    """
    with upstream_errors(url), call(seconds):
        line = _line_to(url, trust)
        line.timeout = seconds
        try:
            line.connect()
            sock: Any = line.sock
            shown = sock.getpeercert() if isinstance(sock, ssl.SSLSocket) else None
            ends = ssl.cert_time_to_seconds(str(shown["notAfter"])) if shown else None
            address = str(sock.getpeername()[0])
        finally:
            line.close()
    return Peer(address, None if ends is None else datetime.fromtimestamp(ends, UTC))


def _line_to(url: str, trust: Trust | None) -> Any:
    check_url(url)
    parts, door = urlsplit(url), _door()
    kind: Any = door.classes[parts.scheme].ConnectionCls
    if parts.scheme == "http":
        return kind(parts.hostname, parts.port or 80)
    return kind(parts.hostname, parts.port or 443, ssl_context=door.tls(trust))


def silence(seconds: float | None = None) -> urllib3.Timeout:
    """How long one answer from the pool may pause; None: as the settings say."""
    config = current_app.config
    read = config["UPSTREAM_READ_TIMEOUT"] if seconds is None else seconds
    return urllib3.Timeout(connect=config["UPSTREAM_CONNECT_TIMEOUT"], read=read)


@contextmanager
def upstream_errors(url: str) -> Iterator[None]:
    """The exceptions of requests, urllib3 and the guard become ours here, and nowhere else."""
    host = urlsplit(url).hostname or url
    try:
        yield
    except Blocked as error:
        raise UpstreamUnreachable("blocked_address", host=host) from error
    except TooLarge as error:
        raise UpstreamError("reply_unreadable", host=host) from error
    except DeadlineExceeded as error:
        raise UpstreamTimeout("timeout", host=host) from error
    except (requests.RequestException, HTTPError, OSError) as error:
        raise _ours(error, host) from error


def _ours(error: Exception, host: str) -> UpstreamError:
    """By what lies at the bottom: requests wraps urllib3, which wraps the socket's own error."""
    chain = list(_causes(error))
    for code, is_so in _STEPS.items():
        if any(is_so(cause) for cause in chain):
            return UpstreamUnreachable(code, host=host)
    if any(isinstance(cause, Urllib3Timeout | requests.Timeout | TimeoutError) for cause in chain):
        return UpstreamTimeout("timeout", host=host)
    if isinstance(error, requests.TooManyRedirects):
        return UpstreamError("redirected", host=host)
    return UpstreamUnreachable("connect_failed", host=host)


def _is_untrusted(error: BaseException) -> bool:
    """Not a TLS connection that broke off, which says nothing about certificates."""
    others = (ssl.SSLEOFError, ssl.SSLZeroReturnError, HandshakeFailed)
    return isinstance(error, ssl.SSLError) and not isinstance(error, others)


def _is_refusal(error: BaseException) -> bool:
    """The other side ended TLS over our certificate, or the lack of one."""
    reason = str(getattr(error, "reason", "")) if isinstance(error, ssl.SSLError) else ""
    return _REFUSALS.search(reason) is not None


_STEPS: dict[str, Callable[[BaseException], bool]] = {
    "dns_failed": lambda cause: isinstance(cause, NameResolutionError),
    "client_certificate_refused": _is_refusal,
    "tls_failed": _is_untrusted,
    # Before the time-outs: urllib3's NewConnectionError is one of its TimeoutErrors.
    "connect_failed": lambda cause: type(cause) is NewConnectionError,
}


def is_unsent(error: BaseException) -> bool:
    """Whether no byte of the request can have left: no connection was made for it."""
    unsent = (
        *(NameResolutionError, NewConnectionError, ConnectTimeoutError, Blocked),
        HandshakeFailed,
    )
    return any(isinstance(cause, unsent) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = [error]
    for cause in seen:
        yield cause
        further = (cause.__cause__, cause.__context__, *cause.args, getattr(cause, "reason", None))
        seen += [one for one in further if isinstance(one, BaseException) and one not in seen]


def read_capped(response: requests.Response, limit: int) -> bytes:
    """The decoded body of a response got with stream=True. Raises TooLarge on the way."""
    body = bytearray()
    for chunk in response.iter_content(65_536):
        body += chunk
        if len(body) > limit:
            response.close()
            raise TooLarge(f"more than {limit} bytes")
    return bytes(body)
