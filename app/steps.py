"""One step of a check (ui.md section 8): what it found, who can mend it, where to click. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from .errors import AppError, Who, texts
from .exchanges import Exchange

State = Literal["ok", "warn", "bad", "skipped", "waiting"]
Outcome = Literal["ok", "warn", "bad"]

NAMES: Mapping[str, str] = {  # key -> what people read, in the order of the steps
    "settings": "Read the settings",
    "find": "Find the server",
    "connect": "Open a secure connection",
    "oauth": "Read OAuth settings",
    "token": "Get a token",
    "scopes": "Check granted scopes",
    "session": "Start an MCP session",
    "tools": "List tools",
}
KEYS = tuple(NAMES)
LAST = len(KEYS) - 1


@dataclass(frozen=True, slots=True)
class Next:
    label: str
    link: str  # a path of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`number` 0 is what can be seen without asking anybody; 1 to 7 go over the network."""

    number: int
    state: State
    says: str = ""
    took_ms: int = 0
    code: str | None = None  # of errors.yaml, where it failed
    facts: Mapping[str, str | int] = field(default_factory=dict)
    said: str | None = None  # the other side's own words; escape them
    next: Next | None = None
    exchanges: tuple[Exchange, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return KEYS[self.number]

    @property
    def name(self) -> str:
        return NAMES[self.key]

    @property
    def error(self) -> AppError | None:
        """With its texts. None: it did not fail."""
        if self.code is None or self.code not in texts():
            return None
        return AppError(self.code, said=self.said, **self.facts)

    @property
    def who(self) -> Who:
        """Who can mend it."""
        text = texts().get(self.code or "")
        return text.who if text else "admin"

    @property
    def e(self) -> str | None:
        """The number of its kind, E1 to E20; None for what has none."""
        text = texts().get(self.code or "")
        return text.e or None if text else None

    def as_json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"number": self.number, "key": self.key, "name": self.name}
        shown |= {"state": self.state, "says": self.says, "took_ms": self.took_ms}
        shown |= {"code": self.code, "facts": dict(self.facts), "said": self.said}
        shown["next"] = self.next and {"label": self.next.label, "link": self.next.link}
        shown["exchanges"] = [one.as_json() for one in self.exchanges]
        error = self.error
        if error is not None:
            told = {"message": error.message, "cause": error.cause, "who": self.who, "e": self.e}
            shown |= {**told, "action": error.admin or error.action}
        return shown | {"notes": list(self.notes)}

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Self:
        """As it was stored by `as_json`."""
        next_ = kept.get("next")
        return cls(
            number=kept["number"],
            state=kept["state"],
            says=kept.get("says", ""),
            took_ms=kept.get("took_ms", 0),
            code=kept.get("code"),
            facts=kept.get("facts") or {},
            said=kept.get("said"),
            next=Next(**next_) if next_ else None,
            exchanges=tuple(Exchange.of(one) for one in kept.get("exchanges", ())),
            notes=tuple(kept.get("notes", ())),
        )


def next_for(code: str | None, slug: str) -> Next | None:
    """The button of a code, if it has one."""
    text = texts().get(code or "")
    return Next(text.button, text.link.format(gateway=slug)) if text and text.button else None


def failed(  # noqa: PLR0913  # what a step tells
    number: int,
    error: AppError,
    slug: str,
    *,
    host: str = "",
    state: State = "bad",
    took_ms: int = 0,
    exchanges: tuple[Exchange, ...] = (),
) -> Step:
    """What an error of ours means for this step. `host`: who was asked, if it does not say."""
    code = error.step or error.code
    facts = {name: fact for name, fact in error.facts.items() if isinstance(fact, str | int)}
    facts["host"] = facts.get("host") or host
    told = AppError(code, said=error.said, **facts)
    return Step(
        number=number,
        state=state,
        says=told.message,
        took_ms=took_ms,
        code=code,
        facts=facts,
        said=error.said,
        next=next_for(code, slug),
        exchanges=exchanges,
    )


def outcome_of(steps: list[Step]) -> Outcome:
    """Of a check that is over, or as far as it came."""
    states = {step.state for step in steps}
    if "bad" in states:
        return "bad"
    return "warn" if states & {"warn", "waiting"} else "ok"
