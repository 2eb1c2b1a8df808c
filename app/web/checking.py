"""A check that waited for its admin to connect, taken on at the callback."""

from __future__ import annotations

from .. import access, check_runs
from ..access import Caller
from ..errors import AppError
from ..oauth.flow import Finished
from .auth import actor


def go_on(caller: Caller, finished: Finished) -> None:
    """Where no tokens are kept: the steps that need one, now or never. Raises nothing of ours.

    Elsewhere the page of the check goes on by itself, as the connection is there.
    """
    run_id = finished.return_to.rpartition("/")[2]
    try:
        seen = access.usable(caller, finished.slug)
        kept = check_runs.find(run_id, seen.id)
        if kept.user_id != caller.user_id:
            return
        with check_runs.turn():
            if check_runs.take(run_id, "waiting"):
                given = finished.tokens
                for _ in check_runs.steps(run_id, seen, caller, given=given, by=actor()):
                    pass
    except AppError:  # it waits on: its page says so, and can be asked again
        return
