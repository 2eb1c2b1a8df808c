"""What an admin can say about a gateway: one rule behind form, JSON API and import.

Unknown names are refused by name. Messages tell the person what to do. Secrets are `SecretStr` and
write-only: a field that is not named keeps what is stored, None removes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from .errors import Invalid

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SLUG = re.compile(r"[a-z][a-z0-9-]{0,31}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\xa1-\xff]{0,4096}")
_OUR_HEADERS = {  # of an upstream request: set by us, so nobody may set them (SEC-036, SEC-040)
    *("host", "content-length", "content-type", "transfer-encoding", "connection", "accept"),
    *("cookie", "te", "trailer", "upgrade", "keep-alive", "accept-encoding", "mcp-session-id"),
    *("mcp-protocol-version", "mcp-method", "mcp-name", "last-event-id", "proxy-authorization"),
}
PROTOCOL_PARAMETERS = {  # never taken from extra parameters or a URL's query (oauth.md 1.1)
    *("client_id", "client_secret", "code", "code_verifier", "grant_type", "redirect_uri"),
    *("refresh_token", "request", "request_uri", "resource", "response_mode", "response_type"),
    *("scope", "state", "audience"),
}
_PROTOCOL_PREFIXES = ("client_assertion", "code_challenge")
T = TypeVar("T", bound="Spec")


class Spec(BaseModel):
    model_config = ConfigDict(
        extra="forbid", hide_input_in_errors=True, frozen=True, str_strip_whitespace=True
    )


def _check_url(url: str) -> str:
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise ValueError("An address cannot hold spaces or control characters.")
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("This is not an address.") from None
    plain = parts.scheme == "http" and host in _LOOPBACK
    if not host or (parts.scheme != "https" and not plain):
        raise ValueError("Start with https:// (http:// is for this machine only).")
    if parts.username is not None or parts.password is not None:
        raise ValueError("Leave user and password out of the address.")
    if parts.fragment:
        raise ValueError("Leave out the part after #.")
    return url


def _check_slug(slug: str) -> str:
    if not _SLUG.fullmatch(slug):
        raise ValueError("Use small letters, digits and -, starting with a letter; at most 32.")
    return slug


def _scopes(value: Any) -> Any:
    """A list, or text with spaces. [] means: send none; None: automatic."""
    if isinstance(value, str):
        value = value.split() or None
    if isinstance(value, list) and any(isinstance(one, str) and "," in one for one in value):
        raise ValueError("Scopes cannot contain commas. Use spaces.")
    return value


def _check_scope(scope: str) -> str:
    if not re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}", scope):  # RFC 6749 section 3.3
        raise ValueError("A scope cannot hold spaces, quotes or other than ASCII letters.")
    return scope


def _auth_method(value: Any) -> Any:
    known = {"client_secret_basic": "basic", "client_secret_post": "post"}
    return known.get(value, value) if isinstance(value, str) else value


def _check_extra(pairs: dict[str, str]) -> dict[str, str]:
    for name in pairs:
        if name in PROTOCOL_PARAMETERS or name.startswith(_PROTOCOL_PREFIXES):
            raise ValueError(f"{name} is set by the gateway and cannot be given here.")
    return pairs


def _check_secret(secret: SecretStr | None) -> SecretStr | None:
    """Cut spaces at the ends, which come with copying; an empty secret is none."""
    text = secret.get_secret_value().strip() if secret is not None else ""
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("It holds a line break or another control character.")
    return SecretStr(text) if text else None


Endpoint = Annotated[str, Field(max_length=1024), AfterValidator(_check_url)]
Slug = Annotated[str, AfterValidator(_check_slug)]
Scopes = Annotated[
    list[Annotated[str, AfterValidator(_check_scope)]] | None, BeforeValidator(_scopes)
]
Secret = Annotated[SecretStr | None, AfterValidator(_check_secret)]
Extra = Annotated[dict[str, str], Field(max_length=20), AfterValidator(_check_extra)]
AuthMethod = Annotated[
    Literal["auto", "basic", "post", "none", "private_key_jwt"], BeforeValidator(_auth_method)
]


class TokenManagement(Spec):
    """Absent means all off: a token is asked for per operation and then forgotten."""

    store_tokens: bool = False
    auto_refresh: bool = False
    refresh_threshold_seconds: int | None = Field(
        default=None, ge=0, le=86_400
    )  # None: the setting
    keep_alive: bool = False

    @model_validator(mode="after")
    def _needs_storage(self) -> TokenManagement:
        if (self.auto_refresh or self.keep_alive) and not self.store_tokens:
            raise ValueError("Tokens can only be renewed if they are stored.")
        return self


class Offline(Spec):
    """What is added when a refresh token is wanted."""

    scopes: list[str] = []
    params: Extra = {}


class Reply(Spec):
    """How to read odd token replies (oauth.md section 5)."""

    token_path: str | None = None
    form: bool = False
    ok_field: str | None = None
    bearer_aliases: list[str] = []
    scope_separator: Literal[" ", ","] = " "
    errors: dict[str, str] = {}


class Lifetime(Spec):
    """Seconds to assume when nothing says how long a token lives; `always`: even if it does."""

    default: int | None = Field(default=None, ge=1)
    always: int | None = Field(default=None, ge=1)
    unit: Literal["s", "ms"] = "s"


class OAuthConfigSpec(Spec):
    """`oauth_config`, with the names of oauth.md 1.1. Secrets are not part of what is stored."""

    grant_type: Literal["authorization_code", "client_credentials"]
    client_id: Annotated[str, Field(max_length=2048)] | None = None
    client_secret: Secret = None
    client_private_key: Secret = None
    issuer: Endpoint | None = None
    authorization_url: Endpoint | None = None
    token_url: Endpoint | None = None
    refresh_url: Endpoint | None = None
    revocation_url: Endpoint | None = None
    revocation_style: Literal["rfc7009", "github", "slack", "dropbox", "notion", "none"] = "rfc7009"
    userinfo_url: Endpoint | None = None
    account_path: list[str] = []
    redirect_uri: Endpoint | None = None
    scopes: Scopes = None
    scope_separator: Literal[" ", ","] = " "
    scope_param: Literal["scope", "user_scope"] = "scope"
    offline: Offline | None = None
    audience: Annotated[str, Field(max_length=512)] | None = None
    resource: Annotated[str, Field(max_length=2048)] = "auto"
    token_endpoint_auth_method: AuthMethod = "auto"  # noqa: S105  # a name
    assertion_audience: str = "issuer"
    assertion_alg: Literal["ES256", "RS256", "PS256"] = "ES256"
    client_id_in_body: bool = False
    extra_authorize_params: Extra = {}
    extra_token_params: Extra = {}
    token_request_format: Literal["form", "json"] = "form"  # noqa: S105  # a name
    reply: Reply = Reply()
    lifetime: Lifetime = Lifetime()
    pkce: Literal["required", "unadvertised", "off"] = "required"
    token_management: TokenManagement = TokenManagement()

    @field_validator("resource")
    @classmethod
    def _resource_is_absolute(cls, value: str) -> str:
        if value not in ("auto", "never") and not urlsplit(value).scheme:
            raise ValueError("Use auto, never, or an absolute URI (RFC 8707 section 2).")
        return value or "auto"

    @model_validator(mode="after")
    def _has_what_the_grant_needs(self) -> OAuthConfigSpec:
        if self.token_url is None:
            raise ValueError("token_url: Enter the token URL of the provider.")
        if self.grant_type == "authorization_code" and self.authorization_url is None:
            raise ValueError("authorization_url: Enter the authorization URL of the provider.")
        return self

    @property
    def stores(self) -> bool:
        return self.token_management.store_tokens

    def settings(self) -> dict[str, Any]:
        """What `OAuthConfig.settings` holds: all but the client id and the secrets, as JSON."""
        hidden = {"client_id", "client_secret", "client_private_key"}
        return self.model_dump(mode="json", exclude=hidden)


class BasicAuth(Spec):
    username: Annotated[str, Field(min_length=1, max_length=200)]
    password: Secret = None

    @field_validator("username")
    @classmethod
    def _no_colon(cls, value: str) -> str:
        if ":" in value or re.search(r"[\x00-\x1f\x7f]", value):
            raise ValueError("A user name cannot hold a colon or control characters.")
        return value


class GatewaySpec(Spec):
    """A gateway as an admin describes it. `slug` is made from the name when it is not given."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    slug: Slug | None = None
    description: Annotated[str, Field(max_length=500)] = ""
    url: Endpoint
    transport: Literal["auto", "http", "sse"] = "auto"
    auth_type: Literal["none", "basic", "bearer", "headers", "oauth"] = "none"
    basic: BasicAuth | None = None
    bearer_token: Secret = None
    headers: dict[str, Secret] | None = None  # a None value keeps what is stored under the name
    oauth_config: OAuthConfigSpec | None = None
    enabled: bool = True
    timeout_s: float | None = Field(default=None, ge=1, le=3600)

    @field_validator("headers")
    @classmethod
    def _headers_are_harmless(cls, value: dict[str, Secret] | None) -> dict[str, Secret] | None:
        for name, secret in (value or {}).items():
            if not _HEADER_NAME.fullmatch(name) or name.lower() in _OUR_HEADERS:
                raise ValueError(f"{name[:50]!r} cannot be set as a header.")
            if secret is not None and not _HEADER_VALUE.fullmatch(secret.get_secret_value()):
                raise ValueError(f"The value of {name} holds characters a header cannot carry.")
        return value

    @model_validator(mode="after")
    def _has_its_authentication(self) -> GatewaySpec:
        if self.auth_type == "oauth" and self.oauth_config is None:
            raise ValueError("oauth_config: Say how tokens are got.")
        if self.auth_type == "basic" and self.basic is None:
            raise ValueError("basic: Enter the user name and the password.")
        if self.auth_type == "headers" and not self.headers:
            raise ValueError("headers: Enter at least one header.")
        return self


def read(spec: type[T], data: Mapping[str, Any]) -> T:
    """`data` as a spec. Raises Invalid: a path such as "oauth_config.token_url" to a sentence."""
    try:
        return spec.model_validate(data)
    except ValidationError as error:
        raise Invalid(_fields(error)) from None  # its text may quote what was sent


_SENTENCES = {  # pydantic's error types in our words
    "missing": "This is required.",
    "extra_forbidden": "There is no such field.",
    "string_type": "This must be text.",
    "string_too_short": "This is required.",
    "string_too_long": "This is too long: at most {max_length} characters.",
    "bool_type": "This must be true or false.",
    "bool_parsing": "This must be true or false.",
    "int_parsing": "This must be a whole number.",
    "float_parsing": "This must be a number.",
    "greater_than_equal": "This must be at least {ge}.",
    "less_than_equal": "This must be at most {le}.",
    "literal_error": "This must be one of: {expected}.",
    "model_type": "This must be an object.",
    "dict_type": "This must be an object.",
    "list_type": "This must be a list.",
}


def _fields(error: ValidationError) -> dict[str, str]:
    """The first sentence per field. A rule over several fields names its own: "field: sentence"."""
    found: dict[str, str] = {}
    for one in error.errors(include_input=False, include_url=False):
        path = ".".join(str(part) for part in one["loc"] if not str(part).startswith("function-"))
        text = one["msg"].removeprefix("Value error, ")
        named, _, sentence = text.partition(": ")
        if one["type"] == "value_error" and re.fullmatch(r"[a-z_]+", named):
            path, text = ".".join(filter(None, (path, named))), sentence
        elif one["type"] in _SENTENCES:
            text = _SENTENCES[one["type"]].format_map(one.get("ctx", {}))
        found.setdefault(path or "record", text)
    return found
