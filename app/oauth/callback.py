"""What a provider sends the browser back with (RFC 6749 section 4.1.2, RFC 9207). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import ConsentFailed
from . import refusals

LIMIT = 4096  # characters of a code or state


@dataclass(frozen=True, slots=True)
class Callback:
    """Nothing of it is believed yet. Tokens in the query are not even looked at (SEC-015)."""

    path: str  # it arrived at
    state: str = field(repr=False)
    code: str | None = field(repr=False)
    iss: str | None
    error: str | None
    error_description: str = ""

    def refusal(self, errors: Mapping[str, str]) -> ConsentFailed | None:
        """What `error` means; `errors` is the config's: a provider's word to our code."""
        if self.error is None:
            return None
        code = refusals.code_of(self.error, self.error_description, errors) or "provider_error"
        return ConsentFailed(code, said=refusals.said(self.error, self.error_description))


def read(path: str, query: Iterable[tuple[str, str]]) -> Callback:
    """Raises ConsentFailed for a query that says something twice, or too much."""
    pairs = list(query)
    sent = dict(pairs)
    code, state = sent.get("code"), sent.get("state", "")
    if len(sent) != len(pairs) or len(state) > LIMIT or len(code or "") > LIMIT:
        raise ConsentFailed("response_invalid")
    words = sent.get("error_description", "")
    return Callback(path, state, code, sent.get("iss"), sent.get("error"), words)
