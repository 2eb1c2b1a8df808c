"""The table of oauth.md section 5, row by row, and what holds for any bytes at all."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from app.errors import ProviderError, texts
from app.oauth.replies import BODY_LIMIT, Answer, Dialect, TokenSet, read

NOW = 1_800_000_000.0
JSON, FORM = "application/json", "application/x-www-form-urlencoded"
PLAIN = Dialect()
GITHUB = Dialect(
    form=True,
    scope_separator=",",
    errors={"bad_verification_code": "code_rejected", "bad_refresh_token": "grant_ended"},
)
SLACK = Dialect(token_path="authed_user", ok_field="ok", errors={"invalid_code": "code_rejected"})
ENTRA = Dialect(
    errors={"AADSTS9010010": "resource_rejected", "AADSTS65001": "interaction_required"}
)


def answer(body, status=200, kind=JSON, **headers) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = CaseInsensitiveDict({"Content-Type": kind, **named})
    return Answer("https://as.test/token", status, sent, raw)


def good(**more) -> dict:
    return {"access_token": "at", "token_type": "Bearer"} | more


def jwt(**claims) -> str:
    parts = [{"alg": "none"}, claims]
    coded = [base64.urlsafe_b64encode(json.dumps(one).encode()).decode() for one in parts]
    return ".".join([*(one.rstrip("=") for one in coded), "sig"])


def outcome(got: Answer, dialect=PLAIN, request="exchange") -> TokenSet | tuple[str, str]:
    try:
        return read(got, dialect, request=request, now=NOW)
    except ProviderError as error:
        return error.code, error.kind


YEAR_1 = 31_536_001
TAKEN = {  # row: (answer, dialect, request, what is in the TokenSet)
    "1": (good(expires_in=3600, scope="a b"), PLAIN, {"expires_in": 3600, "scopes": ("a", "b")}),
    "2 bearer": (good(token_type="bearer"), PLAIN, {"warnings": ()}),
    "2 BEARER": (good(token_type="BEARER"), PLAIN, {"warnings": ()}),
    "2 missing": ({"access_token": "at"}, PLAIN, {"warnings": ("token_type_missing",)}),
    "3 alias": (good(token_type="user"), Dialect(bearer_aliases=("user",)), {}),
    "9": (
        {"ok": True, "authed_user": good(scope="a,b", expires_in=60, refresh_token="rt")},
        SLACK,
        {"scopes": ("a", "b"), "expires_in": 60, "refresh_token": "rt"},
    ),
    "9 top wins": (
        good(authed_user={"access_token": "inner", "expires_in": 60}, expires_in=None),
        SLACK,
        {"access_token": "at", "expires_in": 60},
    ),
    "11 text": (good(expires_in="3600"), PLAIN, {"expires_in": 3600}),
    "11 fraction": (good(expires_in=3599.5), PLAIN, {"expires_in": 3599}),
    "12 missing": (good(), PLAIN, {"expires_in": None}),
    "12 null": (good(expires_in=None), PLAIN, {"expires_in": None}),
    "12 default": (good(), Dialect(life_default=900), {"expires_in": 900}),
    "12 always": (good(expires_in=3600), Dialect(life_always=60), {"expires_in": 60}),
    "13": (good(access_token=jwt(exp=NOW + 100)), Dialect(life_default=9), {"expires_in": 100}),
    "13 past": (good(access_token=jwt(exp=NOW - 1)), PLAIN, {"expires_in": None}),
    "13 far": (good(access_token=jwt(exp=NOW + YEAR_1)), PLAIN, {"expires_in": None}),
    "13 endless": (good(access_token=jwt(exp=10**400)), PLAIN, {"expires_in": None}),
    "13 no number": (good(access_token=jwt(exp=True)), PLAIN, {"expires_in": None}),
    "14 zero": (good(expires_in=0), PLAIN, {"expires_in": None}),
    "14 negative": (good(expires_in=-5), PLAIN, {"expires_in": None}),
    "14 renewable": (good(expires_in=0, refresh_token="rt"), PLAIN, {"expires_in": 0}),
    "15 1e20": (good(expires_in=1e20), PLAIN, {"expires_in": None, "warnings": ()}),
    "15 more than a year": (good(expires_in=YEAR_1), PLAIN, {"expires_in": None}),
    "15 many digits": (good(expires_in=10**400), PLAIN, {"expires_in": None}),
    "15 1e400": (
        b'{"access_token": "at", "token_type": "Bearer", "expires_in": 1e400}',
        PLAIN,
        {"expires_in": None},
    ),
    **{
        f"16 {value!r}": (
            good(expires_in=value),
            PLAIN,
            {"expires_in": None, "warnings": ("expires_in_unreadable",)},
        )
        for value in ("3600abc", "", True, [1], {})
    },
    "17": (good(expires_in=3_600_000), Dialect(life_in_ms=True), {"expires_in": 3600}),
    "18": (good(scope="a"), PLAIN, {"scopes": ("a",)}),
    "19 list": (good(scope=["a", "c"]), PLAIN, {"scopes": ("a", "c")}),
    "19 comma-joined": (good(scope="a,c"), PLAIN, {"scopes": ("a", "c")}),
    "19 empty": (good(scope=""), PLAIN, {"scopes": ()}),
    "19 null": (good(scope=None), PLAIN, {"scopes": None}),
    "19 number": (good(scope=5), PLAIN, {"scopes": None}),
    "20": (good(), PLAIN, {"refresh_token": None}),
    "21 new": (good(refresh_token="rt2"), PLAIN, {"refresh_token": "rt2"}),
    "21 empty": (good(refresh_token=""), PLAIN, {"refresh_token": None}),
    "21 null": (good(refresh_token=None), PLAIN, {"refresh_token": None}),
    "21 line break": (good(refresh_token="a\r\nb"), PLAIN, {"refresh_token": None}),
    "22 GitHub": (good(refresh_token_expires_in=60), PLAIN, {"refresh_expires_in": 60}),
    "22 Keycloak": (good(refresh_expires_in=1800), PLAIN, {"refresh_expires_in": 1800}),
    "22 zero": (good(refresh_expires_in=0), PLAIN, {"refresh_expires_in": None}),
    "25": (
        good(id_token=jwt(sub="1", email="ana@x.test")),
        Dialect(account_paths=("name", "email")),
        {"account_label": "ana@x.test"},
    ),
    "25 member": (
        good(team={"name": "Acme\u202e\n"}),
        Dialect(account_paths=("team.name",)),
        {"account_label": "Acme"},
    ),
    "25 not asked": (good(id_token=jwt(email="ana@x.test")), PLAIN, {"account_label": None}),
    "JSON with a byte order mark": (
        b"\xef\xbb\xbf" + json.dumps(good()).encode(),
        PLAIN,
        {"access_token": "at"},
    ),
}


@pytest.mark.parametrize(("body", "dialect", "expected"), TAKEN.values(), ids=TAKEN)
def test_a_reply_is_taken(body, dialect, expected):
    got = outcome(answer(body), dialect)
    assert isinstance(got, TokenSet), got
    assert {name: getattr(got, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("kind", "dialect", "taken"),
    [(FORM, PLAIN, True), ("text/plain", GITHUB, True), ("text/plain", PLAIN, False)],
)
def test_row_5_a_form_is_read_if_it_is_called_one(kind, dialect, taken):
    body = b"access_token=gho_1&expires_in=3600&scope=repo%2Cgist&token_type=bearer"
    got = outcome(answer(body, kind=kind), dialect)
    if taken:
        assert (got.access_token, got.expires_in, got.scopes) == ("gho_1", 3600, ("repo", "gist"))
    else:
        assert got == ("reply_unreadable", "unknown")


def test_row_14_a_renewed_token_may_end_at_once():
    got = outcome(answer(good(expires_in=0)), request="refresh")
    assert got.expires_in == 0


def test_a_shared_client_gets_no_refresh_token():
    got = outcome(answer(good(refresh_token="rt", expires_in=0)), request="client_credentials")
    assert got.refresh_token is None and got.expires_in is None


UNREADABLE, UNKNOWN = ("reply_unreadable", "unknown"), "unknown"
REJECTED = ("token_request_rejected", "refused")


def said(error: str, text: str = "", status: int = 400) -> Answer:
    return answer({"error": error, "error_description": text}, status)


REFUSED = {  # row: (answer, dialect, request, code and class)
    "3": (answer(good(token_type="user")), PLAIN, "exchange", ("token_type_unsupported", UNKNOWN)),
    **{
        f"4 {kind!r}": (
            answer(good(token_type=kind)),
            PLAIN,
            "exchange",
            ("token_type_unsupported", UNKNOWN),
        )
        for kind in ("DPoP", "mac", "N_A", ["Bearer"], 5)
    },
    "6": (
        said("bad_verification_code", status=200),
        GITHUB,
        "exchange",
        ("code_rejected", "refused"),
    ),
    "6 as a form": (
        answer(b"error=bad_verification_code&error_description=old", kind=FORM),
        GITHUB,
        "exchange",
        ("code_rejected", "refused"),
    ),
    "6 unmapped": (said("bad_verification_code", status=200), PLAIN, "exchange", REJECTED),
    "6 beside a token": (answer(good(error="nope")), PLAIN, "exchange", REJECTED),
    "7": (said("bad_refresh_token", status=200), GITHUB, "refresh", ("grant_ended", "dead")),
    "8": (
        answer({"ok": False, "error": "invalid_code"}),
        SLACK,
        "exchange",
        ("code_rejected", "refused"),
    ),
    "8 without a word": (answer(good(ok=False)), SLACK, "exchange", UNREADABLE),
    "10": (
        answer({"ok": True, "authed_user": good()}),
        PLAIN,
        "exchange",
        ("reply_no_token", UNKNOWN),
    ),
    **{
        f"23 {token!r}": (
            answer({"access_token": token, "token_type": "Bearer"}),
            PLAIN,
            "refresh",
            ("reply_no_token", UNKNOWN),
        )
        for token in ("", None, 5)
    },
    **{
        f"24 {token[:5]!r}": (answer(good(access_token=token)), PLAIN, "exchange", UNREADABLE)
        for token in ("a\r\nb", "a\nb", "a b", "tökén", "x" * 16_385)
    },
    "26": (answer(b"<p>access_token=x&a=b", kind="text/html"), PLAIN, "exchange", UNREADABLE),
    "26 as plain text": (answer(b"a=b", kind="text/html"), GITHUB, "exchange", UNREADABLE),
    **{
        f"27 {body!r}": (answer(body), PLAIN, "refresh", UNREADABLE)
        for body in (
            *(b"", b"null", b"[1]", b'"text"', b'{"access_token":', b"\xff", b"NaN"),
            b'{"access_token": "a", "expires_in": NaN}',
            b'{"access_token": "a", "access_token": "b"}',
            b'{"a":' * 65 + b"1" + b"}" * 65,
        )
    },
    "27 duplicate in a form": (
        answer(b"access_token=a&access_token=b", kind=FORM),
        PLAIN,
        "exchange",
        UNREADABLE,
    ),
    "27 204": (answer(b"", 204), PLAIN, "refresh", UNREADABLE),
    "27 201": (answer(good(), 201), PLAIN, "refresh", UNREADABLE),
    "28 exchange": (said("invalid_grant"), PLAIN, "exchange", ("code_rejected", "refused")),
    "28 refresh": (said("invalid_grant"), PLAIN, "refresh", ("grant_ended", "dead")),
    "28 shared": (said("invalid_grant"), PLAIN, "client_credentials", REJECTED),
    "29": (answer(b"", 400), PLAIN, "refresh", REJECTED),
    "30": (said("invalid_request"), PLAIN, "refresh", REJECTED),
    "31 401": (said("invalid_client", status=401), PLAIN, "refresh", ("client_rejected", "client")),
    "31 400": (said("invalid_client"), PLAIN, "exchange", ("client_rejected", "client")),
    "32 401": (said("invalid_grant", status=401), PLAIN, "refresh", REJECTED),
    "32 403": (said("invalid_grant", status=403), PLAIN, "refresh", REJECTED),
    "32 html": (answer(b"<html>", 403, "text/html"), PLAIN, "refresh", REJECTED),
    "32 404": (said("invalid_grant", status=404), PLAIN, "refresh", REJECTED),
    "33": (said("unauthorized_client"), PLAIN, "exchange", ("client_not_allowed", "client")),
    "33 grant": (
        said("unsupported_grant_type"),
        PLAIN,
        "refresh",
        ("client_not_allowed", "client"),
    ),
    "34 scope": (said("invalid_scope"), PLAIN, "exchange", ("scope_rejected", "refused")),
    "34 target": (said("invalid_target"), PLAIN, "exchange", ("resource_rejected", "refused")),
    "34 Entra": (
        said("invalid_grant", "AADSTS9010010: the resource"),
        ENTRA,
        "refresh",
        ("resource_rejected", "refused"),
    ),
    "35": (said("interaction_required"), PLAIN, "exchange", ("interaction_required", "refused")),
    "35 refresh": (
        said("interaction_required"),
        PLAIN,
        "refresh",
        ("interaction_required", "dead"),
    ),
    "35 mapped": (
        said("invalid_grant", "AADSTS65001: consent"),
        ENTRA,
        "refresh",
        ("interaction_required", "dead"),
    ),
    "36": (answer(b"", 429), PLAIN, "refresh", ("provider_busy", "busy")),
    "36 slow_down": (said("slow_down"), PLAIN, "refresh", ("provider_busy", "busy")),
    "37": (answer(good(), 500), PLAIN, "refresh", ("provider_error", "refused")),
    "37 invalid_grant": (
        said("invalid_grant", status=500),
        PLAIN,
        "refresh",
        ("provider_error", "refused"),
    ),
    "37 503": (answer(b"", 503), PLAIN, "refresh", ("provider_error", "busy")),
    **{
        f"38 {status}": (answer(good(), status), PLAIN, "refresh", ("provider_error", UNKNOWN))
        for status in (408, 502, 504, 520, 524)
    },
    "38 exchange": (answer(b"", 502), PLAIN, "exchange", ("exchange_unknown", UNKNOWN)),
    **{
        f"39 {status}": (answer(good(), status), PLAIN, "exchange", ("redirected", "refused"))
        for status in (301, 302, 303, 307, 308)
    },
    "40": (answer(b" " * BODY_LIMIT + b"{}"), PLAIN, "refresh", UNREADABLE),
    "a mapping to no code of ours": (
        said("odd"),
        Dialect(errors={"odd": "no_such_code"}),
        "refresh",
        REJECTED,
    ),
    "a word that maps to a rejected code while refreshing": (
        said("bad_verification_code"),
        GITHUB,
        "refresh",
        REJECTED,
    ),
}


@pytest.mark.parametrize(("got", "dialect", "request_", "expected"), REFUSED.values(), ids=REFUSED)
def test_a_reply_is_refused(got, dialect, request_, expected):
    assert outcome(got, dialect, request_) == expected


ELSEWHERE = {5: "the same as a form: test_row_5_a_form_is_read_if_it_is_called_one"}


@pytest.mark.parametrize("row", range(1, 41))
def test_reply(row):
    """Every row of the table in oauth.md section 5, by its number."""

    def is_of(name: str) -> bool:
        return name.partition(" ")[0] == str(row)

    taken = [case for name, case in TAKEN.items() if is_of(name)]
    refused = [case for name, case in REFUSED.items() if is_of(name)]
    assert taken or refused or row in ELSEWHERE
    for body, dialect, expected in taken:
        got = outcome(answer(body), dialect)
        assert {name: getattr(got, name) for name in expected} == expected
    for got, dialect, request_, expected in refused:
        assert outcome(got, dialect, request_) == expected
    if row in ELSEWHERE:
        test_row_5_a_form_is_read_if_it_is_called_one(FORM, PLAIN, True)


def refusal(got: Answer, dialect=PLAIN, request="exchange") -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        read(got, dialect, request=request, now=NOW)
    return caught.value


def test_row_10_the_place_of_the_token_is_named():
    error = refusal(answer({"authed_user": good()}))
    assert "authed_user.access_token" in error.cause


def test_row_26_a_web_page_is_called_one():
    assert "web page" in refusal(answer(b"<html>", kind="text/html; charset=utf-8")).cause


def test_row_39_the_target_is_shown_without_what_it_repeats():
    error = refusal(answer(b"", 307, Location="https://new.test/token?client_secret=s3cret"))
    assert "https://new.test/token" in error.admin and "s3cret" not in error.admin


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("7", 7),
        ("0", 1),
        ("1000000000", 300),
        ("-1", 30),
        ("x", 30),
        ("", 30),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60),  # NOW + 60
        ("Fri, 15 Jan 2027 09:00:00 GMT", 300),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 30),
    ],
)
def test_row_36_how_long_a_provider_may_make_us_wait(given, seconds):
    error = refusal(answer(b"", 429, Retry_After=given))
    assert error.retry_after == seconds and f"{seconds} seconds" in error.action


def test_row_36_a_provider_that_names_no_time_may_be_asked_again():
    error = refusal(answer(b"", 429))
    assert error.retry_after is None and "30 seconds" in error.action


def test_sec_009_the_providers_words_are_one_short_line():
    text = "<b>no\r\n\x1b[31m\u202e" + "x" * 50_000
    error = refusal(said("access_denied", text))
    assert error.said.startswith("access_denied: <b>no [31m x") and len(error.said) == 300


def test_a_nested_error_is_understood():
    got = answer({"error": {"code": 190, "message": "It has expired"}}, 400)
    assert refusal(got).said == "It has expired"


def test_the_log_has_names_and_no_values(caplog):
    refusal(answer(good(access_token="s3cret token", refresh_token="s3cret")))
    [record] = caplog.records
    assert record.facts["members"] == ["access_token", "token_type", "refresh_token"]
    assert "s3cret" not in str(record.__dict__)


def test_a_token_set_shows_no_token():
    assert "s3cret" not in repr(
        outcome(answer(good(access_token="s3cret", refresh_token="s3cret")))
    )


bodies = st.one_of(
    st.binary(max_size=300),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    "access_token token_type expires_in scope refresh_token error "
                    "error_description id_token authed_user ok refresh_expires_in".split()
                )
                | st.text(max_size=5),
                inner | st.sampled_from(["Bearer", "at", "a.b.c", "invalid_grant", jwt(exp=1e308)]),
                max_size=8,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(max_examples=400, deadline=None)
@given(
    body=bodies,
    status=st.integers(200, 599),
    kind=st.sampled_from([JSON, FORM, "text/plain", "text/html", ""]) | st.text(max_size=10),
    wait=st.none() | st.text(max_size=20),
    dialect=st.sampled_from([PLAIN, GITHUB, SLACK, ENTRA, Dialect(account_paths=("a.b", "sub"))]),
    request_=st.sampled_from(["exchange", "refresh", "client_credentials"]),
)
def test_any_answer_is_a_token_set_or_a_provider_error(body, status, kind, wait, dialect, request_):
    headers = {} if wait is None else {"Retry_After": wait}
    try:
        got = read(answer(body, status, kind, **headers), dialect, request=request_, now=NOW)
    except ProviderError as error:
        assert error.code in texts() and (error.kind != "dead" or request_ == "refresh")
    else:
        assert status == 200 and got.access_token.isascii() and " " not in got.access_token
        assert got.expires_in is None or 0 <= got.expires_in <= 31_536_000
