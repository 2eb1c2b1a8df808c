"""Secrets at rest: AES-256-GCM under a key of their own, tied to the place they are stored in.

A sealed value reads ``mg1.<key id>.<base64url(salt | nonce | ciphertext and tag)>``. Where it lives
(table, row, column, owner) is authenticated, not stored: a value moved anywhere else does not open.
Handles are facts that leave the house sealed: session ids, request state, links.
"""

from __future__ import annotations

import base64
import json
import os
import re
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from flask import current_app

from .errors import Unsealable

PREFIX = "mg1"
Facts = Mapping[str, str | int | bool | None]
_HANDLES = "(handle)"  # no table has this name, so no cell opens as a handle
_SALT, _NONCE, _TAG = 16, 12, 16
_HEX = re.compile(r"[0-9a-fA-F]+")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_WEAK = (
    "AUTH_ENCRYPTION_SECRET must be 32 random bytes, in base64url or hex. Make one: "
    'python -c "import secrets; print(secrets.token_urlsafe(32))"'
)
_WEAK_OLD = (
    "AUTH_ENCRYPTION_SECRETS_OLD: each must be 32 random bytes, in base64url or hex, as it was "
    "given in AUTH_ENCRYPTION_SECRET"
)


class NotSealed(Unsealable):
    """No envelope: plaintext or an older format. Never returned as if it were the secret."""


class UnknownKey(Unsealable):
    """Sealed under a key this process does not hold."""


class Altered(Unsealable):
    """Changed, truncated, or moved from another place."""


class WeakSecret(ValueError):
    """A secret is not 32 random bytes."""


class HandleOver(Unsealable):
    """A handle past its end."""


@dataclass(frozen=True, slots=True)
class Where:
    """One cell and whose it is. `row` exists before sealing, so rows use ids made by the app."""

    table: str
    row: str
    column: str
    owner: str


class Owned(Protocol):
    """A row that holds sealed columns, and whose they are."""

    __tablename__: str
    id: str

    @property
    def sealed_for(self) -> str: ...


def cell(row: Owned, column: str) -> Where:
    return Where(row.__tablename__, row.id, column, row.sealed_for)


@dataclass(frozen=True, slots=True)
class Bound:
    """What a handle is good for, and for whom: `gateway` is an id, "*" for all of them."""

    purpose: str
    person: str
    gateway: str


class SecretBox:
    """A ring of keys: the first seals, all of them open."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """`secrets`: newest first. Raises WeakSecret, also for an empty list."""
        if not secrets:
            raise WeakSecret("AUTH_ENCRYPTION_SECRET is not set")
        self._roots: dict[str, bytes] = {}
        for number, secret in enumerate(secrets):
            material = _decode(secret)
            if material is None:
                raise WeakSecret(_WEAK_OLD if number else _WEAK)
            self._roots[_derive(material, b"kid", length=6).hex()] = _derive(material, b"root")
        self.active = next(iter(self._roots))

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Of the keys it opens with, the active one first. They are public."""
        return tuple(self._roots)

    def seal(self, secret: str, *, where: Where) -> str:
        """A new envelope each time: equal secrets do not look equal."""
        salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
        cipher = AESGCM(_derive(self._roots[self.active], b"record", salt=salt))
        body = cipher.encrypt(nonce, secret.encode(), _context(self.active, where))
        return f"{PREFIX}.{self.active}.{_to_text(salt + nonce + body)}"

    def open(self, sealed: str, *, where: Where) -> str:
        """Raises Unsealable, and nothing else, for any string."""
        key_id, raw = _parse(sealed)
        if key_id not in self._roots:
            raise UnknownKey
        salt, nonce, body = raw[:_SALT], raw[_SALT : _SALT + _NONCE], raw[_SALT + _NONCE :]
        cipher = AESGCM(_derive(self._roots[key_id], b"record", salt=salt))
        try:
            return cipher.decrypt(nonce, body, _context(key_id, where)).decode()
        except InvalidTag as error:
            raise Altered from error

    def reseal(self, sealed: str, *, where: Where) -> str:
        """The same secret under the active key; the value itself if it is there already."""
        secret = self.open(sealed, where=where)
        return sealed if key_id(sealed) == self.active else self.seal(secret, where=where)

    def seal_handle(self, facts: Facts, *, bound: Bound, life_s: int) -> str:
        """Any node opens it until its end, for this purpose, person and gateway only."""
        text = json.dumps([int(time.time()) + life_s, facts], separators=(",", ":"))
        return self.seal(text, where=_handle(bound))

    def open_handle(self, handle: str, *, bound: Bound) -> Facts:
        """Raises Unsealable: altered, made for something else, or over."""
        end, facts = json.loads(self.open(handle, where=_handle(bound)))
        if end < time.time():
            raise HandleOver
        opened: Facts = facts
        return opened


def box() -> SecretBox:
    """This app's. Written `box().…` and never kept, so that every opening can be found."""
    held: SecretBox = current_app.extensions["secretbox"]
    return held


def _handle(bound: Bound) -> Where:
    return Where(_HANDLES, bound.purpose, bound.gateway, bound.person)


def key_id(sealed: str) -> str:
    """The public name of the key a value is sealed under, for `flask secrets status`."""
    return _parse(sealed)[0]


def key_of(sealed: str) -> str:
    """key_id(), and "" for what is no sealed value."""
    try:
        return key_id(sealed)
    except Unsealable:
        return ""


def _decode(secret: str) -> bytes | None:
    """32 bytes or more, as hex or base64url. Python's decoder skips foreign letters; not here.

    None: it is something else, or weak.
    """
    decoded = b""
    if _HEX.fullmatch(secret) and len(secret) % 2 == 0:
        decoded = bytes.fromhex(secret)
    elif _BASE64URL.fullmatch(secret) and len(secret) % 4 != 1:
        decoded = _from_text(secret)
    return None if len(decoded) < 32 or len(set(decoded)) < 9 else decoded


def _derive(key: bytes, purpose: bytes, *, salt: bytes | None = None, length: int = 32) -> bytes:
    info = b"mcpgw/v1/" + purpose
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(key)


def _context(key_id: str, where: Where) -> bytes:
    """Each part behind its length, so that ("ab", "c") and ("a", "bc") differ."""
    place = (where.table, where.row, where.column, where.owner)
    parts = [part.encode() for part in (PREFIX, key_id, *place)]
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def _parse(sealed: str) -> tuple[str, bytes]:
    prefix, _, rest = sealed.partition(".")
    key_id, dot, body = rest.partition(".")
    if prefix != PREFIX or not dot:
        raise NotSealed
    if not _BASE64URL.fullmatch(body) or len(body) % 4 == 1:
        raise Altered
    raw = _from_text(body)
    if len(raw) < _SALT + _NONCE + _TAG or _to_text(raw) != body:  # one spelling per value
        raise Altered
    return key_id, raw


def _to_text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _from_text(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
