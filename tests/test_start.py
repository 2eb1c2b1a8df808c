"""What stops the start, and what it says."""

import dataclasses

import pytest

from app import create_app
from app.errors import texts
from config import Config, ConfigError
from tests.conftest import SECRETS

GOOD = {"SECRET_KEY": SECRETS["SECRET_KEY"], "AUTH_ENCRYPTION_SECRET": "ab1c2d3e4f506172" * 4}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"SECRET_KEY": None}, "SECRET_KEY is not set"),
        ({"AUTH_ENCRYPTION_SECRET": None}, "AUTH_ENCRYPTION_SECRET is not set"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY is too weak"),
        ({"SECRET_KEY": "a" * 64}, "SECRET_KEY is too weak"),
        ({"SECRET_KEY": GOOD["AUTH_ENCRYPTION_SECRET"]}, "must differ"),
        ({"OAUTH_MAX_RETRIES": "many"}, "OAUTH_MAX_RETRIES must be a whole number"),
        ({"PUBLIC_URL": "http://gw.example.com"}, "PUBLIC_URL must start with https://"),
        ({"PUBLIC_URL": "https://gw.example.com/"}, "no trailing slash"),
        ({"EGRESS_ALLOW": "10.0.0.0/99"}, "EGRESS_ALLOW"),
        ({"OAUTH_STATE_EXPIRY": "5"}, "OAUTH_STATE_EXPIRY"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL must be one of"),
        ({"DATABASE_URL": "mysql://x/y"}, "DATABASE_URL must start with"),
        ({"MAX_BODY_BYTES": "0"}, "MAX_BODY_BYTES must be"),
        ({"OAUTH_MAX_STORED_TOKENS_PER_GATEWAY": "-5"}, "OAUTH_MAX_STORED_TOKENS_PER_GATEWAY"),
        ({"SECRET_KEY_FILE": "/nowhere/at/all"}, "SECRET_KEY_FILE cannot be read"),
    ],
)
def test_a_setting_that_cannot_be_right_stops_the_start_by_name(change, named):
    env = {k: v for k, v in (GOOD | change).items() if v is not None}
    with pytest.raises(ConfigError, match=named):
        Config.from_env(env)


@pytest.mark.parametrize(
    "weak",
    ["my-test-salt", "a" * 64, "this is a sentence with spaces in it, long enough", "ab" * 8],
)
def test_sec_080_a_weak_encryption_secret_stops_the_start_with_the_command(weak):
    with pytest.raises(ConfigError, match=r"secrets\.token_urlsafe\(32\)"):
        create_app(Config.from_env(GOOD | {"AUTH_ENCRYPTION_SECRET": weak}))


def test_sec_081_a_wrong_key_is_found_at_the_start_and_an_old_one_opens(app, start, config):
    other = dataclasses.replace(
        config, AUTH_ENCRYPTION_SECRET="ffeeddccbbaa99887766554433221100" * 2
    )
    with pytest.raises(ConfigError, match="does not open this database"):
        start(other)
    old = (config.AUTH_ENCRYPTION_SECRET,)
    start(dataclasses.replace(other, AUTH_ENCRYPTION_SECRETS_OLD=old))


def test_a_database_that_cannot_be_opened_is_named(tmp_path):
    missing = f"sqlite:///{tmp_path}/no/such/folder/gateway.db"
    with pytest.raises(ConfigError, match="DATABASE_URL cannot be opened"):
        create_app(Config(**SECRETS, DATABASE_URL=missing))


def test_a_secret_can_come_from_a_file(tmp_path):
    (tmp_path / "key").write_text(GOOD["SECRET_KEY"] + "\n")
    env = {"AUTH_ENCRYPTION_SECRET": GOOD["AUTH_ENCRYPTION_SECRET"]}
    config = Config.from_env(env | {"SECRET_KEY_FILE": str(tmp_path / "key")})
    assert config.SECRET_KEY == GOOD["SECRET_KEY"]


def test_sec_088_the_settings_show_no_secret(app, config):
    shown = repr(config) + repr(app.config)
    assert config.AUTH_ENCRYPTION_SECRET not in shown and config.DATABASE_URL not in shown


def test_sec_064_debug_does_not_start_in_public(monkeypatch, config):
    monkeypatch.setenv("FLASK_DEBUG", "1")
    with pytest.raises(ConfigError, match="FLASK_DEBUG"):
        create_app(config)


def test_every_error_text_is_complete():
    for code, text in texts().items():
        assert 400 <= text.status < 600 and text.message and text.cause and text.action, code
