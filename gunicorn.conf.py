"""How gunicorn runs the gateway: `gunicorn wsgi:app` in this folder reads this file.

Everything about the product itself is in config.py. From the environment this file takes
WEB_CONCURRENCY (workers), BIND and TRUSTED_PROXIES.
"""

import logging
import mmap
import os
import re
import signal
import sys

from gunicorn.errors import HaltServer

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
# Seconds without a sign of life after which a worker is replaced. It watches the worker, not the
# request: those have deadlines of their own. The first start may wait for migrations.
timeout = 120
# Seconds that open requests get after SIGTERM.
graceful_timeout = 30

# Who may say that a browser came by HTTPS. Nobody, unless named; gunicorn would trust loopback.
forwarded_allow_ips = ",".join(os.environ.get("TRUSTED_PROXIES", "").replace(",", " ").split())
# Headers that may set variables of the server: none. With the default, `SCRIPT_NAME: /x` from a
# trusted address turned the path /x/admin into the route /admin.
forwarder_headers = ""
# No socket in the home directory through which the server can be steered.
control_socket_disable = True

# No access log: the app writes a line for each request. Whoever turns it on gets paths without
# their queries, which hold the code and state of a sign-in.
accesslog = None
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s %(b)s %(L)ss'
loglevel = os.environ.get("LOG_LEVEL", "info").lower()

_QUERY = re.compile(r"\?[^\s'\"]+")


def _without_query(record: logging.LogRecord) -> bool:
    """Nor may gunicorn's own messages name a whole URL, as the one of a crashed request does."""
    record.msg, record.args = _QUERY.sub("?…", record.getMessage()), ()
    return True


def on_starting(server) -> None:
    if server.cfg.worker_class_str == "sync":
        raise SystemExit("sync workers serve one event stream each: use gevent (or gthread).")
    server.log.error_log.addFilter(_without_query)


def post_worker_init(worker) -> None:
    """Ctrl-C reaches the whole process group; the master alone acts on it, and ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(worker.wsgi, "app_context"):
        from app import housekeeping  # here, as gevent has patched by now

        housekeeping.start(worker.wsgi.app_context)


# wsgi.py ends a worker with EX_CONFIG when a setting cannot be right. Every further one would end
# likewise, and gunicorn would start them for ever: so the server ends, too, with the same status.
_hopeless = mmap.mmap(-1, 1)  # shared by the master and its workers


def worker_exit(server, worker) -> None:
    error = sys.exception()
    if isinstance(error, SystemExit) and error.code == os.EX_CONFIG:
        _hopeless[0] = 1


def child_exit(server, worker) -> None:
    if _hopeless[0] and not getattr(server, "gave_up", False):
        server.gave_up = True  # once: the others end while the server does
        raise HaltServer("A setting cannot be right.", os.EX_CONFIG)
