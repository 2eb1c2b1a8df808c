"""flask providers: what is known, and a record that flask gateways add takes."""

import json

import pytest

from app.models import Gateway, OAuthConfig
from app.oauth import templates
from tests.conftest import rows

ENTRA = ("--var", "tenant=" + "0" * 36, "--var", "app=api://x")


@pytest.fixture
def run(app):
    def run(*args, stdin=None):
        return app.test_cli_runner().invoke(args=[*args], input=stdin)

    return run


def test_every_template_is_listed(run):
    listed = [line.split("\t")[0] for line in run("providers", "list").output.splitlines()]
    assert sorted(listed) == sorted(templates.every())


@pytest.mark.parametrize(
    ("template_id", "options", "redirect"),
    [
        ("github", (), "https://gw.test/oauth/callback/github"),
        ("entra", (*ENTRA, "--url", "https://mcp.acme.test/mcp"), "https://gw.test/oauth/callback"),
        ("google", ("--name", "Drive"), "https://gw.test/oauth/callback"),
        ("notion", ("--api",), "https://gw.test/oauth/callback"),
        ("oidc-machine", ("--var", "token_url=https://sso.test/token"), None),
    ],
)
def test_what_is_shown_can_be_added(app, run, template_id, options, redirect):
    shown = run("providers", "show", template_id, *options)
    assert shown.exit_code == 0, shown.output
    record = json.loads(shown.stdout)
    if redirect is not None:
        assert f"exactly {redirect}\n" in shown.stderr
    text = json.dumps(record).replace("YOUR_SERVER", "mcp.test")
    added = run("gateways", "add", "-", stdin=text)
    assert added.exit_code == 0, added.output
    [config] = rows(app, OAuthConfig)
    assert (config.template, config.template_version) == (template_id, 1)
    record = json.loads(run("gateways", "show", rows(app, Gateway)[0].slug).output)
    assert record["oauth_config"]["template"] == template_id
    assert redirect is None or record["oauth_config"]["redirect_uri"] == redirect


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("nope",), "There is no template nope."),
        (("entra",), "vars.tenant: Enter the Directory (tenant) ID, such as"),
        (("github", "--var", "tenant=x"), "vars.tenant: There is no such value."),
        (("github", "--var", "tenant"), "Write each as NAME=VALUE"),
        (("github", "--api"), "GitHub has one set-up only."),
        (("github", "--grant", "client_credentials"), "grant: This must be one of"),
    ],
)
def test_what_is_wrong_is_said(run, args, said):
    ran = run("providers", "show", *args)
    assert ran.exit_code == 1 and said in ran.output and "Traceback" not in ran.output


def test_a_record_with_an_unknown_template_is_refused(app, run):
    record = json.loads(run("providers", "show", "google", "--url", "https://mcp.test/m").stdout)
    record["oauth_config"]["template"] = "gogle"
    ran = run("gateways", "add", "-", stdin=json.dumps(record))
    assert ran.exit_code == 1 and "oauth_config.template: There is no such template." in ran.output
    assert not rows(app, Gateway)
