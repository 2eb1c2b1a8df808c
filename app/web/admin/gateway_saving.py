"""What adding and editing a gateway share, between the form and the registry."""

from __future__ import annotations

from collections.abc import Sequence

from flask import flash

from ... import gateways, proposals
from ...errors import Conflict, Invalid, UpstreamError
from ...models import Gateway
from ...oauth.discovered import Discovered
from ...oauth.fetching import host
from ...specs import GatewaySpec
from ..words import many
from .gateway_form import GatewayForm


def asked(
    form: GatewayForm, spec: GatewaySpec, gateway: Gateway | None = None
) -> Discovered | None:
    """What its URL says, where the form leaves that open. Raises Invalid. Ends the transaction.

    Also where people would be sent to a host that the page did not show.
    """
    try:
        found = proposals.complete(spec, notices=[], gateway=gateway)
    except UpstreamError as error:
        raise Invalid(proposals.as_fields(error)) from error
    except Conflict as error:
        if error.code != "client_needed":
            raise
        raise Invalid(proposals.as_fields(error)) from error
    there = proposals.provider_of(found) if found is not None else None
    if there is not None and there not in (host(spec.url), form.seen_host.data):
        form.seen_host.data = there
        sentence = f"People will be sent to {there}. Save again only if you trust it."
        raise Invalid({"url": sentence})
    return found


def refuse_old_sessions(form: GatewayForm, gateway: Gateway | None = None) -> None:
    """A secret is only taken from who typed the password lately (SEC-075)."""
    seen = gateway and gateway.updated_at
    refusal = form.refusal() if form.typed_secrets else None
    if refusal:
        raise Invalid({"own_password": refusal})
    if gateway and gateway.updated_at != seen:  # looking at the password commits
        raise Conflict


def refuse_surprises(
    gateway: Gateway, spec: GatewaySpec, found: Discovered | None, *, may_sign_out: bool
) -> None:
    """All that stands against the edit, and people who would be signed out unasked."""
    problems = gateways.problems(gateway, spec, found)
    leaving = gateways.signed_out_by(gateway, spec, found)
    if leaving and not may_sign_out:
        who = many(leaving, "person", "people")
        problems["sign_out"] = f"Saving this signs {who} out. Tick the box to go on."
    if problems:
        raise Invalid(problems)


def say(done: str, notices: Sequence[str]) -> None:
    flash(done, "success")
    for notice in notices:
        flash(notice, "info")


def warn(gateway: Gateway) -> None:
    for warning in gateways.warnings(gateway):
        flash(warning, "warn")
