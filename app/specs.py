"""What an admin can say about a gateway: one rule behind form, JSON API and import.

Unknown names are refused by name. Messages tell the person what to do. Secrets are `SecretStr` and
write-only: a field that is not named, is blank or says "set" keeps what is stored; None removes it.
What is typed must be complete; what is stored is read again without that (access.py).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote_plus, urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from . import certificates
from .errors import Invalid
from .oauth import signing
from .oauth.signing import GENERATE

SET = "set"  # what a read says where a secret is stored
SECRETS = {"bearer_token", "password", "client_secret", "client_private_key", "client_key"}
BLOCKS = {"basic": "basic", "bearer_token": "bearer", "headers": "headers", "oauth_config": "oauth"}
# In a record, and not the admin's to say.
GIVEN = ("id", "mcp_url", "created_at", "updated_at", "found")
_NEVER_NULL = ("auth_type", "enabled", "transport")
_RESERVED_SLUGS = {"new"}  # /admin/gateways/new is a page

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SLUG = re.compile(r"[a-z][a-z0-9-]{0,31}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\xa1-\xff]{0,4096}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s[\sA-Za-z0-9+/=]+-----END [A-Z ]+-----")
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


def _label(field: str | None) -> str:
    return (field or "value").replace("_", " ").replace(" url", " URL").replace(" id", " ID")


def _say(info: ValidationInfo, sentence: str) -> None:
    """Something was changed on the way in, and the person is told."""
    if info.context is not None:
        info.context["notices"].append(sentence)


def _check_text(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("It holds a line break or another control character.")
    return text


def _cut_ends(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str) and value != value.strip():
        _say(info, f"Spaces around the {_label(info.field_name)} were cut.")
        return value.strip()
    return value


def _check_url(url: str) -> str:
    if re.search(r"[^\x21-\x7e]|\\", url):
        raise ValueError("An address holds only ASCII letters, digits and signs, no spaces.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("This is not an address.") from None
    plain = parts.scheme == "http" and host in _LOOPBACK
    if not host or (parts.scheme != "https" and not plain):
        raise ValueError("Start with https:// (http:// is for this machine only).")
    if parts.username is not None or parts.password is not None:
        raise ValueError("Leave user and password out of the address.")
    if parts.fragment or url.endswith("#"):
        raise ValueError("Leave out the part after #.")
    if port is not None and port < 1024 and port not in (80, 443):  # as addresses.check_url
        raise ValueError(f"Port {port} is reserved. Use 443, 80, or one above 1023.")
    return url


def _is_protocol(name: str) -> bool:
    return name in PROTOCOL_PARAMETERS or name.startswith(_PROTOCOL_PREFIXES)


def _cut_protocol(url: str, info: ValidationInfo) -> str:
    """The URL without query parameters that the protocol sets; all other bytes as they were."""
    parts = urlsplit(url)
    pieces = parts.query.split("&")
    names = [unquote_plus(piece.partition("=")[0]) for piece in pieces]
    cut = [name for name in names if _is_protocol(name)]
    if not cut:
        return url
    kept = [piece for piece, name in zip(pieces, names, strict=True) if not _is_protocol(name)]
    which = ", ".join(dict.fromkeys(cut))
    _say(info, f"Cut from the {_label(info.field_name)}, as the gateway sets it: {which}.")
    return urlunsplit(parts._replace(query="&".join(kept)))


def _check_slug(slug: str) -> str:
    if not _SLUG.fullmatch(slug):
        raise ValueError("Use small letters, digits and -, starting with a letter; at most 32.")
    if slug in _RESERVED_SLUGS:
        raise ValueError(f"{slug} is a page of ours. Choose another.")
    return slug


def slug_of(name: str) -> str:
    """A slug from a name; "" where nothing of it can be used."""
    letters = unicodedata.normalize("NFKD", name.casefold())
    plain_letters = "".join(one for one in letters if not unicodedata.combining(one))
    slug = re.sub(r"[^a-z0-9]+", "-", plain_letters).strip("-")
    if slug and (not slug[0].isalpha() or slug in _RESERVED_SLUGS):
        slug = f"mcp-{slug}"
    return slug[:32].rstrip("-")


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
    known |= dict.fromkeys(("tls_client_auth", "self_signed_tls_client_auth"), "none")  # RFC 8705
    return known.get(value, value) if isinstance(value, str) else value


def _check_extra(pairs: dict[str, str]) -> dict[str, str]:
    for name in pairs:
        if _is_protocol(name):
            raise ValueError(f"{name} is set by the gateway and cannot be given here.")
    return pairs


def _check_secret(secret: SecretStr | None) -> SecretStr | None:
    """Blank stays blank: it keeps, where None removes."""
    if secret is not None:
        _check_text(secret.get_secret_value())
    return secret


def _check_key(secret: SecretStr | None) -> SecretStr | None:
    if typed(secret) not in (None, GENERATE) and not _PEM.fullmatch(str(typed(secret)).strip()):
        raise ValueError("Paste the key as PEM, from -----BEGIN to -----END, or say generate.")
    return secret


def _certificates(pem: str) -> str | None:
    return certificates.tidy(pem) if pem else None


def _tidy_key(secret: SecretStr | None) -> SecretStr | None:
    text = typed(secret)
    return secret if text is None else SecretStr(certificates.tidy_key(text))


def typed(secret: SecretStr | None) -> str | None:
    """What was newly typed; None where nothing was: removed, kept or blank."""
    text = secret.get_secret_value() if secret is not None else ""
    return None if text in ("", SET) else text


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("This must be a number.")  # noqa: TRY004  # what pydantic collects
    return value


def _is_there(secret: SecretStr | None) -> bool:
    return secret is not None and secret.get_secret_value() != ""


CLEAN = AfterValidator(_check_text)
Short = Annotated[str, Field(min_length=1, max_length=512), CLEAN]
Id = Annotated[str, Field(min_length=1, max_length=2048), CLEAN, BeforeValidator(_cut_ends)]
Endpoint = Annotated[str, Field(max_length=1024), AfterValidator(_check_url)]
OAuthEndpoint = Annotated[Endpoint, AfterValidator(_cut_protocol)]
Slug = Annotated[str, AfterValidator(_check_slug)]
Scope = Annotated[str, AfterValidator(_check_scope)]
Scopes = Annotated[list[Scope] | None, Field(max_length=200), BeforeValidator(_scopes)]
Secret = Annotated[
    SecretStr | None,
    Field(max_length=16_384),
    BeforeValidator(_cut_ends),  # spaces come with copying
    AfterValidator(_check_secret),
]
PrivateKey = Annotated[SecretStr | None, Field(max_length=16_384), AfterValidator(_check_key)]
Pem = Annotated[str | None, Field(max_length=65_536), AfterValidator(_certificates)]
KeyPem = Annotated[SecretStr | None, Field(max_length=16_384), AfterValidator(_tidy_key)]
Parameter = Annotated[str, Field(max_length=1024), CLEAN]
Extra = Annotated[dict[Short, Parameter], Field(max_length=20), AfterValidator(_check_extra)]
AuthMethod = Annotated[
    Literal["auto", "basic", "post", "none", "private_key_jwt"],
    BeforeValidator(_auth_method),
]
Flag = Annotated[bool, Field(strict=True)]
NUMBER = BeforeValidator(_no_flag)  # Python takes true for 1
Whole = Annotated[int, NUMBER]
Needed = Field(default=None, validate_default=True)  # absent where it is needed: its own sentence


class TokenManagement(Spec):
    """Absent means all off: a token is asked for per operation and then forgotten."""

    store_tokens: Flag = False
    auto_refresh: Flag = False
    # None: the setting
    refresh_threshold_seconds: Whole | None = Field(default=None, ge=0, le=86_400)
    keep_alive: Flag = False

    @field_validator("auto_refresh", "keep_alive")
    @classmethod
    def _needs_storage(cls, value: bool, info: ValidationInfo) -> bool:
        if value and not info.data.get("store_tokens", True):
            raise ValueError("Tokens can only be renewed if they are stored.")
        return value


class Offline(Spec):
    """What is added when a refresh token is wanted."""

    scopes: Annotated[list[Scope], Field(max_length=20)] = []
    params: Extra = {}


class Reply(Spec):
    """How to read odd token replies (oauth.md section 5)."""

    token_path: Short | None = None
    form: Flag = False
    ok_field: Short | None = None
    bearer_aliases: Annotated[list[Short], Field(max_length=20)] = []
    scope_separator: Literal[" ", ","] = " "
    errors: Annotated[dict[Short, Short], Field(max_length=50)] = {}


class Lifetime(Spec):
    """Seconds to assume when nothing says how long a token lives; `always`: even if it does."""

    default: Whole | None = Field(default=None, ge=1, le=315_360_000)
    always: Whole | None = Field(default=None, ge=1, le=315_360_000)
    unit: Literal["s", "ms"] = "s"


class OAuthConfigSpec(Spec):
    """`oauth_config`, with the names of oauth.md 1.1. Secrets are not part of what is stored."""

    grant_type: Literal["authorization_code", "client_credentials"]
    issuer: Endpoint | None = None
    authorization_url: OAuthEndpoint | None = Needed
    token_url: OAuthEndpoint | None = Needed
    refresh_url: OAuthEndpoint | None = None
    revocation_url: OAuthEndpoint | None = None
    revocation_style: Literal["rfc7009", "github", "slack", "dropbox", "notion", "none"] = "rfc7009"
    revocation_ends_all: Flag = False  # one token ended there ends all that the person granted us
    userinfo_url: Endpoint | None = None
    account_path: Annotated[list[Short], Field(max_length=10)] = []
    client_id: Id | None = Needed
    token_endpoint_auth_method: AuthMethod = "auto"  # noqa: S105  # a name
    client_private_key: PrivateKey = Needed
    client_secret: Secret = Needed
    redirect_uri: Short | None = None  # one of ours, which gateways.py knows
    trusts_shared_callback: Flag = False  # kept in a column of its own (SEC-008)
    scopes: Scopes = None
    scope_separator: Literal[" ", ","] = " "
    scope_param: Literal["scope", "user_scope"] = "scope"
    offline: Offline | None = None
    audience: Short | None = None
    resource: Annotated[str, Field(max_length=1024), CLEAN] = "auto"
    assertion_audience: Short = "issuer"
    assertion_alg: Literal["ES256", "RS256", "PS256"] = Field(
        default="ES256", validate_default=True
    )
    client_id_in_body: Flag = False
    extra_authorize_params: Extra = {}
    extra_token_params: Extra = {}
    token_request_format: Literal["form", "json"] = "form"  # noqa: S105  # a name
    reply: Reply = Reply()
    lifetime: Lifetime = Lifetime()
    pkce: Literal["required", "unadvertised", "off"] = "required"
    token_management: TokenManagement = TokenManagement()
    template: Short | None = None  # oauth.templates: where these values came from; columns too
    template_version: Whole | None = Field(default=None, ge=0, le=1_000_000)

    @field_validator("authorization_url", "token_url", "client_id")
    @classmethod
    def _is_known(cls, value: str | None, info: ValidationInfo) -> str | None:
        """By hand all three are needed; what finds them out by itself asks for none of them."""
        grant, context = info.data.get("grant_type", ""), info.context
        is_asked = context is not None and not context["finds_out"]
        if value is None and is_asked and grant in _NEEDS[str(info.field_name)]:
            raise ValueError(ENTER[str(info.field_name)])
        return value

    @field_validator("client_private_key")
    @classmethod
    def _key_for_its_method(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        is_wanted = info.data.get("token_endpoint_auth_method") == "private_key_jwt"
        if is_wanted and info.context is not None and not _is_there(value):
            raise ValueError("Paste a private key, or let one be made.")
        return _of_a_client(value, info)

    @field_validator("assertion_alg")
    @classmethod
    def _key_can_sign_so(cls, value: str, info: ValidationInfo) -> str:
        key = typed(info.data.get("client_private_key"))
        if key not in (None, GENERATE):
            signing.check(str(key), value)  # raises ValueError with its sentence
        return value

    @field_validator("client_secret")
    @classmethod
    def _secret_for_its_method(
        cls, value: SecretStr | None, info: ValidationInfo
    ) -> SecretStr | None:
        if info.context is None or _is_there(value):
            return _of_a_client(value, info)
        method, grant = info.data.get("token_endpoint_auth_method"), info.data.get("grant_type")
        if method in ("basic", "post"):
            raise ValueError("Enter the client secret, or choose another way to show who we are.")
        has_key = _is_there(info.data.get("client_private_key"))
        if grant == "client_credentials" and method == "auto" and not has_key:
            raise ValueError("Enter the client secret.")
        return value

    @field_validator("resource")
    @classmethod
    def _resource_is_absolute(cls, value: str) -> str:
        parts = urlsplit(value)
        if value not in ("auto", "never") and (not parts.scheme or "#" in value or " " in value):
            raise ValueError("Use auto, never, or an absolute URI without # (RFC 8707 section 2).")
        return value

    @property
    def stores(self) -> bool:
        return self.token_management.store_tokens

    def settings(self) -> dict[str, Any]:
        """What `OAuthConfig.settings` holds: all that has no column of its own, as JSON."""
        hidden = {"client_id", "client_secret", "client_private_key", "trusts_shared_callback"}
        return self.model_dump(mode="json", exclude=hidden | {"template", "template_version"})


def _of_a_client(secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    """Without a client ID it would be stored nowhere. One shared account has one in any case."""
    is_code = info.data.get("grant_type") == "authorization_code"
    is_stray = is_code and info.data.get("client_id", "") is None  # a wrong one is said already
    if is_stray and typed(secret) is not None and info.context is not None:
        raise ValueError("Enter the client ID that it belongs to, too.")
    return secret


_BOTH = ("authorization_code", "client_credentials")
_NEEDS = {"authorization_url": _BOTH[:1], "token_url": _BOTH, "client_id": _BOTH}
ENTER = {
    "authorization_url": "Enter the authorization URL of the provider.",
    "token_url": "Enter the token URL of the provider.",
    "client_id": "Enter the client ID you got from the provider.",
}


class BasicAuth(Spec):
    username: Annotated[str, Field(min_length=1, max_length=200), CLEAN]
    password: Secret = Needed

    @field_validator("username")
    @classmethod
    def _no_colon(cls, value: str) -> str:
        if ":" in value:
            raise ValueError("A user name cannot hold a colon.")
        return value

    @field_validator("password")
    @classmethod
    def _is_typed(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if info.context is not None and not _is_there(value):
            raise ValueError("Enter the password.")
        return value


class GatewaySpec(Spec):
    """A gateway as an admin describes it. `slug` is made from the name when it is not given."""

    name: Annotated[str, Field(min_length=1, max_length=100), CLEAN]
    slug: Slug | None = None
    description: Annotated[str, Field(max_length=500), CLEAN] = ""
    url: Endpoint
    transport: Literal["auto", "http", "sse"] = "auto"
    auth_type: Literal["none", "basic", "bearer", "headers", "oauth"] = "none"
    basic: BasicAuth | None = Needed
    bearer_token: Secret = Needed
    headers: Annotated[dict[str, Secret] | None, Field(max_length=20)] = Needed
    oauth_config: OAuthConfigSpec | None = Needed
    enabled: Flag = True
    timeout_s: Annotated[float, NUMBER] | None = Field(default=None, ge=1, le=3600)
    ca_pem: Pem = None  # trusted beside the usual CAs, for this gateway's calls alone
    client_cert_pem: Pem = None
    client_key: KeyPem = Needed

    @field_validator("basic", "headers", "oauth_config", "bearer_token")
    @classmethod
    def _belongs_to_its_type(cls, value: Any, info: ValidationInfo) -> Any:
        name, chosen = str(info.field_name), info.data.get("auth_type")
        if chosen is not None and chosen != BLOCKS[name] and value is not None:
            raise ValueError(f"This belongs to the authentication type {BLOCKS[name]}.")
        if chosen == BLOCKS[name] and not value and name != "bearer_token":
            raise ValueError(_SAY[name])
        return value

    @field_validator("bearer_token")
    @classmethod
    def _token_fits_a_header(
        cls, value: SecretStr | None, info: ValidationInfo
    ) -> SecretStr | None:
        is_needed = info.data.get("auth_type") == "bearer" and info.context is not None
        if is_needed and not _is_there(value):
            raise ValueError("Enter the token.")
        if not re.fullmatch(r"[\x21-\x7e]*", value.get_secret_value() if value else ""):
            raise ValueError("A token holds only ASCII letters, digits and signs, no spaces.")
        return value

    @field_validator("client_key")
    @classmethod
    def _key_has_its_certificate(
        cls, value: SecretStr | None, info: ValidationInfo
    ) -> SecretStr | None:
        """A stored key goes with its certificate."""
        certificate = info.data.get("client_cert_pem", "")
        if certificate and not _is_there(value):
            raise ValueError("Paste the private key of the certificate.")
        if certificate is None and typed(value) is not None:
            raise ValueError("Paste the certificate that this key belongs to.")
        return None if certificate is None else value

    @field_validator("headers")
    @classmethod
    def _headers_are_harmless(
        cls, value: dict[str, SecretStr | None] | None, info: ValidationInfo
    ) -> dict[str, SecretStr | None] | None:
        seen: set[str] = set()
        for name, secret in (value or {}).items():
            if not _HEADER_NAME.fullmatch(name) or name.lower() in _OUR_HEADERS:
                raise ValueError(f"{ascii(name[:50])} cannot be set as a header.")
            if name.lower() in seen:
                raise ValueError(f"{name} stands twice.")
            seen.add(name.lower())
            if not _is_there(secret) and info.context is not None:
                raise ValueError(f"Enter the value of {name}.")
            if not _HEADER_VALUE.fullmatch(typed(secret) or ""):
                raise ValueError(f"The value of {name} holds characters a header cannot carry.")
        return value


_SAY = {
    "basic": "Enter the user name and the password.",
    "headers": "Enter at least one header.",
    "oauth_config": "Say how tokens are got.",
}


def read(
    spec: type[T],
    data: Mapping[str, Any],
    *,
    notices: list[str] | None = None,
    finds_out: bool = False,
) -> T:
    """`data`, as typed, as a spec. Raises Invalid: a path such as "oauth_config.token_url" to a
    sentence. What was changed on the way in is added to `notices`, in sentences for the person.

    `finds_out`: what a provider publishes may be absent, as somebody will ask it.
    """
    context = {"notices": notices if notices is not None else [], "finds_out": finds_out}
    try:
        return spec.model_validate(data, context=context)
    except ValidationError as error:
        raise Invalid(_fields(error)) from None  # its text may quote what was sent


def faults(spec: type[Spec], data: Mapping[str, Any]) -> dict[str, str]:
    """What stands against `data` as far as it goes: what only a whole record needs may be absent.

    A path to a sentence, as in Invalid.
    """
    try:
        spec.model_validate(data)
    except ValidationError as error:
        return _fields(error)
    return {}


def merge(record: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A gateway's record with a patch, as RFC 7396, ready for `read`.

    At the place of a secret blank keeps, and None stays, as that removes it. Blocks of another
    authentication type than the merged one are left behind, unless the patch names them. What
    has no empty value stays None for `read` to refuse: a default there would drop what is stored.
    """
    whole = _merge(record, patch, within="")
    whole |= {name: None for name in _NEVER_NULL if patch.get(name, whole) is None}
    others = [name for name, kind in BLOCKS.items() if kind != whole.get("auth_type")]
    return {name: value for name, value in whole.items() if name not in others or name in patch}


def _merge(record: Mapping[str, Any], patch: Mapping[str, Any], within: str) -> dict[str, Any]:
    whole = dict(record)
    for name, value in patch.items():
        is_secret = name in SECRETS or within == "headers"
        if is_secret and value == "" and whole.get(name) == SET:
            continue
        if value is None and name not in SECRETS:
            whole.pop(name, None)
        elif isinstance(value, Mapping):
            old = whole.get(name)
            whole[name] = _merge(old if isinstance(old, Mapping) else {}, value, name)
        else:
            whole[name] = value
    return whole


def plain(spec: Spec) -> dict[str, Any]:
    """The spec beside a record: of its secrets only "new", "set" (kept by name) or "" (removed).

    Secrets that are blank or not named, and None elsewhere, are left out.
    """
    shown: dict[str, Any] = {}
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        if name in SECRETS:
            is_named = name in spec.model_fields_set and (value is None or _is_there(value))
            shown |= {name: _mark(value)} if is_named else {}
        elif name == "headers" and value:
            shown[name] = {header: _mark(secret) for header, secret in value.items()}
        elif value is not None:
            shown[name] = plain(value) if isinstance(value, Spec) else value
    return shown


def _mark(secret: SecretStr | None) -> str:
    if secret is None:
        return ""
    return SET if typed(secret) is None else "new"


_SENTENCES = {  # pydantic's error types in our words
    "missing": "This is required.",
    "extra_forbidden": "There is no such field.",
    "string_type": "This must be text.",
    "string_too_short": "This is required.",
    "string_too_long": "This is too long: at most {max_length} characters.",
    "too_long": "These are too many: at most {max_length}.",
    "bool_type": "This must be true or false.",
    "bool_parsing": "This must be true or false.",
    "int_type": "This must be a whole number.",
    "int_parsing": "This must be a whole number.",
    "int_parsing_size": "This must be a whole number.",
    "int_from_float": "This must be a whole number.",
    "float_type": "This must be a number.",
    "float_parsing": "This must be a number.",
    "finite_number": "This must be a number.",
    "greater_than_equal": "This must be at least {ge:g}.",
    "less_than_equal": "This must be at most {le:g}.",
    "literal_error": "This must be one of: {expected}.",
    "model_type": "This must be an object.",
    "dict_type": "This must be an object.",
    "list_type": "This must be a list.",
}


def _fields(error: ValidationError) -> dict[str, str]:
    """The first sentence per field."""
    found: dict[str, str] = {}
    for one in error.errors(include_input=False, include_url=False):
        path = ".".join(str(part)[:100] for part in one["loc"])
        given = one.get("ctx", {})
        is_secret = one["type"] == "too_long" and given.get("field_type") == "Value"  # no list
        known = _SENTENCES.get("string_too_long" if is_secret else one["type"])
        text = known.format_map(given) if known else one["msg"]
        found.setdefault(path or "record", text.removeprefix("Value error, "))
    return found
