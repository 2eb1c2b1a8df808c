"""Everything that knows a browser or a request. One module per family of URLs."""

from flask import Flask

from . import (
    auth,
    denials,
    errors,
    help,
    home,
    machines,
    metadata,
    oauth,
    oauth_client,
    people,
    proxy,
    security,
    words,
)
from .admin import activity, adding, checks, clients, connected, moved, settings, users
from .admin import gateways as admin_gateways
from .admin import templates as admin_templates
from .admin import tool_configs as admin_tool_configs
from .api import activity as api_activity
from .api import checks as api_checks
from .api import connections as api_connections
from .api import gateways as api_gateways
from .api import openapi
from .me import account, connections, tokens, tools, try_it


def register(app: Flask) -> None:
    errors.register(app)
    security.register(app)
    proxy.register(app)
    auth.register(app)  # after these two: a foreign Host or Origin is refused first
    denials.register(app)
    words.register(app)
    app.register_blueprint(home.bp)
    app.register_blueprint(machines.bp)
    app.register_blueprint(people.bp)
    app.register_blueprint(account.bp)
    app.register_blueprint(tokens.bp)
    app.register_blueprint(users.bp)
    app.register_blueprint(activity.bp)
    app.register_blueprint(settings.bp)
    app.register_blueprint(help.bp)
    app.register_blueprint(oauth.bp)
    app.register_blueprint(oauth_client.bp)
    app.register_blueprint(connections.bp)
    app.register_blueprint(tools.bp)
    app.register_blueprint(try_it.bp)
    app.register_blueprint(adding.bp)
    app.register_blueprint(admin_gateways.bp)
    app.register_blueprint(connected.bp)
    app.register_blueprint(clients.bp)
    app.register_blueprint(checks.bp)
    app.register_blueprint(admin_templates.bp)
    app.register_blueprint(admin_tool_configs.bp)
    app.register_blueprint(moved.bp)
    app.register_blueprint(api_gateways.bp)
    app.register_blueprint(api_checks.bp)
    app.register_blueprint(api_connections.bp)
    app.register_blueprint(api_activity.bp)
    app.register_blueprint(openapi.bp)
    app.register_blueprint(proxy.bp)
    app.register_blueprint(metadata.bp)
