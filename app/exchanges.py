"""One request of ours and its answer, as an admin may see them: secrets are hidden. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exchange:
    """`sent` and `got` are text to show, escaped by whoever draws it."""

    method: str
    url: str
    status: int | None  # None: no answer came
    took_ms: int
    sent: str = ""  # headers and form, with secrets hidden
    got: str = ""  # headers that matter, and the first 200 characters of the body
    code: str | None = None  # of errors.yaml, where it failed
