"""An upstream's answer to its client: the bytes as they came, by whole events, to the very end.

Nothing of the database is held and nothing of the request's context is used while a stream runs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from ..errors import AppError, UpstreamError
from . import answers, jsonrpc, sse, wire
from .consent import failure
from .stand_in import EVENTS, JSON
from .turn import Turn
from .upstream import Answer

_CANDIDATES = 4  # the last events that may have been the answer; others follow it at most rarely


class Stream:
    """A body that comes. However it ends, what it held is let go of."""

    def __init__(self, pieces: Generator[bytes, None, None], let_go: Callable[[], None]) -> None:
        self._pieces, self._let_go = pieces, let_go

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        self._pieces.close()  # does nothing if it never began, so:
        self._let_go()


def passed(turn: Turn, answer: Answer) -> wire.Reply:
    """A 2xx. Raises UpstreamError for what is no answer to this call."""
    call = turn.call
    if answer.kind == "events":
        return wire.Reply(
            200, dict(EVENTS), stream(turn, _events(turn, answer), answer.close), "ok"
        )
    if answer.kind != "json" or call.id is None:
        answer.let_go()
        raise UpstreamError("upstream_bad_answer")
    raw = answer.body()
    if not jsonrpc.answers(raw, call.id):
        raise UpstreamError("upstream_bad_answer")
    return wire.Reply(200, dict(JSON), [raw], "ok")


def stream(turn: Turn, pieces: Generator[bytes, None, None], close: Callable[[], None]) -> Stream:
    hangup = turn.hangup

    def let_go() -> None:
        close()
        if hangup is not None:
            hangup.over()

    return Stream(pieces, let_go)


def _events(turn: Turn, answer: Answer) -> Generator[bytes, None, None]:
    """Whole events; one more if the stream ends without the answer (R5): else clients wait."""
    splitter, seen = sse.Splitter(), _Seen(turn)
    problem: AppError = UpstreamError()
    try:
        for piece in answer.pieces():
            block = splitter.feed(piece)
            if block:
                seen.note(block)
                yield block
    except UpstreamError as error:
        problem = error
    except sse.TooLong:
        problem = UpstreamError("upstream_bad_answer")
    if not seen.is_complete():
        yield sse.event(failure(turn, problem))


class _Seen:
    """Whether a stream has done what it was opened for. Parses nothing before the end."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._candidates: list[bytes] = []
        self._can_resume = False

    def note(self, block: bytes) -> None:
        if b'"result"' in block or b'"error"' in block:
            self._candidates = [*self._candidates[1 - _CANDIDATES :], block]
        if not self._can_resume and not self._turn.call.is_modern:
            self._can_resume = sse.has_id(block)

    def is_complete(self) -> bool:
        """Also if nobody is there to be told, and where a client can take the stream up again."""
        turn, call_id = self._turn, self._turn.call.id
        gone = turn.hangup is not None and turn.hangup.has_happened
        if call_id is None or gone or self._can_resume:
            return True
        return any(
            jsonrpc.answers(event.data.encode(), call_id)
            for block in reversed(self._candidates)
            for event in sse.events(block)
        )


# -- answers that are no 2xx ----------------------------------------------------------------------


def modern_refusal(answer: Answer) -> wire.Reply:
    """A 4xx of this revision passes with its status, as that belongs to what it says.

    A server of before refuses the whole way of asking: its client has to open anew.
    """
    raw = _body(answer)
    number = _number(raw)
    if number is None:
        busy = answer.status in answers.BUSY
        raise UpstreamError("upstream_error" if busy else "upstream_bad_answer")
    if number == jsonrpc.INVALID_REQUEST or -32020 < number <= -32000:
        raise UpstreamError("older_protocol")
    return wire.Reply(answer.status, dict(JSON), [raw], "refused")


def legacy_refusal(turn: Turn, answer: Answer) -> wire.Reply:
    """A 4xx goes down as HTTP 200, under the id of the call: many servers leave it out (L4, S5)."""
    call = turn.call
    if answer.status == 404 and turn.session is not None and turn.session.upstream_id is not None:
        answer.let_go()
        body = jsonrpc.error(call.id, jsonrpc.INVALID_REQUEST, "The server ended this session.")
        return wire.Reply(404, dict(JSON), [body], "session_over")
    if call.id is None:
        answer.let_go()
        return wire.Reply(202, {}, [], "refused")
    said = answers.refusal(answer, call.id)
    return wire.Reply(200, dict(JSON), [said.raw], "refused")


def _body(answer: Answer) -> bytes:
    if answer.kind == "json":
        return answer.body()
    answer.let_go()
    return b""


def _number(raw: bytes) -> int | None:
    """The code of a JSON-RPC error."""
    if not raw:
        return None
    error = answers.message_of(raw).body.get("error")
    number = error.get("code") if isinstance(error, dict) else None
    return number if type(number) is int else None
