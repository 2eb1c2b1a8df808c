"""A person who uses the gateway from a browser: signs in, connects, consents, comes back."""

from __future__ import annotations

import requests

from .visitor import Stuck, Visitor


class Person(Visitor):
    def __init__(self, url: str) -> None:
        """`url`: the gateway's origin."""
        super().__init__()
        self.url = url

    def at(self, path: str) -> requests.Response:
        return self.get(self.url + path)

    def login(self, email: str, password: str) -> Person:
        page = self.submit(self.at("/login"), email=email, password=password)
        if page.status_code != 200 or "/login" in page.url:
            raise Stuck(f"{email} could not sign in: {page.status_code} {page.text[:2000]}")
        return self

    def press_connect(self, slug: str, *, at: str = "/connections") -> requests.Response:
        """Gives the stop-over page, which leads to the provider."""
        page = self.submit(self.at(at), action=f"/oauth/connect/{slug}", follow=False)
        if page.status_code != 200:
            raise Stuck(f"Connect answered {page.status_code}: {page.text[:2000]}")
        return page

    def answer_provider(
        self, page: requests.Response, *, user: str, password: str, allow: bool = True
    ) -> str:
        """From the stop-over page to the callback address, which is not visited yet."""
        back = f"{self.url}/oauth/callback"
        return self.consent(page, back, user=user, password=password, allow=allow)

    def connect(
        self, slug: str, *, user: str, password: str, allow: bool = True
    ) -> requests.Response:
        """All of it; gives the page where it ends, whatever that says."""
        page = self.press_connect(slug)
        return self.get(self.answer_provider(page, user=user, password=password, allow=allow))
