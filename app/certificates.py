"""A gateway's own CA and client certificate: whether they can be used, and the TLS made of them.

A private key is never a file: OpenSSL reads it from memory that has no name (SEC-077).
"""

from __future__ import annotations

import os
import re
import ssl
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

_BLOCK = re.compile(
    r"-----BEGIN (?:X509 )?CERTIFICATE-----([^-]+)-----END (?:X509 )?CERTIFICATE-----"
)
_KEY = re.compile(
    r"-----BEGIN ([A-Z]+ )?PRIVATE KEY-----([^-]+)-----END (?:[A-Z]+ )?PRIVATE KEY-----"
)
_SKEW = timedelta(days=1)  # of whoever made it


class Unusable(ValueError):
    """Its text is a sentence for the admin. It never quotes what was pasted."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a certificate says of itself."""

    subject: str
    ends: datetime | None  # None: it cannot be read


def tidy(pem: str) -> str:
    """The certificates of a text, in its order, and nothing else. Raises Unusable."""
    if "PRIVATE KEY" in pem:
        raise Unusable("This holds a private key. Paste only certificates here.")
    found = _BLOCK.findall(pem)
    if "-----BEGIN " not in pem:
        raise Unusable("Paste it as PEM, from -----BEGIN CERTIFICATE----- to -----END.")
    if len(found) != pem.count("-----BEGIN "):
        raise Unusable("Only whole blocks of the kind CERTIFICATE can be used. Paste no other.")
    text = "\n".join(_block("CERTIFICATE", inner) for inner in found)
    _read(text)
    return text


def tidy_key(pem: str) -> str:
    """The first private key of a text, and nothing else. Raises Unusable."""
    found = _KEY.search(pem)
    if "ENCRYPTED" in pem:
        raise Unusable("The key has a password. Paste it without one.")
    if found is None:
        raise Unusable("The key cannot be read. Paste it as PEM.")
    return _block(f"{found[1] or ''}PRIVATE KEY", found[2])


def facts(pem: str) -> list[Facts]:
    """Of each certificate of a text that `tidy` gave, or of none."""
    try:
        return [
            Facts(one.subject.rfc4514_string()[:200] or "(no name)", one.not_valid_after_utc)
            for one in (_read(pem) if pem else ())
        ]
    except Unusable:  # kept since before it was refused
        return [Facts("(cannot be read: paste another)", None)]


def check_ca(pem: str) -> None:
    """Raises Unusable."""
    for one in _read(pem):
        _check_dates(one)
    try:
        tls(pem, None, None)
    except ssl.SSLError:
        raise Unusable("The certificate cannot be used for TLS.") from None


def check_pair(pem: str, key_pem: str) -> None:
    """Whether a server can be shown this certificate, and the key is its own. Raises Unusable."""
    leaf = _read(pem)[0]
    _check_dates(leaf)
    try:
        ours = serialization.load_pem_private_key(key_pem.encode(), None).public_key()
        theirs = leaf.public_key()
    except TypeError:
        raise Unusable("The key has a password. Paste it without one.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Unusable("The key cannot be read. Paste it as PEM.") from None
    if _raw(ours) != _raw(theirs):
        raise Unusable("The key does not belong to the first certificate.")
    try:
        tls(None, pem, key_pem)
    except ssl.SSLError:
        raise Unusable("The certificate is too weak, or of a kind that TLS does not use.") from None


def tls(
    ca_pem: str | None, cert_pem: str | None, key_pem: str | None, *, bundle: str | None = None
) -> ssl.SSLContext:
    """Who is trusted: the system's CAs, those in `bundle`, a file, and `ca_pem`. Some 40 ms.

    Raises ssl.SSLError for what check_ca and check_pair refuse.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, names too
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.load_default_certs()
    if bundle is not None:
        made.load_verify_locations(bundle)
    if ca_pem is not None:
        made.load_verify_locations(cadata=ca_pem)
        made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # one below a root will do
    if cert_pem is not None and key_pem is not None:
        with _nameless(cert_pem) as cert, _nameless(key_pem) as key:
            made.load_cert_chain(cert, key, password=_no_password)
    return made


def _no_password() -> str:
    """Else OpenSSL would ask for one at the terminal."""
    return ""


@contextmanager
def _nameless(text: str) -> Iterator[str]:
    """A path to memory that nobody else can open, for a library that reads files alone."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("pem", os.MFD_CLOEXEC)
        os.write(number, text.encode())
        os.lseek(number, 0, os.SEEK_SET)
    else:  # not Linux; what fits into 16 KiB never waits for its reader
        number, end = os.pipe()
        os.write(end, text.encode())
        os.close(end)
    try:
        yield f"/dev/fd/{number}"
    finally:
        os.close(number)


def _block(kind: str, inner: str) -> str:
    """In lines of 64, as OpenSSL wants them: who copies from a page often loses the line breaks."""
    text = "".join(inner.split())
    if not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", text):
        what = "key" if "KEY" in kind else "certificate"
        raise Unusable(f"The {what} cannot be read. Paste the whole PEM text.")
    return "\n".join([f"-----BEGIN {kind}-----", *textwrap.wrap(text, 64), f"-----END {kind}-----"])


def _read(pem: str) -> list[x509.Certificate]:
    """Those whose name and dates can be read, too, which are parsed late. Raises Unusable."""
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
        for one in found:
            one.subject.rfc4514_string(), one.not_valid_before_utc, one.not_valid_after_utc
    except (ValueError, x509.InvalidVersion):
        raise Unusable("The certificate cannot be read. Paste the whole PEM text.") from None
    return found


def _check_dates(one: x509.Certificate) -> None:
    now = datetime.now(UTC)
    if one.not_valid_after_utc < now:
        raise Unusable(f"The certificate expired on {one.not_valid_after_utc:%Y-%m-%d}.")
    if one.not_valid_before_utc > now + _SKEW:
        raise Unusable(f"The certificate is not valid before {one.not_valid_before_utc:%Y-%m-%d}.")


def _raw(key: Any) -> bytes:
    raw: bytes = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return raw
