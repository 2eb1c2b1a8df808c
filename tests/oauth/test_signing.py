"""How we show who we are: one way, spelled right, at every request (oauth.md 2.4)."""

import base64
import json
from dataclasses import replace
from functools import cache

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from app import gateways, specs
from app.audit import SYSTEM
from app.db import db
from app.errors import Invalid
from app.models import Connection, Revocation
from app.oauth import revocation, signing
from app.oauth.client import OAuthClient
from app.oauth.discovered import Discovered, effective
from app.oauth.registration import client_for
from app.oauth.replies import TokenSet
from app.specs import GatewaySpec, OAuthConfigSpec
from tests.oauth.test_client import GOOD, TOKEN, ask, client, form

pytestmark = pytest.mark.usefixtures("app_ctx")
ALGS = ["ES256", "RS256", "PS256"]
EC = signing.generate("ES256")
REVOKE = "https://as.test/revoke"
ISSUER = "https://as.test"
REQUESTS = ["exchange", "refresh", "client_credentials", "revoke"]
HARD = "a:b%+ ü&="
AS_FORM = "a%3Ab%25%2B+%C3%BC%26%3D"


@cache
def rsa_key() -> str:
    """One for all, made when it is first wanted: it takes its time."""
    return signing.generate("RS256")


def key_for(alg: str) -> str:
    return EC if alg == "ES256" else rsa_key()


def parts(jwt: str) -> tuple[dict, dict, bytes, bytes]:
    head, claims, signature = jwt.split(".")
    raw = [
        base64.urlsafe_b64decode(one + "=" * (-len(one) % 4)) for one in (head, claims, signature)
    ]
    return json.loads(raw[0]), json.loads(raw[1]), f"{head}.{claims}".encode(), raw[2]


def verify(jwt: str, pem: str) -> dict:
    """The claims, of a signature that somebody else's code verifies by RFC 7518."""
    head, claims, message, signature = parts(jwt)
    key = serialization.load_pem_private_key(pem.encode(), None).public_key()
    if head["alg"] == "ES256":
        assert len(signature) == 64
        r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    elif head["alg"] == "PS256":
        salted = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
        key.verify(signature, message, salted, hashes.SHA256())
    else:
        key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    return claims


def send(us: OAuthClient, request: str) -> None:
    if request == "revoke":
        us.revoke("at", "access_token", url=REVOKE, style="rfc7009", seconds=5)
    else:
        ask(us, request)


@pytest.fixture
def asked(provider):
    """The provider of the wire, which takes anything."""
    provider.post(TOKEN, json=GOOD)
    provider.post(REVOKE, json={})
    return provider


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("method", ["basic", "post", "none", "private_key_jwt"])
def test_auth_method(asked, method, request_):
    us = client(None if method == "none" else HARD, method=method, issuer=ISSUER)
    if method == "private_key_jwt":
        us = OAuthClient(replace(us.registration, client_secret=None, private_key=EC))
    send(us, request_)
    sent = asked.last_request
    body, header = form(sent), sent.headers.get("Authorization")
    shown = {
        "Authorization": header,
        **{name: body[name] for name in ("client_id", "client_secret") if name in body},
        **{name: body[name] for name in body if name.startswith("client_assertion")},
    }
    assertion = shown.pop("client_assertion", "")
    basic = "Basic " + base64.b64encode(f"cid:{AS_FORM}".encode()).decode()
    jwt = {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}
    assert (
        shown
        == {
            "basic": {"Authorization": basic},
            "post": {"Authorization": None, "client_id": "cid", "client_secret": HARD},
            "none": {"Authorization": None, "client_id": "cid"},
            "private_key_jwt": {"Authorization": None} | jwt,
        }[method]
    )
    assert "?" not in sent.url
    if method == "private_key_jwt":
        claims = verify(assertion, EC)
        assert (claims["iss"], claims["sub"], claims["aud"]) == ("cid", "cid", ISSUER)
        assert 0 < claims["exp"] - claims["iat"] <= 60


def test_sec_016_secret_with_reserved_characters(asked):
    """It arrives as it left, one way or the other, and never in the address."""
    for method in ("basic", "post"):
        ask(client(HARD, method=method), "exchange")
        sent = asked.last_request
        header, body = sent.headers.get("Authorization"), form(sent)
        if method == "basic":
            user, _, secret = (
                base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
            )
            assert (user, secret) == ("cid", AS_FORM) and "client_secret" not in body
        else:
            assert header is None and body["client_secret"] == HARD
        assert HARD not in sent.url and AS_FORM not in sent.url


@pytest.mark.parametrize("alg", ALGS)
def test_an_assertion_is_signed_as_its_head_says(alg):
    made = signing.assertion(key_for(alg), alg, client_id="cid", audience=ISSUER, now=1000)
    head = parts(made)[0]
    claims = verify(made, key_for(alg))
    jwk = signing.public_jwk(key_for(alg), alg)
    assert head == {"alg": alg, "typ": "JWT", "kid": jwk["kid"]}
    assert (claims["iat"], claims["exp"]) == (1000, 1060)
    assert not {"d", "p", "q", "dp", "dq", "qi"} & set(jwk)
    again = signing.assertion(key_for(alg), alg, client_id="cid", audience=ISSUER, now=1000)
    assert verify(again, key_for(alg))["jti"] != claims["jti"]


@pytest.mark.parametrize(
    ("said", "audience"),
    [("issuer", ISSUER), ("token_url", TOKEN), ("https://aud.test/x", "https://aud.test/x")],
)
def test_whom_an_assertion_is_for_can_be_said(asked, said, audience):
    us = client(
        None,
        method="private_key_jwt",
        issuer=ISSUER,
        assertion_audience=said,
        client_id_in_body=True,
    )
    ask(OAuthClient(replace(us.registration, private_key=EC)), "client_credentials")
    body = form(asked.last_request)
    assert verify(body["client_assertion"], EC)["aud"] == audience
    assert body["client_id"] == "cid"


# -- what an admin says ------------------------------------------------------------------------


def record(slug: str = "acme", /, **oauth) -> GatewaySpec:
    config = {
        "grant_type": "client_credentials",
        "token_url": TOKEN,
        "client_id": "cid",
        "token_endpoint_auth_method": "private_key_jwt",
    } | oauth
    given = {"name": "Acme", "slug": slug, "url": "https://192.0.2.1/mcp", "auth_type": "oauth"}
    return specs.read(GatewaySpec, given | {"oauth_config": config})


RSA = "an RSA key"  # in its place
CURVE = ec.generate_private_key(ec.SECP384R1()).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)


@pytest.mark.parametrize(
    ("oauth", "field", "word"),
    [
        ({}, "client_private_key", "Paste a private key"),
        ({"client_private_key": "nonsense"}, "client_private_key", "PEM"),
        ({"client_private_key": EC, "assertion_alg": "RS256"}, "assertion_alg", "RSA"),
        ({"client_private_key": RSA}, "assertion_alg", "P-256"),
        ({"client_private_key": CURVE.decode()}, "assertion_alg", "P-256"),
        (
            {"client_private_key": EC.replace(EC.splitlines()[1], "A" * 64)},
            "assertion_alg",
            "cannot be read",
        ),
    ],
)
def test_a_key_that_cannot_sign_so_is_refused_in_words(oauth, field, word):
    oauth = {name: key_for("RS256") if value == RSA else value for name, value in oauth.items()}
    with pytest.raises(Invalid) as refused:
        record(**oauth)
    [(path, sentence)] = refused.value.fields.items()
    assert path == f"oauth_config.{field}" and word in sentence
    assert EC.splitlines()[1] not in sentence


LISTED = {  # what the metadata lists -> how who has a key, a secret, or both shows who it is
    None: ("private_key_jwt", "basic", "private_key_jwt"),
    ("client_secret_basic",): ("none", "basic", "basic"),
    ("client_secret_post", "none"): ("none", "post", "post"),
    ("private_key_jwt",): ("private_key_jwt", "post", "private_key_jwt"),
    ("private_key_jwt", "client_secret_basic"): ("private_key_jwt", "basic", "private_key_jwt"),
}


@pytest.mark.parametrize(("listed", "ways"), LISTED.items(), ids=str)
def test_auto_signs_only_where_the_provider_takes_that(listed, ways):
    found = Discovered(issuer=ISSUER, fetched_ms=0, token_endpoint=TOKEN, auth_methods=listed)
    held = [{"client_private_key": EC, "client_secret": None}, {"client_secret": "s"}]
    for number, (more, way) in enumerate(zip([*held, held[0] | held[1]], ways, strict=True)):
        spec = record(f"acme{number}", token_endpoint_auth_method="auto", **more)  # noqa: S106
        registration_id = gateways.create(spec, by=SYSTEM).oauth_config.registration_id
        db.session.commit()
        us = client_for(registration_id, effective(spec.oauth_config, found))
        assert us.registration.method == way


@pytest.mark.parametrize("name", ["tls_client_auth", "self_signed_tls_client_auth"])
def test_a_certificate_is_shown_without_a_secret(name):
    """RFC 8705 section 2: the client id in the body, and nothing else but the certificate."""
    spec = record(token_endpoint_auth_method=name, grant_type="client_credentials")
    assert spec.oauth_config.token_endpoint_auth_method == "none"


@pytest.mark.parametrize("alg", ["ES256", "PS256"])
def test_a_key_is_made_sealed_and_published(app, alg):
    gateway = gateways.create(record(client_private_key="generate", assertion_alg=alg), by=SYSTEM)
    db.session.commit()
    held = gateway.oauth_config.registration
    assert "PRIVATE" not in held.private_key_sealed and held.public_jwk["alg"] == alg
    assert gateways.record(gateway)["oauth_config"]["client_private_key"] == "set"
    registration_id = held.id
    db.session.rollback()
    us = client_for(
        registration_id, record(client_private_key="set", assertion_alg=alg).oauth_config
    )
    assert us.registration.method == "private_key_jwt"
    signing.check(us.registration.private_key, alg)
    reply = app.test_client().get("/oauth/jwks.json", base_url="https://gw.test")
    assert reply.json == {"keys": [signing.public_jwk(us.registration.private_key, alg)]}


def test_the_revocation_queue_signs_too(asked):
    """With a copy of the key: it outlives the gateway."""
    gateway = gateways.create(
        record(
            client_private_key=EC,
            revocation_url=REVOKE,
            issuer=ISSUER,
            token_management={"store_tokens": True},
        ),
        by=SYSTEM,
    )
    db.session.commit()
    config_id, gateway_id = gateway.oauth_config.id, gateway.id
    us = client_for(
        gateway.oauth_config.registration_id,
        OAuthConfigSpec.model_validate(gateway.oauth_config.settings),
    ).registration
    db.session.rollback()
    tokens = TokenSet(access_token="canary-at", refresh_token="canary-rt")
    assert (
        revocation.drop_unkept(tokens, us, flow_id="f", user_id="u", gateway=(gateway_id, "Acme"))
        == 2
    )
    gateways.delete(gateways.find("acme"), by=SYSTEM)
    db.session.commit()
    assert revocation.work_off() == {"ended": 1} and config_id
    for sent in asked.request_history:
        claims = verify(form(sent)["client_assertion"], EC)
        assert (claims["iss"], claims["aud"]) == ("cid", ISSUER)
    assert len(asked.request_history) == 2
    row = db.session.query(Revocation).one()
    assert "PRIVATE" not in row.private_key_sealed and db.session.query(Connection).count() == 0


# -- the client test ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "known", "code"),
    [
        (400, {"error": "invalid_grant"}, True, None),
        (401, {"error": "invalid_client"}, False, "client_rejected"),
        (400, {"error": "unauthorized_client"}, False, "client_not_allowed"),
        (400, {"error": "invalid_request"}, None, "token_request_rejected"),
        (200, GOOD, None, None),
        (503, {}, None, "provider_error"),
    ],
)
def test_a_made_up_code_tells_whether_we_are_known(provider, status, body, known, code):
    provider.post(TOKEN, json=body, status_code=status)
    told = client().probe()
    assert told.known is known and (told.error and told.error.code) == code
    assert provider.call_count == 1
