"""The form of a gateway. It draws a record and sends back what was changed, as a patch of it.

What is not changed is not sent on, so saving with nothing typed changes nothing, also in fields
that the form does not draw. GatewaySpec decides; the form has no rules of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from wtforms import (
    BooleanField,
    Field,
    HiddenField,
    PasswordField,
    RadioField,
    SelectField,
    StringField,
)
from wtforms import TextAreaField as Area

from ... import specs, strict_json
from ...errors import Invalid
from ...oauth import sharing
from ...oauth.signing import GENERATE
from ...specs import SET, GatewaySpec
from ..forms import Asking
from . import gateway_fields as fields

SECRET_OF = {  # the authentication type -> the field of its secret
    **{"basic": "password", "bearer": "bearer_token", "headers": "headers"},
    "oauth": "client_secret",
}
_PASTED = {"client_key": "", "client_private_key": "oauth"}  # -> the only type that has it
_CODE_ONLY = {"authorization_url", "pkce", "own_redirect", "extra_authorize_params", "keep_people"}
_CODE_ONLY |= {"auto_refresh", "keep_alive", "refresh_threshold_seconds", "trusts_shared_callback"}
_DRAWN_AT = {"redirect_uri": "own_redirect", "store_tokens": "keep_people", "basic": "username"}
_DRAWN_AT |= {"oauth_config": "grant_type"}
_DRAWN_AT |= {"token_management": "keep_people", "record": "name"}
Patch = dict[str, Any]


class GatewayForm(Asking):
    """`record` is that of the gateway, {} for a new one; `notices` what was changed on the way."""

    name = StringField("Name")
    slug = StringField("Slug")
    description = StringField("Description")
    url = StringField("Server URL")
    transport = SelectField(
        "Transport", choices=fields.choices(fields.TRANSPORTS), validate_choice=False
    )
    timeout_s = StringField("Timeout, in seconds")
    ca_pem = Area("CA certificate")
    client_cert_pem = Area("Client certificate")
    client_key = Area("Private key of the client certificate")
    remove_client_cert = BooleanField("Remove the certificate and its key")
    auth_type = SelectField(
        "Authentication type", choices=fields.choices(fields.AUTH_TYPES), validate_choice=False
    )
    username = StringField("User name")
    password = PasswordField("Password")
    bearer_token = PasswordField("Bearer token")
    headers = Area("Headers")
    grant_type = RadioField(
        "Who signs in?", choices=fields.choices(fields.GRANTS), validate_choice=False
    )
    client_id = StringField("Client ID")
    client_secret = PasswordField("Client secret")
    remove_client_secret = BooleanField("Remove the stored secret")
    scopes = StringField("Scopes")
    authorization_url = StringField("Authorization URL")
    token_url = StringField("Token URL")
    revocation_url = StringField("Revocation URL")
    keep_people = BooleanField("Keep people connected")
    auto_refresh = BooleanField("Refresh tokens before they end")
    keep_alive = BooleanField("Keep idle sign-ins alive")
    keep_shared = BooleanField("Keep the shared token until it ends")
    refresh_threshold_seconds = StringField("Refresh this many seconds before the end")
    token_endpoint_auth_method = SelectField(
        "How we show who we are", choices=fields.choices(fields.METHODS), validate_choice=False
    )
    client_private_key = Area("Private key to sign with")
    make_private_key = BooleanField("Make a key for me")
    remove_private_key = BooleanField("Remove the stored key")
    assertion_alg = SelectField(
        "Algorithm", choices=fields.choices(fields.ALGORITHMS), validate_choice=False
    )
    assertion_audience = StringField("Audience of what is signed")
    issuer = StringField("Issuer")
    audience = StringField("Audience")
    resource = StringField("Resource")
    pkce = SelectField("PKCE", choices=fields.choices(fields.PKCE), validate_choice=False)
    own_redirect = BooleanField("Use a redirect URI for this gateway alone")
    trusts_shared_callback = BooleanField("I trust both providers")
    extra_authorize_params = Area("More parameters for the authorization URL")
    extra_token_params = Area("More parameters for the token URL")
    more = Area("Further settings, as JSON")
    sign_out = BooleanField("Sign people out, where my changes need it")
    seen_host = HiddenField()  # where people will be sent, as the page said
    as_of = HiddenField()  # what was there when the form was drawn

    def __init__(
        self,
        record: Mapping[str, Any],
        shared: str,
        offered: Mapping[str, str | bool] | None = None,
    ) -> None:
        """`shared`: the redirect URI of all gateways; `offered`: what a new one starts with."""
        self.record, self.shared, self.notices = record, shared, list[str]()
        self.shown = fields.draw(record, shared)
        super().__init__(data={**fields.OFFERED, **self.shown, **(offered or {})})
        said = {name: value for name, value in record.items() if name != "found"}
        text = json.dumps(said, sort_keys=True).encode()
        now, asked = hashlib.sha256(text).hexdigest()[:16], self.as_of.data
        self._is_outdated, self.as_of.data = asked not in (None, "", now), now

    def spec(self) -> GatewaySpec:
        """What was typed, over what is there. Raises Invalid, with all that is wrong at once."""
        wrong: dict[str, str] = {}
        if self._is_outdated:  # saving would take back what somebody else changed
            wrong["name"] = "Somebody else saved this meanwhile. Compare, then save again."
        patch = self._patch(wrong)
        try:
            whole = self._whole(patch)
            spec = specs.read(GatewaySpec, whole, notices=self.notices, finds_out=True)
        except Invalid as error:
            raise Invalid(error.fields | wrong) from None
        if wrong:
            raise Invalid(wrong)
        return spec

    @contextmanager
    def problems(self) -> Iterator[None]:
        """Invalid becomes a sentence beside its field; a typed secret is asked for again."""
        secrets = self.typed_secrets
        try:
            yield
        except Invalid as error:
            for path, sentence in error.fields.items():
                field, shown = self._place(path, sentence)
                field.errors = [*field.errors, shown]
            for secret in secrets:
                self[secret].errors = [*self[secret].errors, "Enter the secret again."]
            self._forget_secrets()

    def _forget_secrets(self) -> None:
        """What is not sent back, nor kept in a draft."""
        typed = ("password", "bearer_token", "client_secret", "own_password")
        for name in (*typed, *_PASTED):
            self[name].data = ""
        for pasted in (self.ca_pem, self.client_cert_pem):
            pasted.data = "" if "PRIVATE KEY" in (pasted.data or "") else pasted.data
        named = [line.partition(":") for line in fields.lines(self.headers.data)]
        self.headers.data = "\n".join(f"{name.strip()}: " for name, sign, _ in named if sign)

    def without_secrets(self) -> dict[str, str | bool]:
        """All that is typed, complete or not, for a draft."""
        self._forget_secrets()
        hidden = ("csrf_token", "as_of", "seen_host")
        return {
            field.name: field.data[:20_000] if isinstance(field.data, str) else field.data
            for field in self
            if field.name not in hidden and isinstance(field.data, str | bool)
        }

    @property
    def needs_endpoints(self) -> bool:
        """Something stands in that part, is wrong with it, or nobody else can say it."""
        names = ("authorization_url", "token_url", "revocation_url")
        return any(self[name].data or self[name].errors for name in names)

    @property
    def typed_secrets(self) -> list[str]:
        """The fields that hold a new secret, of the chosen authentication type."""
        name = SECRET_OF.get(self.auth_type.data or "")
        values = [line.partition(":")[2].strip() for line in fields.lines(self.headers.data)]
        is_typed = any(values) if name == "headers" else bool(name and self[name].data)
        here = ("", self.auth_type.data)
        keys = [one for one, of in _PASTED.items() if of in here and fields.unify(self[one].data)]
        return [*([name] if name and is_typed else []), *keys]

    @property
    def stored_meanwhile(self) -> list[tuple[str, str]]:
        """After another's save: what is stored where it differs from what stands here."""
        names = [name for name in self.shown if self._changed(name)] if self._is_outdated else []
        return [
            (self[name].label.text, fields.worded(self[name], self.shown[name])) for name in names
        ]

    @property
    def has_own_tls(self) -> bool:
        """Something stands in that part, or is wrong with it."""
        names = ("ca_pem", "client_cert_pem", "client_key")
        return any(self[name].data or self[name].errors for name in names)

    @property
    def has_own_key(self) -> bool:
        """What we sign with is chosen, asked for, or something is wrong with it."""
        names = ("client_private_key", "make_private_key", "assertion_alg", "assertion_audience")
        is_chosen = self.token_endpoint_auth_method.data == "private_key_jwt"
        is_wanted = is_chosen or bool(self.make_private_key.data)
        return is_wanted or any(self[name].errors for name in names)

    @property
    def has_hidden_errors(self) -> bool:
        """A problem in the part that is closed."""
        names = ("refresh_threshold_seconds", "issuer", "audience", "resource", "pkce", "more")
        more = ("own_redirect", "trusts_shared_callback", "extra_authorize_params")
        rest = ("extra_token_params", "token_endpoint_auth_method")
        return any(self[name].errors for name in (*names, *more, *rest))

    def _whole(self, patch: Patch) -> Patch:
        base = {name: value for name, value in self.record.items() if name not in specs.GIVEN}
        return specs.merge(base, patch)

    def _place(self, path: str, sentence: str) -> tuple[Field, str]:
        parts = path.split(".")
        while len(parts) > 1 and parts[0] in ("oauth_config", "basic", "token_management"):
            parts = parts[1:]
        name = _DRAWN_AT.get(parts[0], parts[0])
        if name in fields.RARE or name not in self:
            return self.more, f"{'.'.join(parts)}: {sentence}"
        return self[name], sentence

    def _changed(self, name: str) -> bool:
        return name not in self.shown or fields.unify(self[name].data) != fields.unify(
            self.shown[name]
        )

    def _patch(self, wrong: dict[str, str]) -> Patch:
        """What differs from the record, in the blocks of the chosen authentication type."""
        own = ("name", "slug", "description", "url", "transport", "timeout_s", "auth_type")
        patch = self._texts((*own, "ca_pem", "client_cert_pem"))
        patch["client_key"] = fields.unify(self.client_key.data) or ""
        if self.remove_client_cert.data and not patch["client_key"]:
            patch |= {"client_cert_pem": None, "client_key": None}
        auth_type = self.auth_type.data
        if auth_type == "basic":
            patch["basic"] = self._texts(("username",)) | {"password": self.password.data or ""}
        elif auth_type == "bearer":
            patch["bearer_token"] = self.bearer_token.data or ""
        elif auth_type == "headers" and self._changed("headers"):
            patch["headers"] = self._headers(wrong)
        elif auth_type == "oauth":
            patch["oauth_config"] = self._oauth(wrong)
        return patch

    def _texts(self, names: tuple[str, ...]) -> Patch:
        """Blank is None, which is the default, or missed where it is required."""
        return {
            name: fields.unify(self[name].data) or None for name in names if self._changed(name)
        }

    def _headers(self, wrong: dict[str, str]) -> Patch:
        given = fields.pairs(self.headers.data, ":", "headers", wrong)
        old = self.record.get("headers", {})
        values = {name: value or (SET if name in old else "") for name, value in given.items()}
        return dict.fromkeys(old) | values

    def _oauth(self, wrong: dict[str, str]) -> Patch:
        is_code = self.grant_type.data == "authorization_code"
        skipped = set() if is_code else _CODE_ONLY
        patch = self._texts(tuple(name for name in fields.PLAIN if name not in skipped))
        patch["client_secret"] = None if self._removes_secret() else self.client_secret.data or ""
        patch["client_private_key"] = self._key(wrong)
        if self._changed("scopes"):
            patch["scopes"] = self.scopes.data or None
        if is_code:
            patch |= self._redirect()
        for name in {"extra_authorize_params", "extra_token_params"} - skipped:
            if self._changed(name):
                given = fields.pairs(self[name].data, "=", f"oauth_config.{name}", wrong)
                patch[name] = dict.fromkeys(self._stored(name, {})) | given
        if self._changed("more"):
            patch |= self._more(wrong)
        patch["token_management"] = self._management(is_code)
        return patch

    def _redirect(self) -> Patch:
        """A new one that would share its path with a stranger gets one of its own (SEC-008)."""
        slug = self.record.get("slug") or self.slug.data or specs.slug_of(self.name.data or "")
        own, trusts = self.own_redirect.data, self.trusts_shared_callback.data
        patch: Patch = {}
        if self._changed("trusts_shared_callback"):
            patch["trusts_shared_callback"] = trusts
        if "oauth_config" not in self.record and not own and not trusts:
            here = sharing.place(None, self.issuer.data or None, self.token_url.data)
            others = ", ".join(sharing.taken(here))
            if others:
                own = True
                self.notices.append(
                    f"Register {self.shared}/{slug} at its provider: at the redirect URI without "
                    f"{slug}, that of {others} answers, and neither names itself."
                )
        if own != self.shown.get("own_redirect"):
            patch["redirect_uri"] = f"{self.shared}/{slug}" if own else None
        return patch

    def _removes_secret(self) -> bool:
        return bool(self.remove_client_secret.data and not self.client_secret.data)

    def _key(self, wrong: dict[str, str]) -> str | None:
        pasted = fields.unify(self.client_private_key.data) or ""
        if pasted and self.make_private_key.data:
            wrong["client_private_key"] = "Paste a key, or have one made: not both."
        if self.make_private_key.data:
            return GENERATE
        return None if self.remove_private_key.data and not pasted else pasted

    def _stored(self, name: str, otherwise: Any) -> Any:
        return self.record.get("oauth_config", {}).get(name) or otherwise

    def _more(self, wrong: dict[str, str]) -> Patch:
        """Rare settings: what is not named goes back to its default."""
        try:
            given = strict_json.loads((self.more.data or "{}").encode()) if self.more.data else {}
        except strict_json.BadJSON as error:
            wrong["more"] = str(error)
            return {}
        if not isinstance(given, dict) or not set(given) <= {*fields.RARE}:
            names = ", ".join(fields.RARE)
            wrong["more"] = f"Write an object with some of these names: {names}."
            return {}
        return {
            name: fields.replacing(self._stored(name, None), given.get(name))
            for name in fields.RARE
        }

    def _management(self, is_code: bool) -> Patch:
        """Three ticks, one switch: what needs storage goes with it."""
        keeps, patch = ("keep_people" if is_code else "keep_shared"), Patch()
        if self._changed(keeps):
            patch["store_tokens"] = self[keeps].data
        if not self[keeps].data:
            return patch | {"store_tokens": False, "auto_refresh": False, "keep_alive": False}
        if is_code and self._changed("auto_refresh"):
            patch["auto_refresh"] = self.auto_refresh.data
        if is_code and not self.auto_refresh.data:
            patch["keep_alive"] = False
        elif is_code and self._changed("keep_alive"):
            patch["keep_alive"] = self.keep_alive.data
        if is_code:
            patch |= self._texts(("refresh_threshold_seconds",))
        return patch
