"""The form of one OAuth config for some tools: an entry of `tool_oauth_configs`, drawn and read.

What is empty is as the gateway's own says. tool_configs decides; the form has no rules of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from wtforms import BooleanField, HiddenField, PasswordField, SelectField, StringField
from wtforms import TextAreaField as Area

from ... import strict_json
from ...errors import Invalid
from ...tool_configs import FIELD
from ...tool_specs import ToolConfigSpec
from ..forms import Asking
from . import gateway_fields as fields

KINDS = ("tool", "resource", "prompt")
AS_GATEWAY = {"": "As the gateway's own"}
_TEXTS = ("client_id", "authorization_url", "token_url", "revocation_url")
_CHOICES = ("grant_type", "token_endpoint_auth_method")
_OWN = {"name", "tool_patterns", "scopes", "client_secret", "client_private_key"}
MORE = tuple(
    name for name in ToolConfigSpec.model_fields if name not in (*_TEXTS, *_CHOICES, *_OWN)
)
Record = Mapping[str, Any]


class ToolConfigForm(Asking):
    """`record`: as the JSON API shows it, {} for a new one; `own`: that of the gateway's config."""

    name = StringField("Name")
    tool_patterns = Area("Which tools")
    scopes = StringField("Scopes")
    grant_type = SelectField(
        "Who signs in?",
        choices=fields.choices(AS_GATEWAY | fields.GRANTS),
        validate_choice=False,
    )
    client_id = StringField("Client ID")
    client_secret = PasswordField("Client secret")
    remove_client_secret = BooleanField("Remove the stored secret")
    token_endpoint_auth_method = SelectField(
        "How the secret is sent",
        choices=fields.choices(
            AS_GATEWAY | fields.METHODS | {"private_key_jwt": "Signed by a key"}
        ),
        validate_choice=False,
    )
    authorization_url = StringField("Authorization URL")
    token_url = StringField("Token URL")
    revocation_url = StringField("Revocation URL")
    more = Area("Further settings, as JSON")
    sign_out = BooleanField("Sign people out, where my changes need it")
    as_of = HiddenField()  # what was there when the form was drawn

    def __init__(self, record: Record, own: Record, all_of_them: list[dict[str, Any]]) -> None:
        self.record = record
        self.differing = {
            name: record[name]
            for name in MORE
            if record.get(name) is not None and record[name] != own.get(name)
        }
        super().__init__(data=self._drawn())
        text = json.dumps(all_of_them, sort_keys=True).encode()
        now, asked = hashlib.sha256(text).hexdigest()[:16], self.as_of.data
        self._is_outdated, self.as_of.data = asked not in (None, "", now), now

    def _drawn(self) -> dict[str, Any]:
        if not self.record:
            return {}
        shown = {name: self.record.get(name) or "" for name in (*_TEXTS, *_CHOICES, "name")}
        shown["scopes"] = " ".join(self.record.get("scopes") or ())
        shown["tool_patterns"] = "\n".join(map(_line, self.record["tool_patterns"]))
        shown["more"] = json.dumps(self.differing, indent=2) if self.differing else ""
        return shown

    def entry(self) -> dict[str, Any]:
        """What was typed, over what is there. Raises Invalid."""
        if self._is_outdated:  # saving would take back what somebody else changed
            sentence = "Somebody else saved this meanwhile. Look at what is there, then try again."
            raise Invalid({"name": sentence})
        entry: dict[str, Any] = {name: fields.unify(self[name].data) or None for name in _TEXTS}
        entry |= {name: self[name].data or None for name in _CHOICES}
        entry["name"] = self.record.get("name") or fields.unify(self.name.data) or ""
        entry["tool_patterns"] = [_pattern(one) for one in fields.lines(self.tool_patterns.data)]
        entry["scopes"] = self.scopes.data or None
        entry["client_secret"] = self.client_secret.data or ""
        if self.remove_client_secret.data and not entry["client_secret"]:
            entry["client_secret"] = None
        return entry | self._rest()

    def _rest(self) -> dict[str, Any]:
        """What is not drawn stays; what is taken out of the JSON is as the gateway's again."""
        drawn = json.dumps(self.differing, indent=2) if self.differing else ""
        if fields.unify(self.more.data) == fields.unify(drawn):
            return {name: self.record[name] for name in MORE if name in self.record}
        try:
            given = strict_json.loads((self.more.data or "{}").encode()) if self.more.data else {}
        except strict_json.BadJSON as error:
            raise Invalid({"more": str(error)}) from None
        if not isinstance(given, dict) or not set(given) <= set(MORE):
            raise Invalid({"more": f"Write an object with some of these names: {', '.join(MORE)}."})
        return given

    @contextmanager
    def problems(self, at: int) -> Iterator[None]:
        """Invalid becomes a sentence beside its field; `at`: where this one stands in the list."""
        has_secret = bool(self.client_secret.data)
        try:
            yield
        except Invalid as error:
            for path, sentence in error.fields.items():
                self._say(path.removeprefix(f"{FIELD}.{at}."), sentence)
            if has_secret:
                again = "Enter the secret again."
                self.client_secret.errors = [*self.client_secret.errors, again]
            self.client_secret.data = self.own_password.data = ""

    def _say(self, path: str, sentence: str) -> None:
        name = path.partition(".")[0]
        if name == FIELD:  # of all of them, or of another one
            self.name.errors = [
                *self.name.errors,
                f"{path}: {sentence}" if "." in path else sentence,
            ]
        elif name in self:
            self[name].errors = [*self[name].errors, sentence]
        else:
            self.more.errors = [*self.more.errors, f"{path}: {sentence}"]

    @property
    def has_own_client(self) -> bool:
        """Something stands in that part, or is wrong with it."""
        names = (*_TEXTS, "client_secret", "token_endpoint_auth_method")
        return bool(self.client_id.data) or any(self[name].errors for name in names)


def _pattern(line: str) -> dict[str, str]:
    """A line of the form: a pattern for tools, or one after its kind."""
    found = re.fullmatch(rf"({'|'.join(KINDS)})\s+(.+)", line)
    kind, match = found.groups() if found else ("tool", line)
    return {"kind": kind, "match": match}


def _line(one: Mapping[str, str]) -> str:
    is_plain = one["kind"] == "tool" and _pattern(one["match"])["match"] == one["match"]
    return one["match"] if is_plain else f"{one['kind']} {one['match']}"
