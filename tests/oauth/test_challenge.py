"""What WWW-Authenticate is read to say, whoever wrote it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.oauth.challenge import FIELDS, LENGTH, Challenge, challenges, parse

PRM = "https://mcp.test/.well-known/oauth-protected-resource/mcp"
HERE = Challenge(resource_metadata=PRM)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param([f'Bearer resource_metadata="{PRM}"'], HERE, id="quoted"),
        pytest.param(["Bearer error=invalid_token"], Challenge(error="invalid_token"), id="token"),
        pytest.param(["Basic realm=x", f'bearer Resource_Metadata="{PRM}"'], HERE, id="two fields"),
        pytest.param(
            [f'Basic realm="a, Bearer b", Bearer resource_metadata="{PRM}"'],
            HERE,
            id="two challenges",
        ),
        pytest.param([f'@@, =, "", Bearer resource_metadata="{PRM}", ;'], HERE, id="junk"),
        pytest.param(["Bearer"], Challenge(), id="alone"),
        pytest.param(["Negotiate abc==, Bearer"], Challenge(), id="token68 before"),
        pytest.param(["Bearer abc==", f'Bearer resource_metadata="{PRM}"'], HERE, id="prefers"),
        pytest.param(
            ['Bearer error="a"', 'Bearer error="b"'], Challenge(error="a"), id="the first"
        ),
        pytest.param(
            [r'Bearer error_description="say \"no\", then \\", error="x"'],
            Challenge(error="x", error_description='say "no", then \\'),
            id="escapes",
        ),
        pytest.param(
            [f'Bearer  realm = "x" ,\tscope\t= "a b",resource_metadata="{PRM}",'],
            Challenge(resource_metadata=PRM, scope="a b"),
            id="spaces",
        ),
        pytest.param([f'Bearer realm="x" resource_metadata="{PRM}"'], HERE, id="no commas"),
        pytest.param([f"Bearer resource_metadata={PRM}, x=1"], HERE, id="no quotes"),
        pytest.param(
            ['Bearer scope="a", scope="b", error="x"'], Challenge(error="x"), id="two values"
        ),
        pytest.param(['Bearer error="x", error="x"'], Challenge(error="x"), id="twice the same"),
        pytest.param(['Bearer scope=""'], Challenge(scope=""), id="empty"),
        pytest.param(['Bearer error="open'], Challenge(), id="quote without end"),
        pytest.param(
            ['Bearer error="é", error_description="one\ttwo\x07"'],
            Challenge(error="é", error_description="one two"),
            id="not ASCII",
        ),
        pytest.param(['Basic realm="x"', "DPoP algs=ES256"], None, id="no Bearer"),
        pytest.param(['MyBearer error="x"'], None, id="a longer name"),
        pytest.param(['Basic realm="Bearer error=x"'], None, id="Bearer in a value"),
        pytest.param([], None, id="nothing"),
        pytest.param(["", " , "], None, id="empty fields"),
    ],
)
def test_challenge_parser(fields, expected):
    assert parse(fields) == expected


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        ("files:read mail", ("files:read", "mail")),
        ("a a b", ("a", "b")),
        ('a  "b" c\\d é e', ("a", "e")),
        ("", ()),
        (None, ()),
        ("x" * 201, ()),
    ],
)
def test_only_scopes_that_can_be_asked_for_count(scope, scopes):
    assert Challenge(scope=scope).scopes == scopes


TOKENS = st.text("abcXYZ019-._~+!#$%&'*^`|", min_size=1, max_size=8)
VALUES = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=20)


@given(st.lists(st.text(max_size=200), max_size=4))
def test_any_text_gives_a_challenge_or_none(fields):
    found = parse(fields)
    assert found is None or isinstance(found, Challenge)


@given(st.lists(st.text('Bearer basic="\\,; \tx', max_size=60), max_size=4))
def test_any_mix_of_its_own_signs_gives_a_challenge_or_none(fields):
    found = parse(fields)
    assert found is None or isinstance(found, Challenge)


@given(
    st.lists(
        st.tuples(TOKENS, st.dictionaries(TOKENS.map(str.lower), VALUES, min_size=1, max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_written_by_the_rules_is_read_back(said):
    def quoted(value):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    field = ", ".join(
        f"{scheme} " + ", ".join(f"{name}={quoted(value)}" for name, value in params.items())
        for scheme, params in said
    )
    assert list(challenges(field)) == [(scheme.lower(), params) for scheme, params in said]


@pytest.mark.parametrize("piece", ["Bearer ", 'a="', "a=b,", '"\\', ",", "=", "a ", "\\"])
def test_a_long_field_is_cut_and_read_in_one_go(piece):
    """Twice as long is twice the work: none of the patterns looks back."""
    assert list(challenges((piece * LENGTH)[:LENGTH])) is not None
    assert parse([piece * LENGTH] * (FIELDS + 1) + [f'Bearer resource_metadata="{PRM}"']) != HERE
