"""A connection that has just ended: its provider is asked at once, and the person is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..oauth import revocation, templates
from ..oauth.keeping import Parted

AtProvider = Literal[
    "revoked", "unsupported", "spared", "waiting", "given_up", "unreadable", "nothing"
]


@dataclass(frozen=True, slots=True)
class Parting:
    """`kind` is a message's."""

    at_provider: AtProvider
    kind: str
    message: str


def ask_to_revoke(ended: Mapping[str, Parted], *, name: str, host: str) -> Parting:
    """Best effort: 5 s for each token. `name` of the gateway. Call it after the commit.

    What is not answered is asked again by the housekeeper.
    """
    queued = [one for one, parted in ended.items() if parted == "queued"]
    if not queued:
        return _said("unsupported" if "left" in ended.values() else "nothing", name, host)
    revocation.work_off(only=queued)
    found = set(revocation.outcomes(queued).values())
    for one in ("unreadable", "given_up", "waiting", "spared", "unsupported"):
        if one in found:
            return _said(one, name, host)
    return _said("revoked", name, host)


def _said(at_provider: AtProvider, name: str, host: str) -> Parting:
    kind, words = _WORDS[at_provider]
    place = host or "the provider"
    page = templates.leave_page(host) if at_provider in _BY_HAND else None
    where = f" You find it at {page}." if page else ""
    return Parting(at_provider, kind, f"{name} is disconnected. {words.format(host=place)}{where}")


_BY_HAND = ("unsupported", "given_up", "unreadable")  # people are told to remove the app there


_WORDS: Mapping[AtProvider, tuple[str, str]] = {
    "revoked": ("success", "Revoked at {host}."),
    "unsupported": (
        *(
            "info",
            "Removed here. We know of no revoke at {host}: remove this app there, if it is listed.",
        ),
    ),
    "waiting": (
        *("info", "Removed here; {host} has not answered yet. We ask again by ourselves."),
    ),
    "given_up": (*("info", "Removed here; {host} would not revoke it. Remove this app there."),),
    "spared": (
        "info",
        "Removed here alone: to revoke it at {host} would end your other connections there too.",
    ),
    "unreadable": (
        "info",
        "Removed here. What was stored cannot be read, so {host} could not be asked: remove this"
        " app there.",
    ),
    "nothing": ("success", "There was nothing to revoke any more."),
}
