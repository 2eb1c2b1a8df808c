"""Help that needs no sign-in, as errors do not either."""

from app.errors import texts
from app.oauth import templates


def test_every_error_has_a_page_that_says_why_and_what_to_do(stranger):
    for code, text in texts().items():
        page = stranger.get(f"/help/errors/{code}")
        assert page.status_code == 200, code
        assert "{" not in page.text and code in page.text
        for heading in ("Why", "What to do") + (("What an admin can do",) if text.admin else ()):
            assert f"<h2>{heading}</h2>" in page.text, code


def test_the_index_leads_to_every_error(stranger):
    page = stranger.get("/help")
    assert page.status_code == 200
    assert all(f'href="/help/errors/{code}"' in page.text for code in texts())


def test_an_unknown_code_is_not_found(stranger):
    assert stranger.get("/help/errors/none").status_code == 404


def test_an_error_page_leads_to_its_help(stranger):
    assert 'href="/help/errors/not_found"' in stranger.get("/nope").text


def test_every_provider_has_a_guide(stranger):
    listed = stranger.get("/help/providers").text
    for one in templates.every().values():
        assert f'href="/help/providers/{one.id}"' in listed
        page = stranger.get(f"/help/providers/{one.id}")
        assert page.status_code == 200 and "{" not in page.text, one.id
        assert page.text.count("<li>") >= len(one.steps)
        assert all(f'href="/help/errors/{code}"' in page.text for code in one.errors.values())
        if "authorization_code" in one.grants:
            place = "/SLUG" if one.redirect == "own" else ""
            assert f'id="redirect">https://gw.test/oauth/callback{place}</code>' in page.text


def test_an_unknown_provider_is_not_found(stranger):
    assert stranger.get("/help/providers/none").status_code == 404
