"""The cast, the databases, and the outside world of every test."""

import functools
import html
import re
import shutil
import uuid
from collections.abc import Iterator

import pytest
import requests_mock
import sqlalchemy as sa
from flask import session

from app import create_app, passwords, people, sessions
from app.db import db
from app.web import auth
from config import Config
from tests import postgres

SECRETS = {
    "SECRET_KEY": "a-signing-key-of-the-tests-0123456789",
    "AUTH_ENCRYPTION_SECRET": "00112233445566778899aabbccddeeff" * 2,
}
HERE = {"PUBLIC_URL": "https://gw.test"}
PASSWORD = "correct horse battery"


def pytest_addoption(parser):
    parser.addoption("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.addoption("--whole", action="store_true", help="on PostgreSQL, every case too")


# Here the cases of a test differ in what happens in the database.
ABOUT_THE_DATABASE = {
    *("oauth/test_flow", "oauth/test_race", "oauth/test_refresh", "oauth/test_spool", "test_audit"),
    *("test_db", "test_housekeeping", "test_resealing", "test_rotation", "web/test_deadlocks"),
}

# And these read the few same rows for each call: what they try is on the wire.
ABOUT_THE_WIRE = {
    *("faults/test_upstream", "mcp/test_client", "mcp/test_flood", "mcp/test_relay"),
    *("oauth/test_client", "security/test_inside", "web/test_proxy"),
    *("oauth/test_discovery", "oauth/test_parameters", "oauth/test_provider_shapes"),
    *("oauth/test_signing", "oauth/test_traps", "test_broken", "test_checks"),
}


def pytest_collection_modifyitems(config, items):
    """On PostgreSQL run what meets a database; the rest is the same on both, and ran on SQLite.

    Where the cases of a test vary something else, one of them meets it for all; `--whole` runs all.
    """
    if config.getoption("--database") == "postgresql" and not config.getoption("--whole"):
        meeting, rest, met = [], [], set()
        for item in items:
            file = item.path.relative_to(config.rootpath / "tests").with_suffix("").as_posix()
            test = (file, item.originalname)
            meets = "template_database" in item.fixturenames and file not in ABOUT_THE_WIRE
            runs = meets and test not in met
            (meeting if runs else rest).append(item)
            met |= {test} if runs and file not in ABOUT_THE_DATABASE else set()
        config.hook.pytest_deselected(items=rest)
        items[:] = meeting


@pytest.fixture(scope="session")
def template_database(request, tmp_path_factory) -> Iterator[str]:
    """A migrated, empty database to copy: a path, or the URL of a PostgreSQL template."""
    if request.config.getoption("--database") == "sqlite":
        path = tmp_path_factory.mktemp("template") / "template.db"
        create_app(Config(**SECRETS, **HERE, DATABASE_URL=f"sqlite:///{path}"))
        with sa.create_engine(f"sqlite:///{path}").connect() as link:
            link.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        yield str(path)
        return
    with postgres.server() as server:
        url = server.create("template_of_tests")
        app = create_app(Config(**SECRETS, **HERE, DATABASE_URL=url))
        with app.app_context():
            db.engine.dispose()
        yield url


@pytest.fixture
def database_url(template_database, tmp_path) -> Iterator[str]:
    """A database of this test's own, migrated and empty."""
    if not template_database.startswith("postgresql"):
        shutil.copy(template_database, tmp_path / "gateway.db")
        yield f"sqlite:///{tmp_path / 'gateway.db'}"
        return
    with postgres.copy_of(template_database, f"t{uuid.uuid4().hex[:12]}") as url:
        yield url


@pytest.fixture
def config(database_url) -> Config:
    """What the app of the test is made from; a test may replace fields of it."""
    return Config(**SECRETS, **HERE, DATABASE_URL=database_url, EGRESS_ALLOW=("127.0.0.0/8",))


@pytest.fixture
def start(tmp_path):
    """create_app, for tests that start more than one; each lets go of its database at the end."""
    started = []

    def make(config: Config):
        started.append(create_app(config))
        started[-1].testing = True
        started[-1].instance_path = str(tmp_path)  # what is spooled stays with its test
        return started[-1]

    yield make
    for app in started:
        with app.app_context():
            db.engine.dispose()


@pytest.fixture
def app(start, config):
    """CSRF is on, as in production. No context is left open: a request must bring its own."""
    return start(config)


@pytest.fixture
def app_ctx(app):
    """As in somebody's request, for tests of core functions."""
    with app.app_context():
        yield app


class World(requests_mock.Adapter):
    def send(self, request, **kwargs):
        assert not db.session().in_transaction(), "a transaction waits for somebody else's server"
        return super().send(request, **kwargs)


@pytest.fixture
def provider():
    """The outside world. A request to an address that no test declared is an error."""
    with requests_mock.Mocker(adapter=World()) as world:
        yield world


class Browser:
    """A person who fills in forms, CSRF token included. Not signed in until `login()`."""

    def __init__(self, app, public_url: str = "https://gw.test") -> None:
        self.client, self._at = app.test_client(), {"base_url": public_url}

    def get(self, url: str, **more):
        return self.client.get(url, **self._at, **more)

    def post(self, url: str, **more):
        """As it is: without a CSRF token, unless `data` holds one."""
        return self.client.post(url, **self._at, **more)

    def submit(self, url: str, /, *, at: str | None = None, **fields):
        """GET the page that holds the form (`at`, else `url`), then POST it to `url`."""
        page = self.get(at or url)
        found = re.search(r'name="csrf_token"[^>]*value="([^"]+)', page.text)
        assert found, f"no form at {at or url}: {page.status_code}"
        referer = {"Referer": self._at["base_url"] + (at or url)}
        sent = {"csrf_token": html.unescape(found.group(1))} | fields
        return self.client.post(url, data=sent, headers=referer, **self._at)

    def login(self, email: str, password: str = PASSWORD):
        reply = self.submit("/login", email=email, password=password)
        assert reply.status_code == 303, reply.text
        return self


@pytest.fixture
def stranger(app) -> Browser:
    """Charlie, who is not signed in."""
    return Browser(app)


@functools.cache
def kept_password() -> str:
    return passwords.hashed(PASSWORD)


def person(app, email: str, *, role: str = "user") -> Browser:
    """Somebody who is signed in already: one form and two hashes less, for each of many tests."""
    browser = Browser(app)
    with app.test_request_context(base_url="https://gw.test"):
        user = people.create(email, password=None, role=role)
        user.password_hash = kept_password()
        cookie = sessions.start(user.id, address="127.0.0.1", agent="tests")
        db.session.commit()
        reply = auth.let_in(app.response_class(), cookie)
        app.session_interface.save_session(app, session, reply)
    for line in reply.headers.getlist("Set-Cookie"):
        name, _, rest = line.partition("=")
        browser.client.set_cookie(name, rest.partition(";")[0], domain="gw.test")
    return browser


@pytest.fixture
def admin(app) -> Browser:
    return person(app, "admin@example.com", role="admin")


@pytest.fixture
def alice(app) -> Browser:
    return person(app, "alice@example.com")


@pytest.fixture
def bob(app) -> Browser:
    return person(app, "bob@example.com")


def rows(app, model) -> list:
    """Every row of a table, detached."""
    with app.app_context():
        found = list(db.session.scalars(sa.select(model)))
        db.session.expunge_all()
        return found
