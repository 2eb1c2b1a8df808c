"""Whether AUTH_ENCRYPTION_SECRET is the one this database was sealed with (SEC-081)."""

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from config import ConfigError

from .db import db
from .errors import Unsealable
from .models import CryptoMeta
from .secretbox import box, cell

_KNOWN = "MCP Gateway"


def verify() -> None:
    """Open every check row; add one for a new active key. Commits. Raises ConfigError.

    Nothing is written with a wrong key: an old row that does not open ends the start.
    """
    held = box()
    rows = db.session.scalars(sa.select(CryptoMeta)).all()
    for row in rows:
        try:
            box().open(row.check_sealed, where=cell(row, "check_sealed"))
        except Unsealable as error:
            raise ConfigError(
                f"AUTH_ENCRYPTION_SECRET (key {held.active}) does not open this database, which "
                f"was sealed with key {row.id}. Give that secret, or list it in "
                "AUTH_ENCRYPTION_SECRETS_OLD"
            ) from error
    if held.active not in {row.id for row in rows}:
        row = CryptoMeta(id=held.active)
        row.check_sealed = box().seal(_KNOWN, where=cell(row, "check_sealed"))
        db.session.add(row)
        try:
            db.session.commit()
        except IntegrityError:  # another worker was faster, with the same key
            db.session.rollback()
    db.session.rollback()
