"""Objects of Flask that tell no secret when they are shown, as in a log or a trace (SEC-088)."""

from flask import Config, Flask, Request


class QuietConfig(Config):
    """Flask keeps SECRET_KEY here, and its own repr shows every value."""

    def __repr__(self) -> str:
        return f"<Config of {len(self)} settings>"


class QuietRequest(Request):
    """The query of a callback is the code and state of a sign-in."""

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path}>"


class App(Flask):
    config_class = QuietConfig
    request_class = QuietRequest
