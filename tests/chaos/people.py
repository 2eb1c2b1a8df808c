"""`python -m tests.chaos.people N`: make N people in the database; prints their API tokens as JSON.

One process instead of one command for each: they are the cast, not what is shown.
"""

from __future__ import annotations

import json
import sys

from app import api_tokens, create_app, passwords, people
from app.audit import SYSTEM
from app.db import db
from config import Config
from tests.e2e.gateway import PASSWORD


def main() -> None:
    app = create_app(Config.from_env())
    kept = passwords.hashed(PASSWORD)
    tokens = {}
    with app.app_context():
        for number in range(int(sys.argv[1])):
            email = f"person{number}@example.com"
            user = people.create(email, password=None)
            user.password_hash = kept
            db.session.flush()
            _, tokens[email] = api_tokens.issue(
                user.id, name="chaos", scopes=["mcp"], gateway_ids=None, expires_at=None, by=SYSTEM
            )
        db.session.commit()
    print(json.dumps(tokens))


if __name__ == "__main__":
    main()
