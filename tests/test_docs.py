"""What documents say is compared with what the code does, so that neither can move alone.

`python -m tests.test_docs` writes docs/errors anew.
"""

import dataclasses
import json
import re
import textwrap
from pathlib import Path

import click
import pytest
import yaml
from flask_migrate.cli import db as migrations

from app import specs
from app.errors import Text, texts
from app.web.api import openapi
from config import Config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ERRORS = DOCS / "errors"
# Of the pages of errors two stand for all: one function makes them.
ALIKE = set(ERRORS.iterdir()) - {ERRORS / "README.md", ERRORS / "client_rejected.md"}
PAGES = [ROOT / "README.md", ROOT / "CHANGES.md", *sorted({*DOCS.rglob("*.md")} - ALIKE)]
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
templates = pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
codes = pytest.mark.parametrize(("code", "text"), texts().items(), ids=list(texts()))


def blocks(page: Path, kind: str) -> list[str]:
    """The fenced code blocks of one kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a link to a heading of this page can name."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


# -- settings ----------------------------------------------------------------------------------


def sections() -> dict[str, str]:
    parts = re.split(r"^#+ ", (DOCS / "configuration.md").read_text(), flags=re.MULTILINE)
    found = (part.partition("\n") for part in parts)
    return {name: text for name, _, text in found if re.fullmatch(r"[A-Z_]+", name)}


def test_every_setting_has_a_section_and_every_section_a_setting():
    assert list(sections()) and set(sections()) == {f.name for f in dataclasses.fields(Config)}


def shown_default(field) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    if field.default in ((), ""):
        return "none"
    plain = {True: "true", False: "false"} if isinstance(field.default, bool) else {}
    number = f"{field.default:g}" if isinstance(field.default, float) else field.default
    return f"`{plain.get(field.default, number)}`"


@pytest.mark.parametrize("field", dataclasses.fields(Config), ids=lambda field: field.name)
def test_a_section_gives_the_default(field):
    default = shown_default(field)
    start = "Required." if default == "required" else f"Default: {default}"
    assert sections()[field.name].strip().startswith(start)


def test_the_table_of_the_readme_gives_true_defaults():
    text = (ROOT / "README.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+?) \|", text, re.MULTILINE))
    known = {field.name: shown_default(field) for field in dataclasses.fields(Config)}
    assert rows and rows == {name: known[name] for name in rows}


# -- errors ------------------------------------------------------------------------------------


WHO = {
    "person": "You can fix it.",
    "admin": "An admin can fix it.",
    "nobody": "It passes by itself, or whoever runs the other side has to act.",
}


def wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def told(sentence: str) -> str:
    """Without the place of a hint, which only a case has."""
    return sentence.replace("{hint}", "").strip()


def title_of(text: Text) -> str:
    """The heading on screen, and what a provider or another program calls it, on one line."""
    words: list[str] = []
    for word in text.words:
        more = [*words, f"`{word}`"]
        if len(f"# {text.message} ({', '.join(more)})") > 130:
            break
        words = more
    return f"{text.message} ({', '.join(words)})" if words else text.message


def error_page(code: str, text: Text) -> str:
    """docs/errors/<code>.md."""
    symptom = f'A page, the check or a program says "{text.message}", with the code `{code}`.'
    others = ", ".join(f"`{word}`" for word in text.words)
    symptom += f" Other programs and logs say: {others}." if others else ""
    number = f"Its number is {text.e}. " if text.e else ""
    symptom += f" {number}The status is {text.status}. On `/mcp` it is a JSON-RPC error."
    known = "admin" in text.action.lower()
    fix = [told(text.action)] if known else [WHO[text.who], told(text.action)]
    parts = [f"# {title_of(text)}", "## Symptom", wrapped(symptom)]
    parts += ["## Cause", wrapped(told(text.cause)), "## Fix", wrapped(" ".join(fix))]
    parts += [wrapped(f"An admin: {told(text.admin)}")] if text.admin else []
    if text.button:
        place = text.link.replace("{gateway}", "<slug>")
        parts += [wrapped(f"The way there: **{text.button}**, at `{place}`.")]
    parts += ["## How to be sure", wrapped(text.sure), "[All errors](README.md)"]
    return "\n\n".join(parts) + "\n"


def errors_index(rows: dict[str, Text]) -> str:
    """docs/errors/README.md."""
    lines = [
        "# Errors and what to do",
        "",
        "Every error has a code. Pages show it at the foot, JSON has it in `error.code`, and",
        "a failed call on `/mcp` in `error.data.code`. Beside it stand `who` (can mend it: person,",
        "admin or nobody) and, for the common kinds, `e` (their number). JSON also links to the",
        "same texts under Help in the product, in `error.help`. `{names}` stand for facts of the",
        "case.",
        "",
        "Made from `app/errors.yaml` by `python -m tests.test_docs`.",
        "",
        "## By number",
        "",
        "| number | what the screen says |",
        "|---|---|",
    ]
    numbered = sorted((int(text.e[1:]), code) for code, text in rows.items() if text.e)
    lines += [f"| E{e} | [{rows[code].message}]({code}.md) |" for e, code in numbered]
    lines += ["", "## By code", "", "| code | what the screen says |", "|---|---|"]
    lines += [f"| `{code}` | [{rows[code].message}]({code}.md) |" for code in sorted(rows)]
    return "\n".join(lines) + "\n"


def error_pages() -> dict[str, str]:
    rows = dict(texts())
    pages = {f"{code}.md": error_page(code, text) for code, text in rows.items()}
    return pages | {"README.md": errors_index(rows)}


def test_the_pages_of_errors_are_what_the_code_says():
    pages = error_pages()
    assert {path.name: path.read_text() for path in ERRORS.iterdir()} == pages
    assert max(len(line) for page in pages.values() for line in page.splitlines()) <= 140


@pytest.mark.parametrize("number", range(1, 21))
def test_each_kind_of_error_has_a_page_that_a_search_finds(number):
    """Its title is the heading on screen, and one word of a provider."""
    of_it = [(code, text) for code, text in texts().items() if text.e == f"E{number}"]
    assert of_it
    for code, text in of_it:
        assert text.words and text.button and text.link, code
        title = (ERRORS / f"{code}.md").read_text().partition("\n")[0]
        assert title.startswith(f"# {text.message} (") and text.words[0] in title


@codes
def test_an_error_says_what_happened_why_and_what_to_do(code, text):
    assert text.message and text.cause and text.action
    assert not text.message.endswith("."), "a heading, and the start of a sentence in JSON-RPC"
    for part in filter(None, (text.cause, text.action, text.admin, text.sure)):
        assert part[0].isupper() or part.startswith("{")
        assert part.endswith(".") or part.endswith("{hint}")


@codes
def test_q17_error_texts_are_short_and_plain(code, text):
    for part in (text.message, text.cause, text.action, text.admin, text.button, text.sure):
        assert_plain(part)


def test_a_code_stands_once_in_the_file():
    lines = (ROOT / "app" / "errors.yaml").read_text().splitlines()
    names = [line.rstrip(":") for line in lines if re.fullmatch(r"[a-z_]+:", line)]
    assert sorted(names) == sorted(texts())


BANNED = re.compile(
    r"\b(please|oops|an error (has )?occurred|invalid|contact your administrator|sorry"
    r"|DCR|federated|peers?|principals?)\b",
    re.IGNORECASE,
)


def assert_plain(text: str) -> None:
    assert not BANNED.search(text), text
    for sentence in re.split(r"(?<=[.!?:])\s+|\n", text):
        assert len(sentence.split()) <= 20, sentence


def visible(template: str) -> list[str]:
    """The texts between tags, without what Jinja puts there."""
    bare = re.sub(r"\{#.*?#\}|<(script|style)\b.*?</\1>", " ", template, flags=re.DOTALL)
    bare = re.sub(r"\{%.*?%\}", "\n", bare, flags=re.DOTALL)
    bare = re.sub(r"\{\{.*?\}\}", " … ", bare, flags=re.DOTALL)
    bare = re.sub(r"</?(b|strong|code|a|span|em)\b[^>]*>", "", bare)
    parts = re.sub(r"<[^>]*>", "\n", bare).split("\n")
    return [part.strip() for part in parts if part.strip()]


@templates
def test_q17_pages_are_short_and_plain(path):
    for part in visible(path.read_text()):
        assert_plain(part)


@templates
def test_sec_054_templates_hold_nothing_inline(path):
    text = path.read_text()
    assert not re.search(r"\sstyle=|\son[a-z]+=|javascript:|<style|\|safe\b", text)
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)


# -- the rest ----------------------------------------------------------------------------------


@pages
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pages
def test_pictures_are_light(page):
    for target in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", page.read_text()):
        assert (page.parent / target).stat().st_size <= 120 * 1024, target


@pages
def test_commands_exist(page, app):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    for target in re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE):
        assert target in targets, f"make {target}"
    for words in re.findall(r"flask --app wsgi ((?:[a-z][a-z-]* ?)+)", text):
        assert_is_command(app, words.split())


def assert_is_command(app, words: list[str]) -> None:
    """`words`: the groups and the command, then perhaps arguments."""
    here = {**app.cli.commands, "db": migrations}
    for word in words:
        assert word in here, " ".join(words)
        found = here[word]
        if not isinstance(found, click.Group):
            return
        here = found.commands


@pages
def test_json_in_documents_is_json_and_records_are_accepted(page):
    for block in blocks(page, "json"):
        record = json.loads(block)
        if "auth_type" in record:
            specs.read(specs.GatewaySpec, record)


@pages
def test_documents_fit_the_screen(page):
    for line in page.read_text().splitlines():
        assert len(line) <= 140 or line.startswith(("|", "!["))


def test_every_address_is_described(app, app_ctx):
    """Routes of the JSON API are in its own description, all others in docs/pages.md."""
    known: dict[str, set[str]] = {}
    for rule in app.url_map.iter_rules():
        known.setdefault(rule.rule, set()).update(rule.methods - {"HEAD", "OPTIONS"})
    rows = re.findall(r"^\| `(/[^`]*)` \| ([A-Z ]+) \|", (DOCS / "pages.md").read_text(), re.M)
    api = {rule for rule in known if rule.startswith("/api/v1")}
    described = {
        path.replace("{", "<").replace("}", ">") for path in openapi.description()["paths"]
    }
    assert api <= described
    others = {rule: methods for rule, methods in known.items() if rule not in api}
    assert {rule: set(methods.split()) for rule, methods in rows} == others


def test_yaml_in_documents_is_yaml():
    for page in PAGES:
        for block in blocks(page, "yaml"):
            yaml.safe_load(block)


if __name__ == "__main__":
    for old in ERRORS.iterdir():
        old.unlink()
    for name, page in error_pages().items():
        (ERRORS / name).write_text(page)
