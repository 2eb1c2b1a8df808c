"""Client assertions (RFC 7523 section 2.2), and the keys they are signed with. Pure.

Three algorithms of RFC 7518, on the primitives of `cryptography`: we sign, and never verify, so
nothing here chooses an algorithm by what somebody else sent.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

LIFE_S = 60
RSA_BITS = 2048
GENERATE = "generate"  # in the place of a key: make one
_KINDS = {"ES256": "an EC key on the curve P-256", "RS256": "an RSA key", "PS256": "an RSA key"}
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Unsuitable(ValueError):
    """Its text is a sentence for the admin. It never quotes what was pasted."""


def generate(alg: str) -> str:
    """A new private key, as PEM."""
    made: Key = ec.generate_private_key(ec.SECP256R1())
    if alg != "ES256":
        made = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    form = serialization.PrivateFormat.PKCS8
    return made.private_bytes(
        serialization.Encoding.PEM, form, serialization.NoEncryption()
    ).decode()


def check(pem: str, alg: str) -> None:
    """Whether this key can sign this way. Raises Unsuitable."""
    key = _load(pem)
    if alg == "ES256":
        fits = isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1"
    else:
        fits = isinstance(key, rsa.RSAPrivateKey)
    if not fits:
        raise Unsuitable(f"The private key does not fit: {alg} needs {_KINDS[alg]}.")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < RSA_BITS:
        raise Unsuitable(f"The private key is too short: {RSA_BITS} bits are the least.")


def public_jwk(pem: str, alg: str) -> dict[str, Any]:
    """RFC 7517; its `kid` is the thumbprint of RFC 7638."""
    key = _load(pem)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        point = key.public_key().public_numbers()
        members = {
            "crv": "P-256",
            "kty": "EC",
            "x": _number(point.x, 32),
            "y": _number(point.y, 32),
        }
    else:
        numbers = key.public_key().public_numbers()
        members = {"e": _number(numbers.e), "kty": "RSA", "n": _number(numbers.n)}
    told = json.dumps(members, separators=(",", ":"), sort_keys=True).encode()
    return members | {"kid": _text(hashlib.sha256(told).digest()), "use": "sig", "alg": alg}


def assertion(
    pem: str, alg: str, *, client_id: str, audience: str, now: float | None = None
) -> str:
    """Good for one request: `jti` is new each time."""
    key, at = _load(pem), int(time.time() if now is None else now)
    head = {"alg": alg, "typ": "JWT", "kid": public_jwk(pem, alg)["kid"]}
    claims: dict[str, Any] = {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "jti": secrets.token_urlsafe(16),
    }
    claims |= {"iat": at, "exp": at + LIFE_S}
    signed = ".".join(
        _text(json.dumps(part, separators=(",", ":")).encode()) for part in (head, claims)
    )
    return f"{signed}.{_text(_sign(key, alg, signed.encode()))}"


def _sign(key: Key, alg: str, message: bytes) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):  # r and s side by side (RFC 7518 section 3.4)
        r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    if alg == "PS256":
        salted = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256().digest_size)
        return key.sign(message, salted, hashes.SHA256())
    return key.sign(message, padding.PKCS1v15(), hashes.SHA256())


def _load(pem: str) -> Key:
    """Raises Unsuitable."""
    try:
        key = serialization.load_pem_private_key(pem.strip().encode(), None)
    except TypeError:
        raise Unsuitable("The private key has a password. Paste it without one.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Unsuitable("The private key cannot be read. Paste it as PEM.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise Unsuitable("The private key is of a kind we cannot sign with. Use EC or RSA.")
    return key


def _number(value: int, length: int | None = None) -> str:
    return _text(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
