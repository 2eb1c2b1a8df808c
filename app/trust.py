"""Whom a gateway's calls trust beside the usual CAs, and the certificate they show (mutual TLS).

It holds for the gateway's server and for its provider; no other gateway's calls are told of it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

from . import certificates
from .certificates import Unusable
from .secretbox import Owned, Where, box, cell
from .specs import SET, GatewaySpec, typed

KEY = "client_key_sealed"


@dataclass(frozen=True, slots=True)
class Trust:
    """A key to pools and TLS settings: whatever differs here is never shared."""

    where: Where  # of the sealed key
    ca_pem: str | None
    cert_pem: str | None
    key_sealed: str | None = field(repr=False)

    def key_pem(self) -> str | None:
        """Raises Unsealable."""
        return None if self.key_sealed is None else box().open(self.key_sealed, where=self.where)


class Trusting(Owned, Protocol):
    ca_pem: str | None
    client_cert_pem: str | None
    client_key_sealed: str | None


def of(row: Trusting) -> Trust | None:
    """Of a gateway, or a revocation that outlived one. None: the usual CAs, no certificate."""
    return _known(cell(row, KEY), row.ca_pem, row.client_cert_pem, row.client_key_sealed)


def of_gateway(
    gateway_id: str, ca_pem: str | None, cert_pem: str | None, key_sealed: str | None
) -> Trust | None:
    """The same, of columns."""
    where = Where("gateway", gateway_id, KEY, f"gateway:{gateway_id}")
    return _known(where, ca_pem, cert_pem, key_sealed)


def _known(
    where: Where, ca_pem: str | None, cert_pem: str | None, key_sealed: str | None
) -> Trust | None:
    if ca_pem is None and cert_pem is None:
        return None
    return Trust(where, ca_pem, cert_pem, key_sealed)


# -- as admins edit it ----------------------------------------------------------------------------


def record(row: Trusting) -> dict[str, Any]:
    is_set = SET if row.client_key_sealed else None
    names = ("ca_pem", "client_cert_pem")
    return {name: getattr(row, name) for name in names} | {"client_key": is_set}


def problems(row: Trusting | None, spec: GatewaySpec, changed: Collection[str]) -> dict[str, str]:
    """Of what is new: what is stored may have expired, and stands in the way of no other edit.

    `row`: None for a new gateway. Raises Unsealable.
    """
    wrong = {}
    if spec.ca_pem is not None and "ca_pem" in changed:
        try:
            certificates.check_ca(spec.ca_pem)
        except Unusable as error:
            wrong["ca_pem"] = str(error)
    if spec.client_cert_pem is not None and {"client_cert_pem", "client_key"} & {*changed}:
        key = typed(spec.client_key) or (row and _stored(row)) or ""
        try:
            certificates.check_pair(spec.client_cert_pem, key)
        except Unusable as error:
            is_of_key = "key" in str(error)
            wrong["client_key" if is_of_key else "client_cert_pem"] = str(error)
    return wrong


def write(row: Trusting, spec: GatewaySpec) -> None:
    """What stands in `spec`; a key that is not named stays, but not without its certificate."""
    new = typed(spec.client_key)
    row.ca_pem, row.client_cert_pem = spec.ca_pem, spec.client_cert_pem
    if spec.client_cert_pem is None:
        row.client_key_sealed = None
    elif new is not None:
        row.client_key_sealed = box().seal(new, where=cell(row, KEY))


def _stored(row: Trusting) -> str | None:
    found = of(row)
    return found.key_pem() if found else None
