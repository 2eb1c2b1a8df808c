"""One JSON line per log record, on standard error. No code, state, token or secret is logged."""

import json
import logging
import sys
from datetime import UTC, datetime

_TALKATIVE = ("requests_oauthlib", "oauthlib", "urllib3")  # at DEBUG they log secrets and tokens


_encode = json.JSONEncoder(default=str).encode  # json.dumps would make one for each line


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """ASCII only: no control or bidirectional character reaches a terminal (SEC-112)."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return _encode(line)


def configure(level: str) -> None:
    """Once per process; a second call only sets the level."""
    root = logging.getLogger()
    if not any(isinstance(one.formatter, JsonLines) for one in root.handlers):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("alembic.runtime.migration").setLevel(logging.WARNING)
