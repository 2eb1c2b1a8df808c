"""Everything that knows a browser or a request. One module per family of URLs."""

from flask import Flask

from . import auth, errors, help, home, people, security, words


def register(app: Flask) -> None:
    errors.register(app)
    security.register(app)
    auth.register(app)  # after security: a foreign Host is refused first
    words.register(app)
    app.register_blueprint(home.bp)
    app.register_blueprint(people.bp)
    app.register_blueprint(help.bp)
