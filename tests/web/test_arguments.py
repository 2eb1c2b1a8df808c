"""A tool's JSON schema as a form, and what was typed as arguments."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict

from app.web.me.arguments import Argument, arguments
from app.web.me.tool_form import form_for

SCHEMA = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "description": "What to look for"},
        "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
        "ratio": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
        "open": {"type": "boolean", "default": True},
        "state": {"$ref": "#/$defs/State"},
        "labels": {"type": "array", "items": {"type": "string"}},
        "body": {"type": "string"},
        "extra": {"type": "object"},
    },
    "required": ["query"],
    "$defs": {"State": {"type": "string", "enum": ["open", "closed"]}},
}


def one(schema, name="x", *, required=False) -> Argument:
    needed = [name] if required else []
    [found] = arguments({"properties": {name: schema}, "required": needed})
    return found


def sent(app, schema, typed, *, deletes=False):
    """The form after a POST of `typed`: argument name -> text."""
    known = arguments(schema)
    fields = {  # a browser sends an empty text for an empty field, nothing for an empty tick
        f"a{number}": typed.get(x.name, "")
        for number, x in enumerate(known)
        if x.name in typed or x.kind != "tick"
    }
    fields |= {name: typed[name] for name in ("sure",) if name in typed}
    app.config["WTF_CSRF_ENABLED"] = False
    with app.test_request_context("/", method="POST", data=MultiDict(fields)):
        form = form_for(known, deletes=deletes)
        valid = form.validate_on_submit()
        return form.arguments() if valid else [e for errors in form.errors.values() for e in errors]


def test_each_kind_of_value_gets_a_field_that_suits_it():
    kinds = {x.name: x.kind for x in arguments(SCHEMA)}
    assert kinds == {
        "query": "text",
        "limit": "whole",
        "ratio": "number",
        "open": "tick",
        "state": "choice",
        "labels": "lines",
        "body": "long",
        "extra": "json",
    }


def test_what_was_typed_becomes_json_of_the_right_types(app):
    typed = {"query": "login", "limit": "5", "ratio": "0.5", "state": '"closed"', "open": "y"}
    typed |= {"labels": "a\r\n\r\nb", "body": "one\r\ntwo", "extra": '{"deep": [1]}'}
    assert sent(app, SCHEMA, typed) == {
        "query": "login",
        "limit": 5,
        "ratio": 0.5,
        "state": "closed",
        "labels": ["a", "b"],
        "body": "one\ntwo",
        "extra": {"deep": [1]},
    }  # `open` is ticked, as the server would take it anyway


def test_a_tick_taken_away_is_sent_as_false(app):
    assert sent(app, SCHEMA, {"query": "x"})["open"] is False


def test_a_field_that_is_left_empty_is_left_out(app):
    assert set(sent(app, SCHEMA, {"query": "x", "open": "y"})) == {"query"}


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ({"query": ""}, "query is required."),
        ({"limit": "ten"}, "limit must be a whole number."),
        ({"limit": "0"}, "limit must be at least 1."),
        ({"limit": "101"}, "limit must be at most 100."),
        ({"ratio": "NaN"}, "ratio must be a number."),
        ({"ratio": "1e999"}, "ratio must be a number."),
        ({"state": "ajar"}, "state must be one of the choices."),
        ({"extra": "{"}, "extra cannot be read. This is not JSON: look at line 1, column 2."),
        ({"extra": "[" * 100}, "extra cannot be read. The JSON text is nested deeper"),
    ],
)
def test_a_mistake_is_told_in_a_sentence_that_names_the_argument(app, typed, sentence):
    [error] = sent(app, SCHEMA, {"query": "x"} | typed)
    assert error.startswith(sentence)


def test_a_schema_that_says_nothing_takes_one_json_object(app):
    assert sent(app, {"type": "object"}, {"": '{"a": 1}'}) == {"a": 1}
    assert sent(app, {"type": "object"}, {"": ""}) == {}
    assert sent(app, {"type": "object"}, {"": "[1]"}) == [
        "What you typed must be a JSON object, such as {}."
    ]


def test_a_tool_that_needs_nothing_has_no_fields():
    assert arguments({"type": "object", "properties": {}}) == []


def test_a_tool_that_can_delete_wants_a_tick(app):
    nothing = {"type": "object", "properties": {}}
    assert sent(app, nothing, {}, deletes=True) == [
        "This tool can delete data. Tick the box to run it."
    ]
    assert sent(app, nothing, {"sure": "y"}, deletes=True) == {}


def test_names_of_arguments_cannot_reach_our_own_fields(app):
    schema = {"properties": {"csrf_token": {"type": "string"}, "sure": {"type": "string"}}}
    assert sent(app, schema, {"csrf_token": "x"}) == {"csrf_token": "x"}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/None"},
        {"$ref": "https://elsewhere.test/schema"},
        {"$ref": "#/properties/x"},
        {"type": ["string", "integer"]},
        {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        {"enum": [{"a": 1}]},
        {"type": "array", "items": [{"type": "string"}]},
        {"type": 7},
        "not a schema",
        None,
    ],
)
def test_what_the_form_does_not_know_is_typed_as_json(schema):
    found = one(schema)
    assert found.kind == "json" and found.read('{"a": 1}') == {"a": 1}


def test_choices_may_have_titles_and_other_types():
    found = one({"oneOf": [{"const": 1, "title": "First"}, {"const": True}]})
    assert found.choices == {"1": ("First", 1), "true": ("true", True)}
    assert found.read("true") is True


def test_the_hint_says_what_may_be_typed():
    assert (
        one({"type": "integer", "minimum": 1, "maximum": 9}).about == "A whole number from 1 to 9."
    )
    assert one({"type": "number", "minimum": 0, "description": "Weight"}).about == (
        "Weight. A number, at least 0."
    )


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "type properties items enum anyOf oneOf const title default required $ref minimum "
                "maxLength description additionalProperties".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=5), anything, max_size=3), anything)
def test_no_schema_of_a_server_breaks_the_form(properties, required):
    for found in arguments({"properties": properties, "required": required}):
        assert isinstance(found.about, str)
        assert isinstance(found.show(found.default), str)
