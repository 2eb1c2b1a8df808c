"""Provider templates: what each file says is read, checked and used."""

import json
import re
from types import SimpleNamespace

import pytest
import yaml

from app import _check_templates
from app.errors import Invalid, NotFound
from app.oauth import template_file, templates
from app.oauth.template_file import BadTemplate
from app.specs import GatewaySpec, OAuthConfigSpec, read
from config import ConfigError
from tests.test_docs import assert_plain

EVERY = templates.every()
NAMES = (
    "github google entra atlassian slack notion linear gitlab auth0 okta keycloak salesforce"
    " hubspot figma dropbox oidc oidc-machine"
)
SET_UPS = [
    (one.id, api, grant)
    for one in EVERY.values()
    for api in ([False, True] if one.api is not None else [False])
    for grant in one.grants
]
every = pytest.mark.parametrize("one", EVERY.values(), ids=EVERY)


def examples(template_id: str, *, api: bool = False) -> dict[str, str]:
    asked = templates.find(template_id).asks(api=api)
    return {name: var.example for name, var in asked.items()}


def test_every_provider_of_the_design_is_there():
    assert sorted(EVERY) == sorted(NAMES.split())


@pytest.mark.parametrize(("template_id", "api", "grant"), SET_UPS)
def test_every_template_loads_and_is_used(template_id, api, grant):
    """Filled with its examples it is a record, and all that the file sets stands in it."""
    template = templates.find(template_id)
    values = examples(template_id, api=api)
    patch = templates.fill(template_id, values, api=api, grant=grant)
    chosen = patch["oauth_config"] | {
        "client_id": "cid",
        "client_secret": "s3cret",
        "token_endpoint_auth_method": patch["oauth_config"].get(
            "token_endpoint_auth_method", "auto"
        ),
    }
    addresses = {"authorization_url": "https://as.test/go", "token_url": "https://as.test/token"}
    record = {"name": "x", "url": "https://mcp.test/mcp", **patch}
    spec = read(GatewaySpec, record | {"oauth_config": addresses | chosen}).oauth_config
    settings = spec.settings()
    said = templates.filled(template.settings(api=api), values)
    assert all(templates._says(settings[name], value) for name, value in said.items())
    assert (spec.template, spec.template_version) == (template_id, template.version)
    assert not re.search(r"\{(?!client_id\b)\w+\}", json.dumps(patch))


@every
def test_q17_what_a_template_says_is_short_and_plain(one):
    for text in (*one.steps, *one.why.values(), *one.check, *(v.label for v in one.vars.values())):
        assert_plain(text)
        assert text.isascii()


@every
def test_a_template_shows_the_address_to_paste_once(one):
    told = sum("{redirect}" in step for step in one.steps)
    assert told == ("authorization_code" in one.grants)


@every
def test_what_is_odd_has_its_reason(one):
    odd = {"resource", "pkce", "scope_param", "refresh_url", "token_request_format", "reply"}
    for chosen in filter(None, (one.config, one.api)):
        assert odd & chosen.keys() <= one.why.keys()


# -- bad files -----------------------------------------------------------------------------------

GOOD = """\
id: acme
name: Acme
version: 1
checked: null
register: [manual]
vars:
  host:
    label: Host
    pattern: "[a-z.]+"
    example: acme.test
config:
  token_url: https://{host}/token
  authorization_url: https://{host}/go
  reply:
    form: true
errors:
  odd: code_rejected
steps:
  - Enter {redirect}
"""


def bad(tmp_path, text: str) -> str:
    (tmp_path / "acme.yaml").write_text(text)
    with pytest.raises(BadTemplate) as caught:
        template_file.read(tmp_path / "acme.yaml")
    return str(caught.value)


def test_the_sample_is_good(tmp_path):
    (tmp_path / "acme.yaml").write_text(GOOD)
    assert template_file.read(tmp_path / "acme.yaml")["name"] == "Acme"


@pytest.mark.parametrize(
    ("old", "new", "line", "key"),
    [
        ("name: Acme", "nmae: Acme", 2, "nmae: There is no such key"),
        ("    form: true", "    from: true", 15, "config.reply.from: There is no such field"),
        ("    form: true", "    form: 3", 15, "config.reply.form: This must be true or false"),
        ("version: 1", "version: one", 3, "version: This must be a whole number"),
        ("version: 1\n", "", 1, "version: This is required"),
        ("checked: null", "checked: lately", 4, "checked: This must be a date"),
        ("[manual]", "[magic]", 5, "register: This must be a list of some of: cimd"),
        ("    label: Host\n", "", 7, "vars.host.label: This is required"),
        ("[a-z.]+", "[a-z", 9, "vars.host.pattern: This is no regular expression"),
        ("acme.test", "ACME", 10, "vars.host.example: This does not fit"),
        ("https://{host}/token", "ftp://{host}/t", 12, "config.token_url: Start with https"),
        ("https://{host}/token", "https://{hots}/", 12, "config.token_url: Nothing fills {hots}"),
        ("code_rejected", "no_such_code", 17, "errors.odd: no_such_code is no code"),
        ("{redirect}", "{where}", 19, "steps.0: Nothing fills {where}"),
        ("id: acme", "id: acne", 1, "id: This must be the name of the file"),
        ("config:\n", "config:\n  client_id: x\n", 12, "config.client_id: This belongs to one"),
        ("    form: true", "    form: true\n    form: false", 16, "config.reply.form: This stands"),
        ("errors:", "why: {nope: x}\nerrors:", 16, "why.nope: There is no such field"),
        ("register:", "life: {end: 3}\nregister:", 5, "life.end: There is no such key"),
    ],
)
def test_a_bad_template_names_file_line_and_key(tmp_path, old, new, line, key):
    assert old in GOOD
    said = bad(tmp_path, GOOD.replace(old, new, 1))
    assert said.startswith(f"acme.yaml, line {line}: {key}"), said


@pytest.mark.parametrize("text", ["", "- a", "a: [", "id: acme\n\tname: x", "x"])
def test_a_file_that_is_no_object_is_said_so(tmp_path, text):
    assert bad(tmp_path, text).startswith("acme.yaml, line ")


def test_a_bad_template_stops_the_start(tmp_path):
    (tmp_path / "acme.yaml").write_text(GOOD.replace("form: true", "from: true"))
    with pytest.raises(ConfigError, match=r"acme.yaml, line 15: config.reply.from: There is no"):
        _check_templates(lambda: template_file.read(tmp_path / "acme.yaml"))


# -- filling in ----------------------------------------------------------------------------------


def test_a_template_asks_for_what_it_needs():
    with pytest.raises(Invalid) as caught:
        templates.fill("entra", {"tenant": "acme", "realm": "x"}, grant="password")
    assert caught.value.fields.keys() == {"vars.tenant", "vars.app", "vars.realm", "grant"}
    assert "Directory (tenant) ID" in caught.value.fields["vars.tenant"]


def test_no_value_changes_more_than_its_place():
    """A host may not smuggle in a path, a user or another host."""
    for text in ("evil.test/x", "a@evil.test", "evil.test#", "evil.test?", "a b", "", "{host}"):
        with pytest.raises(Invalid):
            templates.fill("gitlab", {"host": text})


def test_what_we_fill_in_later_stays():
    chosen = templates.fill("github", {})["oauth_config"]
    assert chosen["revocation_url"].endswith("/{client_id}/token")


def test_the_vendors_server_and_one_of_our_own_differ():
    theirs, ours = (templates.fill("notion", {}, api=api) for api in (False, True))
    assert theirs["url"] == "https://mcp.notion.com/mcp" and "url" not in ours
    assert ours["oauth_config"]["token_request_format"] == "json"
    assert "token_url" not in theirs["oauth_config"]


def test_an_unknown_template_is_not_found():
    with pytest.raises(NotFound):
        templates.fill("nope", {})


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("mcp.slack.com", "slack"),
        ("MCP.Slack.com", "slack"),
        ("storage.googleapis.com", "google"),
        ("api.githubcopilot.com", "github"),
        ("mcp.slack.com.evil.test", None),
        ("slack.com", None),
        ("", None),
    ],
)
def test_a_host_suggests_its_template(host, found):
    suggested = templates.for_host(host)
    assert (suggested.id if suggested else None) == found


@pytest.mark.parametrize(
    ("host", "page"),
    [
        ("auth.atlassian.com", "https://id.atlassian.com/manage-profile/apps"),
        ("mcp.atlassian.com", "https://id.atlassian.com/manage-profile/apps"),
        ("login.microsoftonline.com", "https://myapps.microsoft.com"),
        ("github.com", "https://github.com/settings/applications"),
        ("slack.com", None),
        ("", None),
        ("evil.test", None),
    ],
)
def test_where_there_is_no_revoke_people_are_shown_the_page(host, page):
    assert templates.leave_page(host) == page


# -- a newer version -----------------------------------------------------------------------------


def stored(template_id: str, *, api: bool = False, version: int = 0, **more) -> SimpleNamespace:
    patch = templates.fill(template_id, examples(template_id, api=api), api=api)["oauth_config"]
    spec = OAuthConfigSpec.model_validate(patch | more)
    return SimpleNamespace(settings=spec.settings(), template=template_id, template_version=version)


@pytest.mark.parametrize(("template_id", "api", "grant"), SET_UPS)
def test_what_was_copied_and_left_alone_does_not_differ(template_id, api, grant):
    assert templates.differs(stored(template_id, api=api)) == ()


def test_a_newer_version_says_what_it_would_change():
    old = stored("entra", resource="auto", pkce="required")
    changes = {one.field: (one.now, one.then) for one in templates.differs(old)}
    assert changes == {"resource": ("auto", "never"), "pkce": ("required", "unadvertised")}
    assert templates.newer(old)["oauth_config"]["resource"] == "never"
    assert templates.newer(old)["oauth_config"]["template_version"] == 1


def test_the_same_version_changes_nothing_though_an_admin_did():
    assert templates.differs(stored("entra", version=1, resource="auto")) == ()
    assert templates.newer(stored("entra", version=1, resource="auto")) == {}


def test_a_field_whose_value_cannot_be_read_off_is_left_alone():
    own = stored("gitlab", issuer="https://git.acme.test", scopes=["api"])
    own.settings |= {"authorization_url": "https://other.test/go"}
    changed = {one.field for one in templates.differs(own)}
    assert "scopes" in changed and "issuer" not in changed


def test_a_template_that_is_gone_is_no_failure():
    gone = stored("github")
    gone.template = "nope"
    assert templates.of(gone) is None and templates.differs(gone) == ()


def test_the_files_hold_nothing_that_yaml_reads_otherwise():
    """Such as `no` for Norway: what the checker read is what the loader reads."""
    for path in templates.PROVIDERS.glob("*.yaml"):
        assert template_file.read(path) == yaml.safe_load(path.read_text())
