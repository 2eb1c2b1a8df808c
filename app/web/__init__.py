"""Everything that knows a browser or a request. One module per family of URLs."""

from flask import Flask
from flask_wtf import CSRFProtect

from . import errors, help, home, security, words

csrf = CSRFProtect()


def register(app: Flask) -> None:
    csrf.init_app(app)
    errors.register(app)
    security.register(app)
    words.register(app)
    app.register_blueprint(home.bp)
    app.register_blueprint(help.bp)
