"""docs/providers.md is what the files of app/oauth/providers say.

`python -m tests.test_providers_page` writes it anew.
"""

import textwrap
from pathlib import Path

from app.oauth import templates
from app.oauth.templates import Template

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "providers.md"
HEAD = """\
# Providers

What this gateway knows of each provider. The same stands under Help in the product, with the
redirect URI to copy. `flask --app wsgi providers list` and `flask --app wsgi providers show` print
it, the second as a record for `flask --app wsgi gateways add`. How one is written:
[provider templates](how-to/provider-templates.md).

"Compared" is the date on which facts were compared with the provider's own pages; what was not
stands under each.

Made from `app/oauth/providers` by `python -m tests.test_providers_page`.
"""
REDIRECT = "the redirect URI that the page of the gateway shows"
HOW = {
    "cimd": "by our client id metadata document",
    "dcr": "by itself (dynamic registration)",
    "manual": "by hand",
}


def wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(
        text, 118, initial_indent=first, subsequent_indent=rest, break_long_words=False
    )


def life(one: Template) -> str:
    parts = {
        "a token": one.life.access,
        "unused": one.life.idle,
        "an old refresh token still works": one.life.grace,
    }
    told = [f"{name} {seconds} s" for name, seconds in parts.items() if seconds is not None]
    if one.life.rotates is not None:
        told.append(f"refresh tokens {'are replaced' if one.life.rotates else 'stay'}")
    return "; ".join(told) or "not known"


def section(one: Template) -> list[str]:
    compared = one.checked.isoformat() if one.checked else "not yet"
    lines = [
        "",
        f"## {one.name}",
        "",
        f"`{one.id}`, version {one.version}. Compared: {compared}.",
        "",
    ]
    lines += [f"- Client: {', else '.join(HOW[how] for how in one.register)}."]
    if one.vars:
        asked = ", ".join(
            f"`{name}` ({var.label}, such as `{var.example}`)" for name, var in one.vars.items()
        )
        lines += wrapped(f"- Asks for {asked}.", "", "  ")
    lines += wrapped(f"- Lifetimes: {life(one)}.", "", "  ")
    if one.mcp_url:
        lines += [f"- MCP server: `{one.mcp_url}`"]
    if one.revoke.page:
        lines += [f"- People remove the app at <{one.revoke.page}>."]
    lines += [""]
    for number, step in enumerate(one.steps, 1):
        lines += wrapped(f"{number}. {step.replace('{redirect}', REDIRECT)}", "", "   ")
    if one.why:
        lines += ["", "| set | why |", "|---|---|"]
        lines += [f"| `{name}` | {reason} |" for name, reason in one.why.items()]
    if one.errors:
        lines += ["", "| its word | our code |", "|---|---|"]
        lines += [f"| `{word}` | `{code}` |" for word, code in one.errors.items()]
    if one.check:
        lines += ["", *wrapped(f"Not compared yet: {'; '.join(one.check)}.")]
    return lines


def page() -> str:
    return (
        HEAD + "\n".join(line for one in templates.every().values() for line in section(one)) + "\n"
    )


def test_the_page_of_providers_is_what_the_files_say():
    assert PAGE.read_text() == page()


if __name__ == "__main__":
    PAGE.write_text(page())
