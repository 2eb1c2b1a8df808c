"""Start and stop the rigs from a test.

    home = Path(".rigs")  # the folder which `setup` filled
    with oidc_provider(home, at_ttl=4) as op, mcp_server(home, issuer=op.url) as server:
        op.debug("config", {"resources": [server.url]})

A rig also ends when the process that started it does, however that happens (--with-parent).
"""

import atexit
import functools
import json
import os
import shutil
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e.rigs.forks import Forks
from tests.process import Program

HERE = Path(__file__).resolve().parent


class Rig(Program):
    """A server that prints `READY <url>` once it listens."""

    def __init__(self, command, **popen):
        super().__init__(command, **popen)
        self.url = self.wait_for(r"^READY (\S+)$")[1]

    @property
    def base(self):
        at = urlsplit(self.url)
        return f"{at.scheme}://{at.netloc}"

    def debug(self, what, body=None):
        """GET /debug/<what>, or POST a JSON body to it."""
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.base}/debug/{what}", data=data, timeout=10) as answer:
            return json.load(answer)


def _flags(options):
    """at_ttl=4 -> --at-ttl=4; True -> the bare flag; None and False are left out."""
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            yield flag
        elif value is not None and value is not False:
            yield f"{flag}={value if isinstance(value, str | int | float) else ' '.join(value)}"


def _node(home):
    """The node which `setup` chose, else the one on PATH."""
    own = Path(home, "bin", "node")
    return own if own.exists() else shutil.which("node")


def _node_rig(home, script, options):
    modules = f"--modules={Path(home, 'node')}"
    return Rig([_node(home), HERE / script, modules, "--with-parent", *_flags(options)])


def _python_rig(home, script, flags):
    return Rig([HERE / script, "--with-parent", *flags], forks=sdk(home), env=os.environ)


def oidc_provider(home, **options):
    """npm oidc-provider: the authorization server."""
    return _node_rig(home, "oidc_provider.mjs", options)


def everything_sse(home):
    """npm server-everything on the old HTTP+SSE transport; it asks for no token."""
    return _node_rig(home, "everything_sse.mjs", {})


def ts_oauth(home):
    """The TypeScript SDK's example server with --oauth, and its authorization server."""
    return _node_rig(home, "ts_oauth.mjs", {})


def simple_auth(home, **options):
    """The MCP Python SDK's example simple-auth: an authorization server and a resource server."""
    examples = f"--examples={Path(home, 'examples')}"
    return _python_rig(home, "simple_auth.py", [examples, *_flags(options)])


def fastmcp(home):
    """FastMCP, with its own OAuth provider."""
    return _python_rig(home, "fastmcp_server.py", [])


def mcp_server(home, **options):
    """The MCP Python SDK's server, which wants the tokens of `issuer`."""
    return _python_rig(home, "mcp_server.py", _flags(options))


@functools.cache
def sdk(home):
    """What runs all that imports the MCP SDK, which takes most of the time of a short program."""
    client = ["mcp.client.auth", "mcp.client.sse", "mcp.client.streamable_http", "requests"]
    server = ["mcp.server.mcpserver", "mcp.server.auth.settings", "uvicorn.lifespan.on", "jwt"]
    served = ["uvicorn.loops.auto", "uvicorn.protocols.http.auto", "starlette.responses"]
    python = Path(home, "venv", "bin", "python")
    forks = Forks(python, warm=[*client, *server, *served], cwd=HERE)
    atexit.register(forks.close)
    return forks


def probe(home, url, *what, **options):
    """One run of the MCP Python SDK's client (mcp_probe.py); what it found, as JSON."""
    command = [str(HERE / "mcp_probe.py"), url, *what, *_flags(options)]
    done = sdk(home).run(command, env=os.environ)
    if not done.stdout:
        raise RuntimeError(f"the MCP client failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)
