"""The rules that a machine can keep, for the whole tree of the design, built or not."""

import ast
import re
from pathlib import Path

import pytest

APP = Path(__file__).parents[1] / "app"

LEVELS = [  # a module imports from the lines above its own, never from its own or a later one
    "errors addresses exchanges processes sqlite postgres logs states strict_json mcp.hangup",
    "db draining slots metrics certificates oauth.signing oauth.refusals mcp.jsonrpc",
    "models passwords secretbox egress specs oauth.replies oauth.callback oauth.challenge mcp.wire",
    "about steps doubts tool_specs",
    "schema trust schedule chain oauth.revoking oauth.breaker oauth.discovered oauth.template_file",
    "edits",
    "audit access throttle limits watching oauth.client oauth.places oauth.templates mcp.sse",
    "connections tool_standing oauth.timeline oauth.metadata oauth.fetching",
    "oauth.knocking oauth.moves",
    "oauth.discovery oauth.enrolling",
    "activity api_tokens overview sessions keys oauth.registration oauth.sharing oauth.ladder"
    " oauth.freshness mcp.upstream mcp.memory mcp.handles mcp.health",
    "opening oauth.trying oauth.asking oauth.revocation mcp.turn mcp.answers mcp.stand_in",
    "oauth.row",
    "oauth.lease",
    "oauth.spool",
    "resealing oauth.refresh mcp.catalog mcp.bridge",
    "oauth.keeping oauth.stepping",
    "oauth.rediscovery oauth.registering",
    "oauth.tokens oauth.parked oauth.keep_alive",
    "aftermath recovery",
    "oauth.flow people gateways mcp.operation last_sign_in",
    "mcp.consent mcp.client setup proposals tool_configs",
    "mcp.through mcp.greeting mcp.opening drafts",
    "mcp.onward",
    "mcp.relay",
    "authz checks cleanup health mcp.aggregate",
    "check_runs",
    "housekeeping",
    "cli web",
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names.split()}
TOGETHER = {"models", "authz", "cli", "web"}  # packages whose modules may import each other

ONLY = {  # what is imported -> the only modules that may
    "socket urllib3": "egress",
    "ssl": "egress certificates",
    "requests requests_oauthlib oauthlib": "egress oauth.client oauth.fetching oauth.replies",
    "cryptography": "secretbox certificates oauth.signing",  # which are read by nothing else here
    "pydantic": "specs tool_specs",
    "argon2 gevent": "passwords",
    "authlib": "authz",
    "flask click": "web cli",
    "alembic flask_migrate": "schema",
    "flask_wtf wtforms werkzeug": "web",
    "app.egress": "oauth.client oauth.fetching oauth.registration mcp.upstream checks authz",
}
OAUTH_SEALERS = "tokens refresh lease flow registration registering parked revocation spool"
SEALERS = {
    *("chain", "gateways", "keys", "resealing", "trust"),
    *(f"oauth.{name}" for name in OAUTH_SEALERS.split()),
}
ROWLESS = {
    *("errors secretbox egress specs mcp.wire mcp.sse".split()),
    *("oauth.client oauth.replies oauth.revoking".split()),
}


def name(path: Path) -> str:
    return ".".join(path.relative_to(APP).with_suffix("").parts).removesuffix("__init__").strip(".")


def place(module: str) -> str:
    """The entry of LEVELS for `module`: itself or the package around it."""
    while module and module not in LEVEL:
        module = module.rpartition(".")[0]
    return module


def imports(path: Path) -> set[str]:
    """Every imported name, in full."""
    package, found = ["app", *path.relative_to(APP).parent.parts], set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*base, *filter(None, [node.module])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


CORE_MAY = {
    "flask.current_app",
    "flask_migrate.Migrate",
    *(f"urllib3.{name}" for name in ("BaseHTTPResponse",)),  # a type, for mcp.upstream
    "requests.Response",  # the same, for oauth.trying
}

modules = pytest.mark.parametrize("path", sorted(APP.rglob("*.py")), ids=name)


@modules
def test_imports_go_one_way(path):
    here = place(name(path))
    for imported in (name for name in imports(path) if here and name.startswith("app.")):
        there = place(imported.removeprefix("app."))
        assert there in LEVEL, f"{imported} has no place in LEVELS"
        assert LEVEL[there] < LEVEL[here] or there == here in TOGETHER, imported
        assert not (here in ROWLESS and there in ("db", "models")), imported


@modules
def test_few_modules_touch_what_is_dangerous(path):
    here = place(name(path))
    for imported in imports(path) - CORE_MAY if here else ():
        for things, allowed in ONLY.items():
            if any(f"{imported}.".startswith(f"{thing}.") for thing in things.split()):
                assert here in allowed.split(), imported
        assert not (here in ROWLESS | {"web"} and imported.startswith("sqlalchemy")), imported


@modules
def test_few_modules_open_secrets(path):
    text, here = path.read_text(), name(path)
    anyone = {"seal_handle", "open_handle"} | ({"reseal"} if here == "housekeeping" else set())
    assert set(re.findall(r"\bbox\(\)\.(\w+)", text)) <= anyone or here in SEALERS
    assert not here or not re.search(r"os\.environ|getenv", text)  # config.py reads it


LONGER: dict[str, str] = {
    "activity": "every action that is recorded with its words, side by side",
    "oauth.registering": "one row from its lease to its end, and all that changes it",
    "access": "who may see and use what, and how they stand with it: one set of reads",
    "oauth.lease": "every change of a connection that renewing makes, side by side",
    "oauth.client": "all that is asked of a provider goes out one way",
    "checks": "the steps of a check, side by side, as they share what the ones before found",
    "housekeeping": "one keeper and the table of its chores, which grows by a line for each",
    "egress": "one door: guard, deadline and pools share the pinned connection",
    "oauth.revocation": "what puts tokens by and what asks for them share a row and its secrets",
    "oauth.flow": "one consent from begin to end; the rungs of its ladder are apart already",
    "web.admin.gateway_form": "the fields of one form, and what they send",
    "gateways": "one record: checked, written, read back, edited and deleted by the same rules",
    "specs": "every field an admin can set, in one place",
}  # "module" or "module:function" -> why it may be long


@modules
def test_what_is_long_says_why(path):
    if len(path.read_text().splitlines()) > 300:
        assert name(path) in LONGER
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and node.body[1:] else node.body
            length = node.end_lineno - body[0].lineno + 1
            assert length <= 40 or f"{name(path)}:{node.name}" in LONGER
