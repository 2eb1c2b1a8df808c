"""An MCP server and a provider on loopback that publish what a test says, and keep who asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.upstream import JSON, Said, Seen, Upstream, says

PRM, AS, OPENID = (
    f"/.well-known/{name}"
    for name in ("oauth-protected-resource", "oauth-authorization-server", "openid-configuration")
)
Page = Said | Callable[[Seen], Said] | dict[str, Any] | bytes | int


class Site:
    """`pages`: a path (with its query) to what stands there: JSON, bytes, a status, an answer."""

    def __init__(self, pages: dict[str, Page] | None = None, **server: Any) -> None:
        self.server = Upstream(**server)
        self.server.script = self._answer
        self.pages: dict[str, Page] = pages or {}
        self.origin = self.server.origin

    @property
    def asked(self) -> list[str]:
        """Method and path of each request, in order."""
        return [f"{one.method} {one.path}" for one in self.server.seen]

    def _answer(self, seen: Seen) -> Said:
        page = self.pages.get(seen.path, 404)
        if callable(page):
            page = page(seen)
        if isinstance(page, int):
            return Said(page)
        return page if isinstance(page, Said) else says(page)


class Provider(Site):
    """An authorization server. `issuer` is its origin and `path`."""

    def __init__(self, path: str = "", **server: Any) -> None:
        super().__init__(**server)
        self.issuer = f"{self.origin}{path}"
        self.publish()

    def publish(self, *, at: str = "", **changes: Any) -> None:
        """Its metadata, with `changes`; a member of ... is left out."""
        path = self.issuer.removeprefix(self.origin).removesuffix("/")
        said = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.origin}/authorize",
            "token_endpoint": f"{self.origin}/token",
            "registration_endpoint": f"{self.origin}/register",
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none", "client_secret_post"],
            "scopes_supported": ["read", "write", "offline_access"],
        }
        said = {name: value for name, value in (said | changes).items() if value is not ...}
        self.pages[at or AS + path] = said


class Server(Site):
    """An MCP server that wants a sign-in, and names `provider` for it. `url` is what is pasted."""

    def __init__(self, provider: Provider | None = None, path: str = "/mcp", **server: Any) -> None:
        super().__init__(**server)
        self.url = f"{self.origin}{path}"
        self.challenge()
        if provider is not None:
            self.publish(provider.issuer)

    def challenge(self, said: str | None = None, status: int = 401) -> None:
        """Answer with this WWW-Authenticate; None: one that names the resource metadata."""
        path = self.url.removeprefix(self.origin)
        named = f'Bearer resource_metadata="{self.origin}{PRM}{path}"'
        headers = {"WWW-Authenticate": named if said is None else said}
        self.pages[path] = Said(status, b"{}", {"Content-Type": JSON, **headers})

    def publish(self, *issuers: str, at: str = "", **changes: Any) -> None:
        path = self.url.removeprefix(self.origin)
        said = {"resource": self.url, "authorization_servers": list(issuers)} | changes
        said = {name: value for name, value in said.items() if value is not ...}
        self.pages[at or PRM + path] = said


@pytest.fixture
def published() -> Iterator[Callable[..., tuple[Server, Provider]]]:
    """Makes a server and its provider; both are gone at the end of the test."""
    made: list[Site] = []

    def make(path: str = "", **server: Any) -> tuple[Server, Provider]:
        provider = Provider(path, **server)
        made.append(provider)
        made.append(Server(provider, **server))
        return made[-1], provider

    yield make
    for site in made:
        site.server.stop()
