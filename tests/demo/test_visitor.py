"""The browser without a browser sends what a browser would."""

import pytest
import requests

from demo.visitor import Page, Stuck

PAGE = """
<form action="/search"><input name="q"></form>
<form method="post" action="/save">
  <input type="hidden" name="csrf_token" value="t0ken">
  <input name="name" value="old"><textarea name="about">
two
lines</textarea>
  <select name="kind"><option value="a">A<option value="b" selected>B</select>
  <select name="size"><option value="s">S<option value="m">M</select>
  <input type="checkbox" name="on" value="y" checked><input type="checkbox" name="off" value="y">
  <input type="radio" name="way" value="1"><input type="radio" name="way" value="2" checked>
  <input name="gone" disabled><input type="file" name="file">
  <button name="do" value="save">Save</button><button name="do" value="drop">Drop it</button>
</form>
"""


@pytest.fixture
def page():
    answer = requests.Response()
    answer.url, answer._content, answer.encoding = "http://127.0.0.1:1/edit", PAGE.encode(), "utf-8"
    return Page(answer)


def test_a_form_left_as_it_is_sends_what_it_shows(page):
    form = page.form({}, press="save", action=None)
    assert (form.action, form.method) == ("http://127.0.0.1:1/save", "post")
    assert dict(form.filled({})) == {
        "csrf_token": "t0ken",
        "name": "old",
        "about": "two\nlines",
        "kind": "b",
        "size": "s",
        "on": "y",
        "way": "2",
    }


def test_what_is_typed_and_ticked_replaces_it(page):
    form = page.form({"name": "new"}, press=None, action="/save")
    sent = dict(form.filled({"name": "new", "on": False, "off": True, "way": "1"}))
    assert (sent["name"], sent["off"], sent["way"]) == ("new", "y", "1")
    assert "on" not in sent


@pytest.mark.parametrize(
    "wish",
    [
        {"fields": {"nothing": "x"}, "press": None, "action": None},
        {"fields": {}, "press": "fly", "action": None},
        {"fields": {}, "press": None, "action": "/elsewhere"},
    ],
)
def test_a_form_that_is_not_there_is_an_error(page, wish):
    with pytest.raises(Stuck):
        page.form(**wish)
