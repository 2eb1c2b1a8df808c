"""What `make lint` runs beside ruff and mypy finds what it is there for."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".venv/lint/bin"
RULES = ROOT / "tests/semgrep.yml"

# Each line is one program: what it must find, or nothing. `§` parts rule and text.
PYTHON = """
http-client-outside-egress § import requests; requests.get(url, timeout=5)
http-client-outside-egress § import requests; requests.Session()
http-client-outside-egress § import urllib3; urllib3.PoolManager()
http-client-outside-egress § import urllib.request; urllib.request.urlopen(url)
http-client-outside-egress § import http.client; http.client.HTTPSConnection(host)
http-client-outside-egress § import socket; socket.create_connection((host, 443))
http-client-outside-egress § import httpx
http-client-outside-egress § from aiohttp import ClientSession
verification-off § session.get(url, verify=False)
verification-off § session.verify = False
verification-off § context.check_hostname = False
verification-off § import ssl; context.verify_mode = ssl.CERT_NONE
verification-off § pool = connect(host, cert_reqs="CERT_NONE")
secret-in-log § log.info("got %s", token)
secret-in-log § log.warning("got %s for %s", name, tokens.access_token)
secret-in-log § logger.error(f"it is {self.client_secret}")
secret-in-log § log.info("x", extra={"facts": {"who": who, "key": password}})
secret-in-log § logging.debug(code_verifier)
redirect-to-request-data § from flask import redirect, request; redirect(request.args["next"])
redirect-to-request-data § from flask import redirect, request; redirect(f"{request.referrer}")
markup-of-a-value § from markupsafe import Markup; Markup(description)
markup-of-a-value § from markupsafe import Markup; Markup(f"<b>{name}</b>")
secret-compared § ok = token == shown
secret-compared § ok = row.client_secret != given
secret-compared § ok = given == form.password
secret-compared § ok = signature == made
 § import requests; adapter = requests.adapters.HTTPAdapter()
 § session.get(url, verify=bundle)
 § log.info("token %s was revoked", token_id)
 § log.info("%s", error.code, extra={"facts": {"request_id": request_id}})
 § from flask import redirect, url_for; redirect(url_for(".show", slug=slug), 303)
 § from flask import redirect, request; redirect(where.own_path(request.args["next"]))
 § from markupsafe import Markup; Markup("<b>{}</b>").format(name)
 § import hmac; ok = hmac.compare_digest(token, shown)
 § query = select(t).where(t.token_hash == token_hash)
 § ok = token == ""
"""
HTML = """
unescaped-in-template § <p>{{ description|safe }}</p>
unescaped-in-template § <p>{{ description | safe }}</p>
unescaped-in-template § {% autoescape false %}{{ x }}{% endautoescape %}
inline-script-or-handler § <script>go()</script>
inline-script-or-handler § <button type="button" onclick="go()">Go</button>
inline-script-or-handler § <img src="x" onerror=go()>
inline-script-or-handler § <p style="color:red">x</p>
inline-script-or-handler § <style>p{}</style>
inline-script-or-handler § <a href="javascript:go()">x</a>
 § <script src="/static/app.js" defer></script>
 § <p class="safe">{{ unsafe }}</p>
 § <input name="one" value="on = off">
"""


def read(lines: str) -> list[tuple[str, str]]:
    parted = (line.split(" § ") for line in lines.strip("\n").splitlines())
    return [(rule.strip(), text) for rule, text in parted]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, set[str]]:
    """Every planted line, in a file of its own, with the rules that found it; and the product.

    One run for all, because a run takes seconds.
    """
    folder = tmp_path_factory.mktemp("planted")
    for kind, lines in (("py", PYTHON), ("html", HTML)):
        (folder / kind).mkdir()
        for number, (_, text) in enumerate(read(lines)):
            (folder / kind / f"{number}.{kind}").write_text(text.replace("; ", "\n") + "\n")
    (folder / "app").mkdir()
    (folder / "app/egress.py").write_text("import socket\nsocket.create_connection(x)\n")
    command = [TOOLS / "semgrep", "scan", "--json", "--quiet", "--metrics=off"]
    command += ["--disable-version-check", "--config", RULES, "py", "html", "app"]
    command += [ROOT / "app", ROOT / "templates"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    said = json.loads(done.stdout)
    assert not said["errors"], said["errors"]
    rules: dict[str, set[str]] = {}
    for one in said["results"]:
        rules.setdefault(one["path"], set()).add(one["check_id"].rpartition(".")[2])
    assert str(ROOT / "app/egress.py") in said["paths"]["scanned"]
    return rules


@pytest.mark.parametrize(
    ("file", "rule"),
    [
        (f"{kind}/{number}.{kind}", rule)
        for kind, lines in (("py", PYTHON), ("html", HTML))
        for number, (rule, _) in enumerate(read(lines))
    ],
)
def test_a_planted_line_is_found_and_a_good_one_is_not(found, file, rule):
    assert found.get(file, set()) == ({rule} if rule else set())


def test_the_one_way_out_may_open_sockets(found):
    assert "app/egress.py" not in found


def test_every_rule_has_a_planted_line():
    rules = {rule["id"] for rule in yaml.safe_load(RULES.read_text())["rules"]}
    assert rules == {rule for rule, _ in [*read(PYTHON), *read(HTML)] if rule}


def test_sec_074_no_secret_is_compared_letter_by_letter(found):
    """The rule finds such lines, and finds none in the product."""
    assert sum("secret-compared" in rules for rules in found.values()) == 4
    assert not [path for path in found if path.startswith(str(ROOT))]


def test_bandit_finds_what_ruff_leaves(tmp_path):
    (tmp_path / "x.py").write_text("import hashlib\nhashlib.md5(b'')\neval(input())\n")
    ran = subprocess.run(
        [TOOLS / "bandit", "-q", "-r", tmp_path, "-ll"], capture_output=True, text=True
    )
    assert ran.returncode == 1 and "B324" in ran.stdout and "B307" in ran.stdout


@pytest.mark.parametrize(
    "secret",
    [
        "-----BEGIN RSA PRIVATE " + "KEY-----",
        "key = 'AKIA" + "QWERTYUIOPASDFGH'",
        "key = 'ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a'",
    ],
)
def test_a_committed_secret_is_found(tmp_path, secret):
    (tmp_path / "x.py").write_text(secret + "\n")
    ran = subprocess.run(
        [ROOT / "tests/lint/secrets", tmp_path / "x.py"], capture_output=True, text=True
    )
    assert ran.returncode == 1 and "x.py:1" in ran.stdout


def test_what_only_looks_like_a_secret_may_move_to_another_line():
    before = (ROOT / ".secrets.baseline").read_text()
    ran = subprocess.run([ROOT / "tests/lint/secrets", "app/setup.py"], cwd=ROOT)
    assert ran.returncode == 0 and (ROOT / ".secrets.baseline").read_text() == before
