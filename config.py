"""Every setting, typed once. The only module that reads the environment."""

from __future__ import annotations

import dataclasses
import hmac
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MAKE_ONE = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'


class ConfigError(ValueError):
    """A setting is missing or malformed. Raised at start-up, never later; names the setting."""


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Config:
    """All settings. Each can be given as NAME, or as NAME_FILE: a file that holds the value."""

    SECRET_KEY: str  # signs cookies and CSRF tokens; 32 random bytes or more
    AUTH_ENCRYPTION_SECRET: str  # seals what is stored; 32 random bytes, as hex or base64url
    AUTH_ENCRYPTION_SECRETS_OLD: tuple[str, ...] = ()  # still open, never seal
    PUBLIC_URL: str = "http://127.0.0.1:8000"  # origin that browsers use, no trailing slash
    INSTANCE_DIR: str = "instance"  # what this node keeps in files; relative to the checkout
    DATABASE_URL: str = "sqlite:///gateway.db"  # relative to INSTANCE_DIR
    DATABASE_CONNECTIONS: int = 20  # at most, in each worker; PostgreSQL only
    MIGRATE_AT_START: bool = True
    TRUSTED_PROXIES: tuple[str, ...] = ()  # addresses whose X-Forwarded-For counts
    MCP_ALLOWED_ORIGINS: tuple[str, ...] = ()  # further Origins that may call /mcp
    EGRESS_ALLOW: tuple[str, ...] = ()  # address ranges that may be called though not public
    MAX_BODY_BYTES: int = 4_194_304  # of one request to us
    MAX_CALLS_PER_PERSON: int = 500  # open at once, in one worker; 0: no limit, as with all these
    MAX_CALLS_PER_WORKER: int = 4000
    MAX_STREAMS_PER_PERSON: int = 20  # that only listen, in one worker
    RATE_LIMIT_TOKEN: int = 6000  # requests a minute with one API token, over all workers
    RATE_LIMIT_PERSON: int = 12_000  # of one person
    RATE_LIMIT_ADDRESS: int = 60_000  # from one address
    RATE_LIMIT_WRONG_TOKENS: int = 100  # wrong API tokens a minute from one address
    LOG_LEVEL: str = "INFO"

    OAUTH_REQUEST_TIMEOUT: float = 30.0  # seconds, for one call to a provider, retries included
    OAUTH_MAX_RETRIES: int = 3  # more sends inside that time, after transient failures only
    OAUTH_STATE_EXPIRY: int = 300  # seconds for a person to sign in and allow; 60 to 600
    OAUTH_TOKEN_EXPIRY_THRESHOLD: int = 300  # seconds before its end a token is renewed
    OAUTH_TOKEN_CLEANUP_INTERVAL: int = 3600  # seconds between clean-up runs
    OAUTH_MAX_STORED_TOKENS_PER_GATEWAY: int = 100  # connections with tokens; 0: no limit
    OAUTH_MAX_AUTHORIZATION_ATTEMPTS: int = 5  # begun in 10 minutes without a success
    OAUTH_CLIENT_METADATA_URL: str = ""  # of our client id document, if not under PUBLIC_URL
    HEALTH_CHECK_INTERVAL: int = 300  # seconds between looks at each server; 0: none
    UPSTREAM_CONNECT_TIMEOUT: float = 5.0  # seconds
    UPSTREAM_READ_TIMEOUT: float = 300.0  # seconds of silence on an upstream's answer

    SESSION_IDLE_MINUTES: int = 30
    SESSION_MAX_HOURS: int = 12

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Config:
        """Read and check all. Raises ConfigError, also for values that cannot be right."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            text = text_of(field.name, env)
            if text is not None:
                values[field.name] = _parse(field.name, str(field.type), text)
            elif field.default is dataclasses.MISSING:
                raise ConfigError(f"{field.name} is not set. Make one: {_MAKE_ONE}")
        return cls(**values)

    def __post_init__(self) -> None:
        """Whether the values can be right together; SecretBox judges the encryption secrets."""
        _check_secrets(self)
        _check_public_url(self.PUBLIC_URL)
        _check_words(self)
        if not re.fullmatch(r"(https://[^/?#@\s]+/[^?#\s]+)?", self.OAUTH_CLIENT_METADATA_URL):
            raise ConfigError("OAUTH_CLIENT_METADATA_URL must be https://, with a path")
        for name in ("EGRESS_ALLOW", "TRUSTED_PROXIES"):
            for text in getattr(self, name):
                try:
                    ipaddress.ip_network(text)
                except ValueError as error:
                    raise ConfigError(f"{name}: {text!r} is not an address range") from error
        for name, (least, most) in _LIMITS.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must be {least:g} to {most:g}")

    @property
    def is_https(self) -> bool:
        return self.PUBLIC_URL.startswith("https://")


_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_LIMITS = {
    "MAX_BODY_BYTES": (1024, 1_073_741_824),
    "MAX_CALLS_PER_PERSON": (0, 100_000),
    "MAX_CALLS_PER_WORKER": (0, 100_000),
    "MAX_STREAMS_PER_PERSON": (0, 100_000),
    "RATE_LIMIT_TOKEN": (0, 100_000_000),
    "RATE_LIMIT_PERSON": (0, 100_000_000),
    "RATE_LIMIT_ADDRESS": (0, 100_000_000),
    "RATE_LIMIT_WRONG_TOKENS": (0, 100_000_000),
    "DATABASE_CONNECTIONS": (2, 500),
    "HEALTH_CHECK_INTERVAL": (0, 86_400),
    "OAUTH_TOKEN_CLEANUP_INTERVAL": (1, 604_800),
    "OAUTH_MAX_STORED_TOKENS_PER_GATEWAY": (0, 10_000_000),
    "OAUTH_MAX_AUTHORIZATION_ATTEMPTS": (1, 1000),
    "OAUTH_REQUEST_TIMEOUT": (0.1, 600),
    "OAUTH_MAX_RETRIES": (0, 10),
    "OAUTH_STATE_EXPIRY": (60, 600),
    "OAUTH_TOKEN_EXPIRY_THRESHOLD": (0, 86_400),
    "UPSTREAM_CONNECT_TIMEOUT": (0.1, 60),
    "UPSTREAM_READ_TIMEOUT": (0.1, 3600),
    "SESSION_IDLE_MINUTES": (1, 1440),
    "SESSION_MAX_HOURS": (1, 720),
}


def instance_folder(text: str) -> Path:
    """What INSTANCE_DIR stands for."""
    return (Path(__file__).parent / (text or Config.INSTANCE_DIR)).resolve()


def sqlite_file(url: str, folder: Path) -> Path | None:
    """Where DATABASE_URL keeps a SQLite database; None for another kind, or one in memory."""
    url = url or Config.DATABASE_URL
    name = url.removeprefix("sqlite:///").partition("?")[0]
    if not url.startswith("sqlite:///") or name in ("", ":memory:"):
        return None
    return folder / name  # which an absolute name leaves out of account


def text_of(name: str, env: Mapping[str, str] = os.environ) -> str | None:
    """What NAME says, or the file that NAME_FILE names; None if neither is set.

    Raises ConfigError, also if both are: one would be ignored, and nobody knows which.
    """
    path = env.get(f"{name}_FILE")
    if path is None:
        return env.get(name)
    if name in env:
        raise ConfigError(f"Set {name} or {name}_FILE, not both")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}_FILE cannot be read: {path}") from error


def _check_secrets(config: Config) -> None:
    if len(config.SECRET_KEY) < 32 or len(set(config.SECRET_KEY)) < 9:
        raise ConfigError(f"SECRET_KEY is too weak. Make one: {_MAKE_ONE}")
    for sealing in (config.AUTH_ENCRYPTION_SECRET, *config.AUTH_ENCRYPTION_SECRETS_OLD):
        if hmac.compare_digest(config.SECRET_KEY.encode(), sealing.encode()):
            raise ConfigError("SECRET_KEY and AUTH_ENCRYPTION_SECRET must differ")


def _check_words(config: Config) -> None:
    if config.LOG_LEVEL.upper() not in _LEVELS:
        raise ConfigError(f"LOG_LEVEL must be one of {', '.join(_LEVELS)}")
    if not re.match(r"(sqlite|postgres|postgresql(\+psycopg)?)://", config.DATABASE_URL):
        raise ConfigError("DATABASE_URL must start with sqlite:// or postgresql://")


def _check_public_url(url: str) -> None:
    parts = urlsplit(url)
    plain = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if not parts.hostname or (parts.scheme != "https" and not plain):
        raise ConfigError("PUBLIC_URL must start with https:// (http:// only on this machine)")
    if not re.fullmatch(r"https?://[^/?#@\s]+", url):
        raise ConfigError("PUBLIC_URL is an origin: no path, no trailing slash")


_PARSERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: {"true": True, "1": True, "false": False, "0": False}[text.lower()],
    "tuple[str, ...]": lambda text: tuple(text.replace(",", " ").split()),
}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple[str, ...]": "a list of words",
}


def _parse(name: str, kind: str, text: str) -> Any:
    try:
        return _PARSERS[kind](text)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{name} must be {_WORDS[kind]}") from error
