"""What stops the start, and what it says."""

import dataclasses
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from app import create_app
from app.db import db
from app.errors import texts
from app.secretbox import SecretBox
from config import Config, ConfigError
from tests import sealed
from tests.conftest import SECRETS

GOOD = {"SECRET_KEY": SECRETS["SECRET_KEY"], "AUTH_ENCRYPTION_SECRET": "ab1c2d3e4f506172" * 4}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"AUTH_ENCRYPTION_SECRET": None}, "AUTH_ENCRYPTION_SECRET is not set"),
        ({"OAUTH_MAX_RETRIES": "many"}, "OAUTH_MAX_RETRIES must be a whole number"),
        ({"PUBLIC_URL": "http://gw.example.com"}, "PUBLIC_URL must start with https://"),
        ({"PUBLIC_URL": "https://gw.example.com/"}, "no trailing slash"),
        ({"EGRESS_ALLOW": "10.0.0.0/99"}, "EGRESS_ALLOW"),
        ({"OAUTH_STATE_EXPIRY": "5"}, "OAUTH_STATE_EXPIRY"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL must be one of"),
        ({"DATABASE_URL": "mysql://x/y"}, "DATABASE_URL must start with"),
        ({"MAX_BODY_BYTES": "0"}, "MAX_BODY_BYTES must be"),
        ({"OAUTH_MAX_STORED_TOKENS_PER_GATEWAY": "-5"}, "OAUTH_MAX_STORED_TOKENS_PER_GATEWAY"),
    ],
)
def test_a_setting_that_cannot_be_right_stops_the_start_by_name(change, named):
    env = {k: v for k, v in (GOOD | change).items() if v is not None}
    with pytest.raises(ConfigError, match=named):
        Config.from_env(env)


WEAK = {  # what people type, and what a placeholder in a template says
    "nothing": "",
    "blank": " ",
    "salt": "my-test-salt",
    "one letter": "a" * 64,
    "zeros": "0" * 64,
    "two letters": "ab" * 32,
    "a sentence": "this is a sentence with spaces in it, long enough",
    "a placeholder": "change-me-change-me-change-me-change-me",
    "half as long": "ab1c2d3e4f506172" * 2,
    "foreign letters": "ab1c2d3e4f506172" * 3 + "ab1c2d3e4f50617é",
    "padded": "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY=",
    "a list": "ab1c2d3e4f506172" * 4 + "," + "bc1c2d3e4f506172" * 4,
}


@pytest.mark.parametrize("weak", WEAK.values(), ids=WEAK)
def test_sec_080_a_weak_encryption_secret_stops_the_start_with_the_command(weak):
    with pytest.raises(ConfigError, match=r"secrets\.token_urlsafe\(32\)") as caught:
        create_app(Config.from_env(GOOD | {"AUTH_ENCRYPTION_SECRET": weak}))
    assert not weak.strip() or weak not in str(caught.value)


@pytest.mark.parametrize("weak", ["my-test-salt", "a" * 64], ids=["salt", "one letter"])
def test_sec_080_a_weak_old_secret_stops_the_start_too(weak):
    with pytest.raises(ConfigError, match="32 random bytes"):
        create_app(Config.from_env(GOOD | {"AUTH_ENCRYPTION_SECRETS_OLD": weak}))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"SECRET_KEY": None}, "SECRET_KEY is not set"),
        ({"SECRET_KEY": ""}, "SECRET_KEY is too weak"),
        ({"SECRET_KEY": "dev"}, "SECRET_KEY is too weak"),
        ({"SECRET_KEY": "changeme" * 8}, "SECRET_KEY is too weak"),
        ({"SECRET_KEY": "x" * 64}, "SECRET_KEY is too weak"),
        ({"SECRET_KEY": GOOD["AUTH_ENCRYPTION_SECRET"]}, "must differ"),
        ({"AUTH_ENCRYPTION_SECRETS_OLD": GOOD["SECRET_KEY"]}, "must differ"),
    ],
)
def test_sec_076_a_signing_key_that_is_weak_or_the_other_one_stops_the_start(change, named):
    env = {k: v for k, v in (GOOD | change).items() if v is not None}
    with pytest.raises(ConfigError, match=named):
        Config.from_env(env)


def test_sec_076_no_setting_offers_fallbacks_as_a_string(app):
    """Flask would take each letter of one for a key (CVE-2025-47278): there is no such setting."""
    assert not [field for field in dataclasses.fields(Config) if "FALLBACK" in field.name]
    assert app.config["SECRET_KEY_FALLBACKS"] is None


# -- the key that opens this database --------------------------------------------------------------


def contents(url: str) -> dict[str, list[tuple]]:
    """Every row of every table."""
    engine = sa.create_engine(url)
    try:
        with engine.connect() as link:
            names = sa.inspect(link).get_table_names()
            return {n: link.execute(sa.text(f'SELECT * FROM "{n}"')).all() for n in names}
    finally:
        engine.dispose()


def started(config: Config, **change) -> subprocess.CompletedProcess[str]:
    """As gunicorn's worker does it: wsgi.py, in a process of its own."""
    root = Path(__file__).parents[1]
    plain = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root)}
    names = ("SECRET_KEY", "AUTH_ENCRYPTION_SECRET", "DATABASE_URL", "PUBLIC_URL")
    env = plain | {name: getattr(config, name) for name in names} | change
    command = [sys.executable, "-c", "import wsgi"]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=60)


def test_sec_081_f_27_a_wrong_key_ends_the_start_and_nothing_is_written(app, config):
    with app.app_context():
        sealed.plant()
        db.session.remove()
        db.engine.dispose()
    before = contents(config.DATABASE_URL)
    done = started(config, AUTH_ENCRYPTION_SECRET=sealed.NEW)
    assert done.returncode == os.EX_CONFIG
    named = re.findall(r"\b[0-9a-f]{12}\b", done.stderr)
    assert named == [SecretBox([sealed.NEW]).active, SecretBox([sealed.OLD]).active]
    assert sealed.NEW not in done.stderr and "Traceback" not in done.stderr
    assert contents(config.DATABASE_URL) == before


def test_sec_081_not_even_a_migration_runs_with_a_wrong_key(app, start, config):
    with app.app_context(), db.engine.begin() as link:
        link.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
    before = contents(config.DATABASE_URL)
    with pytest.raises(ConfigError, match="does not open this database"):
        start(dataclasses.replace(config, AUTH_ENCRYPTION_SECRET=sealed.NEW))
    assert contents(config.DATABASE_URL) == before


@pytest.mark.parametrize("migrates", [True, False], ids=["at start", "by command"])
def test_sec_081_a_wrong_key_is_found_however_the_schema_is_kept(app, start, config, migrates):
    other = {"AUTH_ENCRYPTION_SECRET": sealed.NEW, "MIGRATE_AT_START": migrates}
    with pytest.raises(ConfigError, match="does not open this database"):
        start(dataclasses.replace(config, **other))
    start(dataclasses.replace(config, **other, AUTH_ENCRYPTION_SECRETS_OLD=(sealed.OLD,)))


def test_sec_081_an_altered_check_row_is_told_from_a_wrong_key(app, start, config):
    with app.app_context(), db.engine.begin() as link:
        link.execute(sa.text("UPDATE crypto_meta SET check_sealed = 'plaintext'"))
    with pytest.raises(ConfigError, match="the database was altered"):
        start(config)


def test_a_database_that_cannot_be_opened_is_named(tmp_path):
    missing = f"sqlite:///{tmp_path}/no/such/folder/gateway.db"
    with pytest.raises(ConfigError, match="DATABASE_URL cannot be opened"):
        create_app(Config(**SECRETS, DATABASE_URL=missing))


def test_a_secret_can_come_from_a_file(tmp_path):
    (tmp_path / "key").write_text(GOOD["SECRET_KEY"] + "\n")
    env = {"AUTH_ENCRYPTION_SECRET": GOOD["AUTH_ENCRYPTION_SECRET"]}
    config = Config.from_env(env | {"SECRET_KEY_FILE": str(tmp_path / "key")})
    assert config.SECRET_KEY == GOOD["SECRET_KEY"]


@pytest.mark.parametrize(
    "text",
    [
        f"{sealed.OLD}\n{sealed.NEW}\n",
        f"{sealed.OLD},{sealed.NEW}",
        f" {sealed.OLD} ,\r\n{sealed.NEW}",
    ],
    ids=["lines", "commas", "both"],
)
def test_a_file_of_old_secrets_may_have_several(tmp_path, text):
    (tmp_path / "old").write_bytes(text.encode())
    (tmp_path / "old").chmod(0o400)
    config = Config.from_env(GOOD | {"AUTH_ENCRYPTION_SECRETS_OLD_FILE": str(tmp_path / "old")})
    assert config.AUTH_ENCRYPTION_SECRETS_OLD == (sealed.OLD, sealed.NEW)


def test_a_file_of_no_old_secrets_is_none(tmp_path):
    (tmp_path / "old").write_text("\n")
    env = GOOD | {"AUTH_ENCRYPTION_SECRETS_OLD_FILE": str(tmp_path / "old")}
    assert Config.from_env(env).AUTH_ENCRYPTION_SECRETS_OLD == ()


@pytest.mark.parametrize("what", ["nowhere", "folder", "bytes"])
def test_a_file_that_cannot_be_read_is_named_and_not_shown(tmp_path, what):
    (tmp_path / "folder").mkdir()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00secret")
    path = str(tmp_path / what)
    with pytest.raises(ConfigError, match=f"SECRET_KEY_FILE cannot be read: {path}"):
        Config.from_env({"SECRET_KEY_FILE": path})


def test_a_value_and_a_file_for_one_setting_are_too_much(tmp_path):
    (tmp_path / "key").write_text(GOOD["SECRET_KEY"])
    env = GOOD | {"SECRET_KEY_FILE": str(tmp_path / "key")}
    with pytest.raises(ConfigError, match="Set SECRET_KEY or SECRET_KEY_FILE, not both"):
        Config.from_env(env)


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


# -- gunicorn.conf.py ------------------------------------------------------------------------------

CONF = Path(__file__).parents[1] / "gunicorn.conf.py"


@pytest.mark.parametrize(("seconds", "grace"), [("30", 40), ("60.5", 71), ("soon", 40)])
def test_f_36_a_worker_that_ends_gets_longer_than_a_renewal_may_take(seconds, grace, tmp_path):
    """gunicorn says what it read. A number that is none is for the app to complain about."""
    given = tmp_path / "seconds"
    given.write_text(f"{seconds}\n")
    env = GOOD | {"PATH": os.environ["PATH"], "INSTANCE_DIR": str(tmp_path)}
    named = {"OAUTH_REQUEST_TIMEOUT_FILE": str(given)}
    command = [sys.executable, "-m", "gunicorn", "--print-config", "-c", CONF, "wsgi:app"]
    told = subprocess.run(
        command, cwd=CONF.parent, env=env | named, capture_output=True, text=True, timeout=60
    )
    read = dict(re.findall(r"^(\w+) += (.*)$", told.stdout, re.M))
    assert int(read["graceful_timeout"]) == grace
    assert int(read["timeout"]) > grace
    assert ("OAUTH_REQUEST_TIMEOUT must be a number" in told.stderr) == (seconds == "soon")


def test_sec_117_a_closing_door_lets_only_so_many_in():
    """Clients that come without end would keep a gevent worker from ending."""

    class Endless:
        came = 0

        def setblocking(self, flag):
            assert flag is False

        def accept(self):
            self.came += 1
            if self.came > 5000:
                raise RuntimeError("it never stops")
            return self.came, ("127.0.0.1", 1)

    heard = []
    kind = type("GeventWorker", (), {"handle": lambda self, *guest: heard.append(guest)})
    worker, listener = runpy.run_path(str(CONF))["_gentle"](kind)(), Endless()
    worker.quiet, worker.guests = set(), []
    for _ in range(2):
        worker.welcome("the door", listener)
    for guest in worker.guests:
        guest.join()
    assert len(heard) == listener.came == 1000
