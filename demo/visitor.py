"""Somebody at a browser, without one: keeps cookies, reads forms, presses buttons, goes on.

Knows plain pages only (forms, redirects, meta refresh), as the gateway's own are without
JavaScript. The demo connects its admin with it; the tests sign in and consent with it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import requests

USERS = ("username", "user", "login", "email")  # names of the field that asks who somebody is
YES = ("allow", "accept", "authorize", "approve", "yes")
NO = ("deny", "decline", "refuse", "cancel", "no")

Pairs = list[tuple[str, str]]


class Stuck(RuntimeError):
    """The page at hand does not lead on; the message says which and why."""


@dataclasses.dataclass
class Button:
    name: str
    value: str
    text: str = ""

    def says(self, *words: str) -> bool:
        said = re.findall(r"\w+", f"{self.value} {self.text}".lower())
        return any(word in said for word in words)


@dataclasses.dataclass
class Form:
    action: str
    method: str
    values: Pairs = dataclasses.field(default_factory=list)  # what it sends when left as it is
    kinds: dict[str, str] = dataclasses.field(default_factory=dict)  # name -> kind of control
    boxes: dict[str, str] = dataclasses.field(default_factory=dict)  # name -> value when ticked
    buttons: list[Button] = dataclasses.field(default_factory=list)

    def filled(self, fields: dict[str, str | bool]) -> Pairs:
        """The pairs to send; True ticks a box, False leaves it empty."""
        if unknown := fields.keys() - self.kinds.keys():
            raise Stuck(f"no field {sorted(unknown)} in the form for {self.action!r}")
        kept = [(name, value) for name, value in self.values if name not in fields]
        typed = {n: self.boxes.get(n, "on") if v is True else v for n, v in fields.items()}
        return kept + [(name, value) for name, value in typed.items() if isinstance(value, str)]

    def named(self, *kinds: str) -> str | None:
        """The first control of one of these kinds."""
        return next((name for name, kind in self.kinds.items() if kind in kinds), None)


class Page(HTMLParser):
    """The forms of a page, and where its meta refresh leads."""

    def __init__(self, answer: requests.Response) -> None:
        super().__init__()
        self.url = answer.url
        self.forms: list[Form] = []
        self.refresh: str | None = None
        self._form: Form | None = None
        self._button: Button | None = None
        self._select = self._option = ""
        self._textarea: str | None = None
        self.feed(answer.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        at = {name: value or "" for name, value in attrs}
        if tag == "meta" and at.get("http-equiv", "").lower() == "refresh":
            found = re.search(r"url\s*=\s*['\"]?(.+?)['\"]?\s*$", at.get("content", ""), re.I)
            self.refresh = found[1] if found else None
        elif tag == "form":
            method = at.get("method", "get").lower()
            self._form = Form(urljoin(self.url, at.get("action") or self.url), method)
            self.forms.append(self._form)
        elif self._form is not None and "disabled" not in at:
            self._control(self._form, tag, at)

    def _control(self, form: Form, tag: str, at: dict[str, str]) -> None:
        name, kind = at.get("name", ""), at.get("type", "submit" if tag == "button" else "text")
        if tag in ("input", "button") and kind in ("submit", "image"):
            self._button = Button(name, at.get("value", ""))
            form.buttons.append(self._button)
        elif tag == "select":
            self._select, form.kinds[name] = name, "select"
        elif tag == "textarea":
            self._textarea, form.kinds[name] = "", "textarea"
            form.values.append((name, ""))
        elif tag == "option" and self._select:
            self._choice(form, at)
        elif tag == "input" and name and kind not in ("button", "reset", "file"):
            self._input(form, name, kind, at)

    def _choice(self, form: Form, at: dict[str, str]) -> None:
        """A select sends its chosen option, else its first one."""
        first = all(name != self._select for name, _ in form.values)
        if first or "selected" in at:
            form.values = [pair for pair in form.values if pair[0] != self._select]
            form.values.append((self._select, at.get("value", "")))

    def _input(self, form: Form, name: str, kind: str, at: dict[str, str]) -> None:
        form.kinds[name] = kind
        value = at.get("value", "on" if kind in ("checkbox", "radio") else "")
        if kind == "checkbox":
            form.boxes[name] = value
        if kind not in ("checkbox", "radio") or "checked" in at:
            form.values.append((name, value))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        elif tag == "button":
            self._button = None
        elif tag == "select":
            self._select = ""
        elif tag == "textarea":
            self._textarea = None

    def handle_data(self, data: str) -> None:
        if self._button is not None:
            self._button.text += data.strip() + " "
        elif self._textarea is not None and self._form is not None:
            self._textarea += data
            name, _ = self._form.values[-1]
            self._form.values[-1] = (name, self._textarea.removeprefix("\n"))

    def form(self, fields: dict[str, str | bool], press: str | None, action: str | None) -> Form:
        """The form with these fields, this button and this address. Raises Stuck."""
        for form in self.forms:
            has_button = press is None or any(b.says(press.lower()) for b in form.buttons)
            is_there = action is None or urlsplit(form.action).path == action
            if has_button and is_there and fields.keys() <= form.kinds.keys():
                return form
        wanted = {"fields": sorted(fields), "button": press, "action": action}
        raise Stuck(f"no such form at {self.url}: {wanted}")


class Visitor:
    """A person with a browser of their own."""

    def __init__(self, *, timeout: float = 30) -> None:
        self.session = requests.Session()
        self.session.trust_env = False  # no .netrc, no proxies: all of this is on this machine
        self._timeout = timeout

    def get(self, url: str, *, follow: bool = True) -> requests.Response:
        return self.session.get(url, timeout=self._timeout, allow_redirects=follow)

    def submit(
        self,
        page: requests.Response,
        *,
        press: str | None = None,
        action: str | None = None,
        follow: bool = True,
        **fields: str | bool,
    ) -> requests.Response:
        """Fill in a form of this page, hidden fields included, and send it as a browser would."""
        form = Page(page).form(fields, press, action)
        pressed = [b for b in form.buttons if press is None or b.says(press.lower())][:1]
        return self._send(page.url, form, form.filled(fields), pressed, follow=follow)

    def _send(
        self, at: str, form: Form, pairs: Pairs, pressed: list[Button], *, follow: bool
    ) -> requests.Response:
        pairs = pairs + [(button.name, button.value) for button in pressed if button.name]
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(at))
        return self.session.request(
            form.method,
            form.action,
            data=pairs if form.method == "post" else None,
            params=pairs if form.method == "get" else None,
            headers={"Referer": at, "Origin": origin},
            timeout=self._timeout,
            allow_redirects=follow,
        )

    def consent(
        self,
        page: requests.Response,
        until: str,
        *,
        user: str,
        password: str,
        allow: bool = True,
    ) -> str:
        """Go on from this page through login and consent, to an address that starts with `until`.

        That address is not fetched: its code is still unused. Raises Stuck.
        """
        trail = []
        for _ in range(20):
            trail.append(f"{page.status_code} {page.url.partition('?')[0]}")
            onward = _onward(page)
            if onward and onward.startswith(until):
                return onward
            if onward:
                page = self.get(onward, follow=False)
            else:
                form = _form_to_fill(page)
                pairs, button = _answer(form, user, password, allow=allow)
                page = self._send(page.url, form, pairs, [button], follow=False)
        raise Stuck(f"did not reach {until}: {trail}")


def _onward(page: requests.Response) -> str | None:
    """Where a redirect or a meta refresh leads."""
    where = page.headers["Location"] if page.is_redirect else Page(page).refresh
    return urljoin(page.url, where) if where else None


def _form_to_fill(page: requests.Response) -> Form:
    """The form a person would use: one that asks for a password, else one that says yes."""
    if "html" not in page.headers.get("Content-Type", ""):
        raise Stuck(f"{page.url}: {page.status_code} {page.text[:500]}")
    posts = [form for form in Page(page).forms if form.method == "post"]
    login = [form for form in posts if form.named("password")]
    consent = [form for form in posts if any(b.says(*YES) for b in form.buttons)]
    for form in (*login, *consent):
        return form
    raise Stuck(f"nothing to press at {page.url}: {page.status_code} {page.text[:500]}")


def _answer(form: Form, user: str, password: str, *, allow: bool) -> tuple[Pairs, Button]:
    """What this person sends, and presses."""
    secret = form.named("password")
    who = [name for name in form.kinds if name.lower() in USERS]
    fields: dict[str, str | bool] = {name: user for name in who}
    if secret:
        return form.filled({**fields, secret: password}), next(_buttons(form, *NO, without=True))
    return form.filled({}), next(_buttons(form, *(YES if allow else NO)))


def _buttons(form: Form, *words: str, without: bool = False) -> Iterator[Button]:
    yield from (button for button in form.buttons if button.says(*words) is not without)
    raise Stuck(f"no button for {words} in the form for {form.action!r}")
