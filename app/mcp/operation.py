"""All that is sent upstream for one request to us, under one credential (oauth.md section 4)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Hashable, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from ..access import Caller, Usable
from ..errors import ConnectionNeeded, ProviderError, TokenRefused, UpstreamError
from ..oauth import tokens
from ..oauth.tokens import Credential
from .hangup import Hangup
from .memory import account, memory
from .upstream import Answer, Exchanges

log = logging.getLogger(__name__)


class Operation:
    """Made within an app and a request; a stream may go on with it when the request is over."""

    def __init__(
        self,
        caller: Caller,
        gateway: Usable,
        target: str | None = None,
        *,
        given: Credential | None = None,
        hangup: Hangup | None = None,
    ) -> None:
        """`given`: tokens that are in no row. Raises what tokens.credential raises."""
        self.gateway = gateway
        self.memory = memory()
        self._caller, self._target = caller, target
        self._credential = given or tokens.credential(caller, gateway, target)
        self._may_renew = given is None and self._credential.is_renewable
        self._may_widen = self._may_renew and not gateway.signs_people_in
        self._exchanges = Exchanges(gateway, hangup)
        # Given tokens may be of any account of this person's, so their session is for this once.
        self.key: Hashable = account(caller, gateway) if given is None else secrets.token_hex(8)

    def send(
        self,
        verb: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        url: str | None = None,
    ) -> Answer:
        """Once; once more after a 401, if there is another token. What comes is a 2xx or a 4xx.

        Raises UpstreamError, and ConnectionNeeded when the credential is lost. Not for streams.
        """
        answer = self.send_as_it_is(verb, headers, body, url)
        if answer.status == 401:
            answer.let_go()
            self._renew(answer)
            answer = self.send_as_it_is(verb, headers, body, url)
        if answer.status == 403 and self._may_widen and self._widen(answer):
            answer = self.send_as_it_is(verb, headers, body, url)
        if 200 <= answer.status < 300:
            return answer
        problem = self._problem(answer)
        if problem is not None:
            answer.let_go()
            raise problem
        return answer

    def send_as_it_is(
        self, verb: str, headers: Mapping[str, str], body: bytes | None, url: str | None = None
    ) -> Answer:
        """Any status, nothing renewed. Raises UpstreamError. Needs no app."""
        return self._exchanges.send(verb, {**self._credential.headers, **headers}, body, url)

    def _renew(self, answer: Answer) -> None:
        """Once per operation: a server that refuses a fresh token, too, has other reasons."""
        if not self._may_renew:
            raise self._refused(answer)
        self._may_renew = False
        after = self._credential.token_gen
        try:
            self._credential = tokens.credential(
                self._caller, self.gateway, self._target, after=after
            )
        except (ConnectionNeeded, TokenRefused) as error:
            error.facts["scope"] = _scope_of(answer)
            raise

    def _widen(self, answer: Answer) -> bool:
        """A shared account asks by itself for what is missing, once (oauth.md section 9)."""
        config, missing = self.gateway.config, answer.missing
        if config is None or not missing:
            return False
        self._may_widen = False
        scopes = list(dict.fromkeys([*(config.spec.scopes or []), *missing]))
        if scopes == config.spec.scopes:
            return False
        answer.let_go()
        spec = config.spec.model_copy(update={"scopes": scopes})
        wider = replace(self.gateway, config=replace(config, spec=spec))
        after = self._credential.token_gen
        try:
            self._credential = tokens.credential(self._caller, wider, self._target, after=after)
        except (ProviderError, TokenRefused) as error:
            log.info("a wider token for %s was not given: %s", self.gateway.slug, error.code)
            return False
        return True

    def _refused(self, answer: Answer) -> UpstreamError:
        if self.gateway.auth_type == "none":
            return UpstreamError("sign_in_not_set_up")
        if not self.gateway.signs_people_in:
            return TokenRefused("token_refused_shared")
        return TokenRefused(scope=_scope_of(answer))

    def _problem(self, answer: Answer) -> UpstreamError | None:
        status = answer.status
        if status == 401:
            return self._refused(answer)
        if status == 403:
            missing = answer.missing
            if missing is None:
                return UpstreamError("upstream_forbidden")
            wanted = " ".join(missing)
            if not self.gateway.signs_people_in:
                return UpstreamError("insufficient_scope_shared", scope=wanted)
            page = f"/connections/{self.gateway.slug}"  # until there is a link for this very call
            return UpstreamError("insufficient_scope", scope=wanted, link=page)
        if 300 <= status < 400:
            return UpstreamError("redirected", host=urlsplit(answer.url).hostname or "")
        return None if 400 <= status < 500 else UpstreamError()


def _scope_of(answer: Answer) -> str:
    """What a 401 says its resource takes; the token may have been good, and too narrow."""
    said = answer.challenge
    return " ".join(said.scopes) if said is not None else ""
