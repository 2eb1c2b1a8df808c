"""How a person stands with a gateway, in words (ui.md section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from ...access import Held, Standing
from ...db import utcnow
from ...errors import texts
from ...specs import OAuthConfigSpec
from ...states import LIVING, OVER, STATES, badge
from ..words import moment

Offer = Literal["connect", "details", "tools", ""]
_SOON_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Words:
    """`kind` is the badge's, `offer` what the button does and `button` what it says.

    `rank` sorts lists: what needs the person comes first.
    """

    kind: str
    word: str
    line: str
    offer: Offer
    button: str
    rank: int

    @property
    def needs_person(self) -> bool:
        return self.rank == 0


@dataclass(frozen=True, slots=True)
class Shown:
    """One gateway as its person sees it. Never a token value."""

    slug: str
    name: str
    about: str
    auth_type: str
    spec: OAuthConfigSpec | None
    held: Held | None
    words: Words

    @property
    def is_personal(self) -> bool:
        """Each person signs in for themselves."""
        return self.spec is not None and self.spec.grant_type == "authorization_code"

    @property
    def signs_in_first(self) -> bool:
        """A call now would only find that a sign-in is needed."""
        return self.is_personal and (not self.keeps or self.words.offer == "connect")

    @property
    def keeps(self) -> bool:
        return self.spec is not None and self.spec.stores

    @property
    def host(self) -> str:
        """Where people sign in."""
        url = self.spec and (self.spec.authorization_url or self.spec.issuer)
        return urlsplit(url).netloc if url else ""

    @property
    def asked(self) -> list[str]:
        return (self.spec and self.spec.scopes) or []

    @property
    def granted(self) -> list[str]:
        return self.held.scopes_granted if self.held else []

    @property
    def missing(self) -> list[str]:
        wanted = self.held.scopes_requested if self.held else []
        return [scope for scope in wanted if scope not in self.granted]

    @property
    def has_tokens(self) -> bool:
        return self.held is not None and self.held.has_access

    @property
    def renews(self) -> bool:
        return self.spec is not None and _renews(self.spec, self.held)

    @property
    def has_ended(self) -> bool:
        """Nobody may use it any more, whatever time its last token was given."""
        if self.held is None:
            return False
        return self.held.state in OVER or (_is_over(self.held) and not self.renews)


def shown(standing: Standing) -> Shown:
    about, spec, held = standing.description, standing.spec, standing.held
    words = _words(standing.auth_type, about, spec, held)
    if standing.is_signing_in and held is None and spec is not None and spec.stores:
        words = _told("pending", STATES["pending"].line)
    return Shown(standing.slug, standing.name, about, standing.auth_type, spec, held, words)


def _words(auth_type: str, about: str, spec: OAuthConfigSpec | None, held: Held | None) -> Words:
    if auth_type == "none":
        return Words("off", "No sign-in", about or "Open to everyone here.", "tools", "Tools", 5)
    if spec is None or spec.grant_type == "client_credentials":
        return _shared(held)
    if not spec.stores:
        line = f"{about} Keeps no tokens.".strip()
        return Words("draft", "Asks on each call", line, "tools", "Try a tool", 4)
    if held is None:
        line = about or "You connect your own account."
        return Words("draft", "Not connected", line, "connect", "Connect", 3)
    return _own(spec, held)


def _shared(held: Held | None) -> Words:
    if held is not None and held.state == "failing":
        return Words("bad", "Not working", _failing(held), "details", "What happened", 1)
    return Words(
        "off", "Shared account", "Kept by your admins. Nothing to do.", "tools", "Tools", 5
    )


def _own(spec: OAuthConfigSpec, held: Held) -> Words:
    state, reason = held.state, held.reason or ""
    if state == "active" and _is_over(held) and not _renews(spec, held):
        state, reason = "needs_reauth", "expired"  # as the next call will find
    if state == "refreshing" and _is_over(held) and moment(held.not_before_ms) > utcnow():
        state = "failing"  # no answer came, and nobody asks for a while
    if state in ("active", "refreshing"):
        who = f"As {held.account_label}." if held.account_label else ""
        soon = _ends_soon(spec, held)
        kind, word, rank = ("warn", "Ends soon", 1) if soon else (*badge(state), 2)
        return Words(kind, word, who, "details", "Details", rank)
    line = _failing(held) if state == "failing" else STATES[state].why(reason)
    if state == "needs_reauth":
        line += " Nothing is lost."
    return _told(state, line)


def _told(state: str, line: str) -> Words:
    offer, button, rank = _OFFERS[state]
    return Words(*badge(state), line, offer, button, rank)


_OFFERS: dict[str, tuple[Offer, str, int]] = {
    "needs_reauth": ("connect", "Reconnect", 0),
    "orphaned": ("connect", "Connect", 0),
    "failing": ("details", "What happened", 1),
    "pending": ("connect", "Start again", 2),
    "revoked": ("connect", "Connect", 3),
}


def _failing(held: Held) -> str:
    """Whether it mends itself, or an admin must act."""
    text = texts().get(held.last_error_code or "")
    if text is not None and text.action.startswith("An admin must"):
        return "An admin must fix the set-up."
    return STATES["failing"].line


def _renews(spec: OAuthConfigSpec, held: Held | None) -> bool:
    if held is None or held.state not in LIVING:
        return False  # what has ended keeps its refresh token for a while, and nobody sends it
    return spec.token_management.auto_refresh and held.has_refresh


def _is_over(held: Held) -> bool:
    return held.expires_ms is not None and moment(held.expires_ms) <= utcnow()


def _ends_soon(spec: OAuthConfigSpec, held: Held) -> bool:
    if held.expires_ms is None or _renews(spec, held):
        return False
    return (moment(held.expires_ms) - utcnow()).total_seconds() < _SOON_S
