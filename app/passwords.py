"""Passwords: what is refused, how they are kept, and how many are looked at at once."""

from __future__ import annotations

import functools
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from gevent import get_hub, monkey

from .errors import Busy, Invalid

T = TypeVar("T")

LEAST, MOST = 12, 1_000  # characters, taken as they come: no trimming, no normal form (SEC-073)
# One hash at 46 MiB takes some 40 ms of a core; two at once keep a worker below 100 MiB for them.
MEMORY_KIB, AT_ONCE, PATIENCE_S = 47_104, 2, 5.0
_hasher = PasswordHasher(time_cost=1, memory_cost=MEMORY_KIB, parallelism=1)  # Argon2id, SEC-069
_turns = threading.BoundedSemaphore(AT_ONCE)


def check_new(password: str, *, email: str) -> None:
    """Raises Invalid: too short, too long, or among the first that anybody would try."""
    if len(password) < LEAST:
        raise Invalid({"password": f"Use at least {LEAST} characters."})
    if len(password) > MOST:
        raise Invalid({"password": f"Use at most {MOST:,} characters."})
    if is_common(password, also=re.split(r"[^a-z0-9]+", email.lower())):
        raise Invalid({"password": "This is easy to guess. Use another, such as four words."})


def hashed(password: str) -> str:
    """Raises Busy when many others wait."""
    with _turn():
        return _off_the_hub(lambda: _hasher.hash(password))


def matches(kept: str, password: str) -> bool:
    try:
        return _hasher.verify(kept, password)
    except (VerificationError, InvalidHashError):
        return False


def is_right(
    password: str, kept: str | None, *, matches: Callable[[str, str], bool] = matches
) -> bool:
    """Takes as long when nothing is kept (SEC-071). Raises Busy when many others wait."""
    with _turn():
        stand_in = _off_the_hub(_nobodys)
        right = _off_the_hub(lambda: matches(kept or stand_in, password))
    return right and kept is not None


def is_outdated(kept: str) -> bool:
    """Kept with weaker parameters than those of today."""
    return _hasher.check_needs_rehash(kept)


@functools.cache
def _nobodys() -> str:
    return _hasher.hash(secrets.token_hex())


@contextmanager
def _turn() -> Iterator[None]:
    if not _turns.acquire(timeout=PATIENCE_S):
        raise Busy(retry_after=int(PATIENCE_S))
    try:
        yield
    finally:
        _turns.release()


def _off_the_hub(work: Callable[[], T]) -> T:
    """In a real thread under gevent, as a hash would stop every stream; else right here."""
    if not monkey.is_module_patched("threading"):
        return work()
    result: T = get_hub().threadpool.apply(work)
    return result


# -- common ones -------------------------------------------------------------------------------

_ROWS = (  # walks over keyboards, and the alphabet
    *("12345678901234567890", "qwertyuiopasdfghjklzxcvbnm", "abcdefghijklmnopqrstuvwxyz"),
    *("qazwsxedcrfvtgbyhnujmikolp", "1qaz2wsx3edc4rfv5tgb6yhn7ujm", "1qazxsw23edcvfr45tgbnhy6"),
    *("1q2w3e4r5t6y7u8i9o0p", "q1w2e3r4t5y6u7i8o9p0", "1a2s3d4f5g6h7j8k9l", "a1s2d3f4g5h6j7k8l9"),
    *("z1x2c3v4b5n6m7", "qawsedrftgyhujikolp", "zaq1xsw2cde3vfr4bgt5", "1qa2ws3ed4rf5tg6yh"),
)
_WALKS = " ".join((*_ROWS, *(row[::-1] for row in _ROWS)))
_LEET = str.maketrans("013457@$!|", "oieastasil")
_PARTS = 3  # of a common password, at most
_FILLER = 6  # characters that are no letters, such as a year and a sign


@functools.cache
def _words() -> frozenset[str]:
    file = Path(__file__).with_name("common_words.txt")
    lines = file.read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if line[:1] != "#" for word in line.split())


def is_common(password: str, *, also: Iterable[str] = ()) -> bool:
    """Made of at most three common words and keyboard walks, with a few digits and signs.

    A list of whole passwords ends where somebody adds a year. This refuses what such lists hold
    at 12 characters and more, in any case and with 0 for o. `also`: words to count as common.
    """
    small = password.lower()
    if re.fullmatch(r"(.{1,6})\1+.{0,3}|[0-9]{1,15}", small, re.S):
        return True
    words = _words().union(word for word in also if len(word) > 2)
    return _is_made_of(words, small)


def _is_made_of(words: frozenset[str], text: str) -> bool:
    """Whether the text is common parts from end to end. Takes steps: text x longest part."""
    longest = max(len(row) for row in (*words, *_ROWS))
    reached = {0: (0, 0)}  # an end -> the fewest parts, and then characters of filler, up to it
    for start in range(len(text)):
        parts, filler = reached.get(start, (_PARTS + 1, 0))
        for end in range(start + 1, min(start + longest, len(text)) + 1) if parts <= _PARTS else ():
            more = _cost(text[start:end], words)
            if more is None or parts + more[0] > _PARTS or filler + more[1] > _FILLER:
                continue
            found = (parts + more[0], filler + more[1])
            reached[end] = min(found, reached.get(end, found))
    return len(text) in reached and reached[len(text)][0] > 0


def _cost(part: str, words: frozenset[str]) -> tuple[int, int] | None:
    """How many common parts, and characters of filler, this is; None: it is neither."""
    if len(part) == 1 and not part.isalpha():
        return 0, 1
    if part in words or part.translate(_LEET) in words:
        return 1, 0
    return (1, 0) if len(part) > 2 and (part in _WALKS or len(set(part)) == 1) else None
