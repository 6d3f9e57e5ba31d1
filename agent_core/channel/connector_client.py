"""Calls the Bot Connector's REST API: the token, the time-outs, and what may be tried again.

https://learn.microsoft.com/azure/bot-service/rest-api/bot-framework-rest-connector-api-reference
"""

from __future__ import annotations

import asyncio
import logging
import random as random_numbers
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from agent_core.activity.json_text import dump
from agent_core.channel.clouds import PUBLIC, Cloud
from agent_core.channel.connector_errors import WRONG_HOST, channel_error, named_host
from agent_core.channel.http_client import HttpAnswer, HttpClient
from agent_core.channel.retries import Retries
from agent_core.channel.token_provider import AgenticIdentity, AgenticTokenProvider, TokenProvider
from agent_core.errors import ChannelError, NoAnswer, NotAllowed, NotSent, NotSupported

logger = logging.getLogger(__name__)

# Time-outs of a gateway and of the service. A 500 is not among them: the documentation of Teams says to report it.
_PASSING = (502, 503, 504)


@dataclass(frozen=True, slots=True)
class ConnectorService:
    """One service that the agent speaks through, and as whom.

    Attributes:
        url: the base of its routes, with a slash at the end.
        scope: of the token it gets, or the agent's own identity in the tenant; None for no token.
        headers: that go with every request.
        check_url: asked whether another URL may be called as this one is; NotAllowed if not.
    """

    url: str
    scope: str | AgenticIdentity | None
    headers: Mapping[str, str] = field(default_factory=dict)
    check_url: Callable[[str], str] | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    content: bytes | None
    accept: str
    max_body: int | None


class ConnectorClient:
    """Calls one connector service after another over one pool of connections.

    A call is tried again only where that can do no harm. Creating an activity takes no idempotency key, so a POST is
    repeated only after an answer that it was not done (429, 412) or if it never left; a GET, PUT or DELETE also after
    502, 503, 504 and after none at all. A 401 is answered once with a new token.

    Attributes:
        cloud: the agent's own, which says what its tokens are for.
    """

    def __init__(
        self,
        http: HttpClient,
        tokens: TokenProvider | None,
        now: Callable[[], datetime],
        *,
        sleep: Callable[[timedelta], Awaitable[None]] | None = None,
        random: Callable[[], float] = random_numbers.random,
        cloud: Cloud = PUBLIC,
        agentic_tokens: AgenticTokenProvider | None = None,
    ) -> None:
        """`tokens` is None in development without an app id; nothing is then sent that proves who we are."""
        self._http = http
        self._tokens = tokens
        self._retries = Retries(now, sleep or _sleep, random)
        self._agentic_tokens = agentic_tokens
        self.cloud = cloud

    async def call(
        self,
        service: ConnectorService,
        method: str,
        path: Sequence[str],
        *,
        query: Mapping[str, str | None] = MappingProxyType({}),
        body: Any = None,
        accept: str = "application/json",
        max_body: int | None = None,
        repeats: bool = True,
    ) -> HttpAnswer:
        """The answer with a status of 2xx.

        Args:
            path: its segments below the service's URL; each is quoted. None at all is the URL itself.
            query: what is None is left out.
            body: of JSON; None for none.
            repeats: whether it is worth being tried again.

        Raises:
            ChannelError: any other answer, or none; its `decision` is true of all attempts together.
        """
        content = None if body is None else dump(body)
        request = _Request(method, _route(path, query), content, accept, max_body)
        began = self._retries.now()
        ambiguous = False
        token: str | None = None
        rejected: str | None = None
        attempt = 1
        while True:
            try:
                token = await self._token(service, rejected)
                answer = await self._send(service, request, token, began)
                if 200 <= answer.status < 300:
                    return answer
                error = channel_error(answer, self._retries.now(), attempt)
            except ChannelError as failed:
                error = failed
            if error.status == 401 and token is not None and rejected is None:
                rejected = token
                continue
            if error.code == WRONG_HOST and (moved := _elsewhere(service, error)):
                logger.warning("The channel moved a conversation's service to %r", urlsplit(moved.url).hostname)
                service = moved
                continue
            if ambiguous and method == "DELETE" and error.decision == "gone":
                return HttpAnswer(200, {}, b"")  # an earlier attempt did it
            ambiguous = ambiguous or error.decision == "ambiguous"
            wait = None
            if repeats and _is_repeatable(method, error):
                wait = self._retries.wait(attempt, error.retry_after, began)
            if wait is None:
                # The last attempt never left, but one before it did.
                if ambiguous and error.decision == "unsent":
                    error.decision = "ambiguous"
                raise error
            logger.info("%s again in %.1f s (attempt %d): %s", method, wait.total_seconds(), attempt, error.decision)
            await self._retries.sleep(wait)
            attempt += 1

    async def _token(self, service: ConnectorService, rejected: str | None) -> str | None:
        scope, tokens = service.scope, self._tokens
        if tokens is None or scope is None:
            return None
        if isinstance(scope, AgenticIdentity):
            if self._agentic_tokens is None:
                raise NotSupported("Nothing here gives tokens of agentic identities, and the bot's would be another's")
            ask = partial(self._agentic_tokens.token, scope)
        else:
            ask = partial(tokens.token, scope)
        token = await ask()
        # Of many calls whose token was rejected at once, one has a new one made.
        return await ask(force_refresh=True) if token == rejected else token

    async def _send(
        self, service: ConnectorService, request: _Request, token: str | None, began: datetime
    ) -> HttpAnswer:
        headers = {**service.headers, "accept": request.accept}
        if request.content is not None:
            headers["content-type"] = "application/json; charset=utf-8"
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        left = (began + self._retries.budget - self._retries.now()).total_seconds()
        try:
            return await self._http.request(
                request.method,
                service.url + request.path,
                headers=headers,
                content=request.content,
                read_timeout=max(1.0, left),
                max_body=request.max_body,
            )
        except NotSent as error:
            raise ChannelError(f"The channel was not reached: {error}", decision="unsent") from error
        except NoAnswer as error:
            raise ChannelError(f"The channel did not answer: {error}", decision="ambiguous") from error


def _is_repeatable(method: str, error: ChannelError) -> bool:
    if error.decision in ("unsent", "throttled"):
        return True
    return method != "POST" and error.decision == "ambiguous" and (error.status is None or error.status in _PASSING)


def _elsewhere(service: ConnectorService, error: ChannelError) -> ConnectorService | None:
    """The same service at the host that the answer names, if it may be called and is not there already."""
    host = named_host(error)
    if host is None or service.check_url is None:
        return None
    try:
        url = service.check_url(urlunsplit(urlsplit(service.url)._replace(scheme="https", netloc=host)))
    except NotAllowed:
        return None
    return replace(service, url=url, check_url=None)


def _route(path: Sequence[str], query: Mapping[str, str | None]) -> str:
    # Teams ids hold ':', '@' and ';', others anything; unquoted, or as a dot, they would be another route.
    if bad := [part for part in path if part in ("", ".", "..")]:
        raise ChannelError(f"An id must not be {bad[0]!r}", decision="rejected", code="BadId")
    asked = urlencode({name: value for name, value in query.items() if value is not None})
    return "/".join(quote(part, safe="") for part in path) + (f"?{asked}" if asked else "")


async def _sleep(delay: timedelta) -> None:
    await asyncio.sleep(delay.total_seconds())
