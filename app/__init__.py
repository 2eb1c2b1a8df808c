"""MCP Gateway. Wiring only."""

import os
import uuid
from collections.abc import Callable

from flask import Flask

from config import Config, ConfigError, instance_folder

from . import addresses, cli, egress, logs, opening, web
from .db import Recent, db, engine_options, migrate
from .draining import Draining
from .limits import Rates
from .oauth import templates
from .oauth.template_file import BadTemplate
from .secretbox import SecretBox, WeakSecret
from .slots import Slots
from .web.quiet import App


def create_app(config: Config) -> Flask:
    """Raises ConfigError for secrets that are weak, or that do not open this database.

    And for a provider template that cannot be used.
    """
    app = App(
        __name__,
        template_folder="../templates",
        static_folder="../static",
        instance_path=str(instance_folder(config.INSTANCE_DIR)),
    )
    app.config.from_object(config)
    if app.debug and config.is_https:
        raise ConfigError("FLASK_DEBUG is for this machine only: it shows what went wrong to all")
    _settle(app, config)
    _check_templates()
    logs.configure(config.LOG_LEVEL)
    app.extensions["secretbox"] = _box(config)
    app.extensions["recent"] = Recent()
    app.extensions["process_id"] = uuid.uuid4().hex
    app.extensions["draining"] = Draining()
    app.extensions["slots"] = Slots(
        config.MAX_CALLS_PER_WORKER, config.MAX_CALLS_PER_PERSON, config.MAX_STREAMS_PER_PERSON
    )
    app.extensions["rates"] = Rates(
        {
            "token": config.RATE_LIMIT_TOKEN,
            "person": config.RATE_LIMIT_PERSON,
            "address": config.RATE_LIMIT_ADDRESS,
        }
    )
    allowed = addresses.networks(*config.EGRESS_ALLOW)
    app.extensions["egress"] = egress.Door(allowed)
    if any(net.is_loopback for net in allowed):
        # oauthlib refuses http to this machine otherwise; our own rule on URLs stays (egress.py).
        os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
    db.init_app(app)
    del app.config["SQLALCHEMY_DATABASE_URI"]  # it may hold a password, and the engine is made
    migrate.init_app(app, db)
    app.extensions["opening"] = opening.Opening()
    web.register(app)
    cli.register(app)
    with app.app_context():
        app.extensions["opening"].at_start(migrates=config.MIGRATE_AT_START)
    return app


def _settle(app: Flask, config: Config) -> None:
    """Flask's own settings, from ours."""
    url = config.DATABASE_URL
    for old in ("postgres://", "postgresql://"):
        url = "postgresql+psycopg://" + url.removeprefix(old) if url.startswith(old) else url
    app.config.update(
        SQLALCHEMY_DATABASE_URI=url,
        SQLALCHEMY_ENGINE_OPTIONS=engine_options(url, config.DATABASE_CONNECTIONS),
        MAX_CONTENT_LENGTH=config.MAX_BODY_BYTES,
        MAX_FORM_MEMORY_SIZE=config.MAX_BODY_BYTES,
        SESSION_COOKIE_NAME="__Host-session" if config.is_https else "session",
        SESSION_COOKIE_SECURE=config.is_https,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",  # Strict would drop the session at the OAuth callback
        WTF_CSRF_TIME_LIMIT=None,  # as long as the session
        PREFERRED_URL_SCHEME="https" if config.is_https else "http",
    )
    for name in ("AUTH_ENCRYPTION_SECRET", "AUTH_ENCRYPTION_SECRETS_OLD", "DATABASE_URL"):
        del app.config[
            name
        ]  # only the box and the engine need them; app.config's repr is talkative


def _check_templates(read: Callable[[], object] = templates.every) -> None:
    try:
        read()
    except BadTemplate as error:
        raise ConfigError(f"provider template {error}") from error


def _box(config: Config) -> SecretBox:
    try:
        return SecretBox([config.AUTH_ENCRYPTION_SECRET, *config.AUTH_ENCRYPTION_SECRETS_OLD])
    except WeakSecret as error:
        raise ConfigError(str(error)) from error
