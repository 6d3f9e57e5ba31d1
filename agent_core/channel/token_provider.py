"""The agent's own tokens: kept while they are good, and asked for by one caller at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from agent_core.errors import ChannelError, Decision

logger = logging.getLogger(__name__)

# A token is renewed in the background from here on, and not given out any more when MARGIN is left: what it is for
# may take its time, and two clocks differ.
RENEW_BEFORE = timedelta(minutes=10)
MARGIN = timedelta(minutes=5)
# Where no new token is to be had, the old one serves until this is left.
LAST_MARGIN = timedelta(minutes=1)
# After a failure the identity provider is left alone for this long, or as long as it says.
BRAKE = timedelta(seconds=2)
# A service that rejects each new token is not helped by more of them.
FORCED_AT_MOST_EVERY = timedelta(seconds=30)


class TokenProvider(Protocol):
    """Gives out the agent's tokens."""

    async def token(self, scope: str, *, force_refresh: bool = False) -> str:
        """A bearer token for `scope`, such as a cloud's `connector_scope`, valid for some minutes at least.

        Args:
            force_refresh: for a token that the service rejected: have a new one made.

        Raises:
            ChannelError: `misconfigured`, if the identity provider refuses; `throttled`, if it says so, with
                `retry_after`; `unsent`, if it is not reached.
        """


@dataclass(frozen=True, slots=True)
class AgenticIdentity:
    """An identity that the agent has in a tenant: an instance of its app there, and a user of its own.

    Attributes:
        app_id: of the instance.
        user_id: None to speak as the instance.
        scope: of the user's token.
    """

    tenant_id: str
    app_id: str
    user_id: str | None
    scope: str


class AgenticTokenProvider(Protocol):
    """Gives out tokens of the agent's identities in tenants."""

    async def token(self, scope: AgenticIdentity, *, force_refresh: bool = False) -> str:
        """As `TokenProvider.token`."""


TokenKey = str | AgenticIdentity


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token, from when to when."""

    value: str = field(repr=False)
    expires_at: datetime
    acquired_at: datetime


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why there is no token, until when nobody is asked again; raised anew to each who wants one."""

    message: str
    decision: Decision
    code: str | None
    until: datetime

    def error(self, now: datetime) -> ChannelError:
        # A refusal lasts until somebody mends the settings; the others are worth waiting for.
        wait = None if self.decision == "misconfigured" else max(timedelta(0), self.until - now)
        return ChannelError(self.message, decision=self.decision, code=self.code, retry_after=wait)


_Flight = asyncio.Task[AccessToken | _Failure]


class CachedTokenProvider:
    """Keeps tokens per scope in this process.

    However many ask at once, one request is under way, for one scope: those who come meanwhile get what it gives, its
    error included, and after a failure nobody is asked for a moment. So an identity provider that fails, hangs or
    throttles gets one call at a time.

    Args:
        acquire: gets a new token for a scope, in bounded time; ChannelError if there is none.
    """

    def __init__(self, acquire: Callable[[TokenKey], Awaitable[AccessToken]], now: Callable[[], datetime]) -> None:
        self._acquire = acquire
        self._now = now
        self._tokens: dict[TokenKey, AccessToken] = {}
        self._forced: dict[TokenKey, datetime] = {}
        # By scope; that of None keeps everybody waiting.
        self._failures: dict[TokenKey | None, _Failure] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flights: dict[TokenKey, _Flight] = {}
        self._turn = asyncio.Lock()

    async def token(self, scope: TokenKey, *, force_refresh: bool = False) -> str:
        now = self._now()
        held = self._tokens.get(scope)
        left = held.expires_at - now if held else timedelta(0)
        under_way = self._under_way(scope)
        if scope in self._forced and now - self._forced[scope] < FORCED_AT_MOST_EVERY and not under_way:
            force_refresh = False
        if held and left > MARGIN and not force_refresh:
            if left < min(RENEW_BEFORE, (held.expires_at - held.acquired_at) / 2) and not self._failing(scope):
                self._flight(scope)
            return held.value
        found: AccessToken | _Failure | None = self._failing(scope)
        if found is None:
            # A caller who gives up must not take the request from the others.
            found = await asyncio.shield(under_way or self._flight(scope))
        if isinstance(found, AccessToken):
            if force_refresh:
                self._forced[scope] = now
            return found.value
        if held and left > LAST_MARGIN and not force_refresh:
            logger.warning("The old token serves until %s, because: %s", held.expires_at, found.message)
            return held.value
        raise found.error(self._now())

    def _failing(self, scope: TokenKey) -> _Failure | None:
        now = self._now()
        found = [self._failures[key] for key in (None, scope) if key in self._failures]
        return next((failure for failure in found if failure.until > now), None)

    def _under_way(self, scope: TokenKey) -> _Flight | None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._flights, self._turn = loop, {}, asyncio.Lock()
        flight = self._flights.get(scope)
        return None if flight is None or flight.done() else flight

    def _flight(self, scope: TokenKey) -> _Flight:
        flight = self._under_way(scope)
        if flight is None:
            flight = self._flights[scope] = asyncio.get_running_loop().create_task(self._fetch(scope))
        return flight

    async def _fetch(self, scope: TokenKey) -> AccessToken | _Failure:
        async with self._turn:
            failure = self._failing(scope)
            if failure is not None:
                return failure
            try:
                token = await self._acquire(scope)
            except ChannelError as error:
                refused = error.decision == "misconfigured"
                until = self._now() + max(error.retry_after or timedelta(0), BRAKE)
                failure = _Failure(str(error), error.decision, error.code, until)
                self._failures[scope if refused else None] = failure
                return failure
            self._forget_what_is_over()
            self._tokens[scope] = token
            return token

    def _forget_what_is_over(self) -> None:
        now = self._now()
        self._tokens = {scope: token for scope, token in self._tokens.items() if token.expires_at > now}
        self._failures = {scope: failure for scope, failure in self._failures.items() if failure.until > now}
        self._flights = {scope: flight for scope, flight in self._flights.items() if not flight.done()}
        self._forced = {scope: at for scope, at in self._forced.items() if now - at < FORCED_AT_MOST_EVERY}
