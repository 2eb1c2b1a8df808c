"""How gunicorn runs the gateway: `gunicorn wsgi:app` in this folder reads this file.

Everything about the product itself is in config.py. From the environment this file takes
WEB_CONCURRENCY (workers), BIND, STOP_NOTICE, and some settings that config.py judges.
"""

import contextlib
import errno
import fcntl
import functools
import logging
import math
import mmap
import os
import re
import signal
import socket
import sys
import threading
import time
import types
from pathlib import Path

from gunicorn.errors import HaltServer

sys.path.insert(0, str(Path(__file__).parent))  # wherever the app of this server is
from config import ConfigError, instance_folder, sqlite_file, text_of


def _setting(name: str, default: str = "") -> str:
    try:
        return text_of(name, os.environ) or default
    except ConfigError as error:
        sys.stderr.write(f"MCP Gateway does not start: {error}\n")
        raise SystemExit(os.EX_CONFIG) from error


def _grace() -> int:
    """Seconds for a worker to finish: a renewal that is cut may cost somebody their sign-in."""
    try:
        longest = float(_setting("OAUTH_REQUEST_TIMEOUT", "30"))
    except ValueError:
        return 40  # the app says what is wrong with it, and does not start
    return max(40, math.ceil(longest) + 10) if 0 < longest <= 600 else 40


# Greenlets: a waiting call or an open event stream costs a few KiB, not a thread. `sync` serves one
# stream at a time and is refused below; gthread works while streams are fewer than its threads.
worker_class = "gevent"
# One for each core: a worker is one process that computes on one core.
workers = int(os.environ.get("WEB_CONCURRENCY") or len(os.sched_getaffinity(0)))
# Connections open at once in one worker, most of them streams that wait.
worker_connections = 5000
# Every worker imports the app itself, after gevent has patched it; a forked app would share
# database connections and connection pools.
preload_app = False

# Loopback: the way in from elsewhere is a proxy that speaks HTTPS (deploy/nginx.conf).
bind = os.environ.get("BIND", "127.0.0.1:8000")
# Seconds that an idle connection is kept. Above the proxy's own reuse time (nginx: 60 s), or it
# would now and then send a request on a connection that we are closing.
keepalive = 75
graceful_timeout = _grace()
# Seconds without a sign of life after which a worker is replaced. It watches the worker, not the
# request: those have deadlines of their own. The first start may wait for migrations, and a worker
# that ends may be silent while it finishes.
timeout = 80 + graceful_timeout

# Who may say that a browser came by HTTPS. Nobody, unless named; gunicorn would trust loopback.
forwarded_allow_ips = ",".join(_setting("TRUSTED_PROXIES").replace(",", " ").split())
# Headers that may set variables of the server: none. With the default, `SCRIPT_NAME: /x` from a
# trusted address turned the path /x/admin into the route /admin.
forwarder_headers = ""
# No socket in the home directory through which the server can be steered.
control_socket_disable = True

# No access log: the app writes a line for each request. Whoever turns it on gets paths without
# their queries, which hold the code and state of a sign-in.
accesslog = None
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s %(b)s %(L)ss'
loglevel = _setting("LOG_LEVEL", "info").lower()

_QUERY = re.compile(r"\?[^\s'\"]+")


def _without_query(record: logging.LogRecord) -> bool:
    """Nor may gunicorn's own messages name a whole URL, as the one of a crashed request does."""
    record.msg, record.args = _QUERY.sub("?…", record.getMessage()), ()
    return True


def on_starting(server) -> None:
    if server.cfg.worker_class_str == "sync":
        raise SystemExit("sync workers serve one event stream each: use gevent (or gthread).")
    if server.cfg.worker_class_str == "gthread" and server.cfg.threads < _THREADS_LEAST:
        raise SystemExit(f"gthread needs --threads {_THREADS_LEAST} or more: two stay free.")
    server.log.error_log.addFilter(_without_query)
    server.stopping = mmap.mmap(-1, 1)  # shared with the workers
    server.handle_term = functools.partial(_step_down, server)
    _be_the_only_node(server)
    on_reload(server)


def on_reload(server) -> None:
    server.worker_class = _gentle(server.worker_class)


def pre_fork(server, worker) -> None:
    worker.stopping = server.stopping


def post_worker_init(worker) -> None:
    """Ctrl-C reaches the whole process group; the master alone acts on it, and ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker.quits = False
    ours = getattr(worker.wsgi, "extensions", {})
    if "slots" in ours:
        ours["slots"].at_most(_carries(worker))
        ours["draining"].server_stops = lambda: worker.stopping[0] != 0 or worker.quits
        threading.Thread(target=_end_calls, args=(worker, ours["draining"]), daemon=True).start()
        from app import housekeeping  # here, as gevent has patched by now

        housekeeping.start(worker.wsgi.app_context, is_needed=lambda: worker.alive)


def worker_int(worker) -> None:
    """It is to end at once (SIGINT or SIGQUIT to the master): calls are cut, and no more begin."""
    worker.quits = True


# -- how many calls -------------------------------------------------------------------------------

_THREADS_FREE = 2  # for pages, while calls and streams have all the others
_THREADS_LEAST = _THREADS_FREE + 2


def _carries(worker) -> int:
    """Calls at once."""
    if worker.cfg.worker_class_str == "gthread":
        return worker.cfg.threads - _THREADS_FREE
    return max(1, worker.cfg.worker_connections - max(10, worker.cfg.worker_connections // 10))


# -- how it ends (app/draining.py) ----------------------------------------------------------------

# Seconds between "/ready says no" and "nobody listens", for a balancer to notice.
STOP_NOTICE = float(os.environ.get("STOP_NOTICE") or 1)
_LAST_WORDS = 5  # seconds before a worker is killed, to tell those who still wait
_LINGER = 2  # seconds that a quiet connection stays: a request may be on its way
_LAST_GUESTS = 1000  # who is let in while the doors close; clients may come without end


def _step_down(server) -> None:
    """SIGTERM to the master. A second signal cuts the notice short."""
    server.stopping[0] = 1
    give_up = time.monotonic() + STOP_NOTICE
    while time.monotonic() < give_up and server.SIG_QUEUE.empty():
        time.sleep(0.05)
    raise StopIteration  # as gunicorn does: stop listening, end the workers


def _end_calls(worker, draining) -> None:
    while worker.alive:
        time.sleep(0.2)
    worker.ends = time.monotonic() + worker.cfg.graceful_timeout
    draining.finish(worker.cfg.graceful_timeout - _LAST_WORDS)


class _QuietGreenlets:
    """gunicorn would wait for idle connections as for calls: its whole graceful time for each."""

    def patch(self) -> None:
        super().patch()
        self.doors = [(one.getsockname(), os.dup(one.fileno())) for one in self.sockets]

    def run(self) -> None:
        self.quiet, self.guests = set(), []
        threading.Thread(target=self.close_quiet, daemon=True).start()
        doorkeeper = threading.Thread(target=self.welcome_last, daemon=True)
        doorkeeper.start()
        super().run()
        doorkeeper.join()
        give_up = time.monotonic() + self.cfg.graceful_timeout - _LAST_WORDS
        for guest in self.guests:
            guest.join(max(0.0, give_up - time.monotonic()))

    def welcome_last(self) -> None:
        """Who is connected when the doors close gets an answer; the system would reset them."""
        while self.alive:
            time.sleep(0.2)
        doors = [(name, socket.socket(fileno=number)) for name, number in self.doors]
        give_up = time.monotonic() + 1.5  # gunicorn itself closes within a second
        while time.monotonic() < give_up:
            for name, listener in doors:
                self.welcome(types.SimpleNamespace(getsockname=lambda name=name: name), listener)
            time.sleep(0.05)
        for name, listener in doors:
            self.welcome(types.SimpleNamespace(getsockname=lambda name=name: name), listener)
            listener.close()

    def welcome(self, door, listener) -> None:
        listener.setblocking(False)
        with contextlib.suppress(OSError):  # nobody is left
            while len(self.guests) < _LAST_GUESTS:
                guest = threading.Thread(target=self.handle, args=(door, *listener.accept()))
                self.guests.append(guest)
                guest.start()

    def handle(self, listener, client, addr) -> None:
        self.quiet.add(client)
        try:
            super().handle(listener, client, addr)
        finally:
            self.quiet.discard(client)

    def handle_request(self, listener_name, req, sock, addr):
        self.quiet.discard(sock)
        try:
            return super().handle_request(listener_name, req, sock, addr)
        finally:
            self.quiet.add(sock)

    def close_quiet(self) -> None:
        """They can be read to their end: a request that came already is still answered."""
        while self.alive:
            time.sleep(0.2)
        time.sleep(_LINGER)
        while True:
            for client in list(self.quiet):
                with contextlib.suppress(OSError):  # gone already
                    with socket.socket(fileno=os.dup(client.fileno())) as handle:
                        handle.shutdown(socket.SHUT_RD)
            time.sleep(0.2)


class _OpenThreads:
    """gunicorn would keep listening while it stops, and answer nobody: new clients would hang."""

    def set_accept_enabled(self, enabled) -> None:
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            self.until = time.monotonic() + _LINGER
            for listener in self.sockets:
                self.welcome_last(listener)
                listener.close()

    def accept(self, listener) -> None:
        """gunicorn's worker would end, with its calls, when it has no handle to spare (F-43)."""
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            self.log.warning("no new connection: %s", error.strerror)
            if self.alive:
                self.set_accept_enabled(False)  # for a second at most

    def welcome_last(self, listener) -> None:
        """Who is connected already gets an answer."""
        for _ in range(_LAST_GUESTS):
            before = self.nr_conns
            self.accept(listener)
            if self.nr_conns == before:
                return

    def murder_pending(self) -> None:
        """Those that never sent a byte."""
        if not self.alive:
            for conn in self.pending_conns:
                conn.timeout = min(conn.timeout, self.until)
        super().murder_pending()


_GENTLE = {"GeventWorker": _QuietGreenlets, "ThreadWorker": _OpenThreads}


def _gentle(kind):
    """gunicorn's class of workers, ending connections as we like."""
    ours = _GENTLE.get(kind.__name__)
    return kind if ours is None else type(kind.__name__, (ours, kind), {})


# -- one node on SQLite ---------------------------------------------------------------------------

_PATIENCE = 8  # seconds, for the workers of a server that was killed to find out


def _be_the_only_node(server) -> None:
    """Two servers on one SQLite file would each count, renew and clean up as if alone.

    The lock is the master's and, by fork, its workers'; the commands take none.
    """
    home = instance_folder(_setting("INSTANCE_DIR"))
    path = sqlite_file(_setting("DATABASE_URL"), home)
    if path is None or "GUNICORN_PID" in os.environ:
        return  # the last: of a server that replaces itself (SIGUSR2), and hands its lock on
    if path.parent == home:
        home.mkdir(mode=0o700, exist_ok=True)
    if not path.parent.is_dir():
        return  # the app says so, and does not start
    server.node = open(f"{path}.node", "w", encoding="utf-8")
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(server.node, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                said = f"another server uses {path}. For more than one node set DATABASE_URL to "
                sys.stderr.write(f"MCP Gateway does not start: {said}a PostgreSQL.\n")
                raise SystemExit(os.EX_TEMPFAIL) from None  # they may yet be about to end
        time.sleep(0.2)


def pre_exec(server) -> None:
    if hasattr(server, "node"):
        os.set_inheritable(server.node.fileno(), True)


# wsgi.py ends a worker with EX_CONFIG when a setting cannot be right. Every further one would end
# likewise, and gunicorn would start them for ever: so the server ends, too, with the same status.
_hopeless = mmap.mmap(-1, 1)  # shared by the master and its workers


def worker_exit(server, worker) -> None:
    error = sys.exception()
    if isinstance(error, SystemExit) and error.code == os.EX_CONFIG:
        _hopeless[0] = 1
    ours = getattr(getattr(worker, "wsgi", None), "extensions", {})
    if "draining" in ours:
        ends = getattr(worker, "ends", time.monotonic() + worker.cfg.graceful_timeout)
        ours["draining"].wait(max(0.0, ends - time.monotonic() - 1))


def child_exit(server, worker) -> None:
    if _hopeless[0] and not getattr(server, "gave_up", False):
        server.gave_up = True  # once: the others end while the server does
        raise HaltServer("A setting cannot be right.", os.EX_CONFIG)
