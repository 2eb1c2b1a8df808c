"""What gunicorn loads: `gunicorn wsgi:app`."""

import sys

from app import create_app
from app.web.people import announce
from config import Config, ConfigError

try:
    app = create_app(Config.from_env())
except ConfigError as error:
    sys.stderr.write(f"MCP Gateway does not start: {error}\n")
    sys.exit(78)  # EX_CONFIG: a restart does not help
announce(app)
