"""Where turns meet a channel: the pipeline every turn runs through, and the calls an adapter for a channel makes."""

from __future__ import annotations

import asyncio
import logging
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, Self

from agent_core.activity.activity import Activity
from agent_core.activity.attachments import Attachment
from agent_core.activity.conversation_reference import (
    ChannelAccount,
    ConversationParameters,
    ConversationResourceResponse,
    ResourceResponse,
)
from agent_core.errors import NotSupported
from agent_core.turn.claims_identity import ClaimsIdentity
from agent_core.turn.middleware import Middleware, MiddlewareSet
from agent_core.turn.turn_context import Callbacks, TurnContext
from agent_core.turn.user_tokens import UserTokens, UserTokenService

if TYPE_CHECKING:  # loaded with the first file, so that a cold start is spared it
    from agent_core.activity.received_attachments import FetchedContent

logger = logging.getLogger(__name__)

TurnLogic = Callable[[TurnContext], Awaitable[None]]
TurnErrorHandler = Callable[[TurnContext, Exception], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """How an incoming activity is answered.

    Attributes:
        status: the HTTP status.
        body: JSON, or None for an empty body.
        failed: the turn failed; what it changed in the state is not kept.
    """

    status: int
    body: Any = None
    failed: bool = False


class Agent(Protocol):
    """What an adapter needs to know of the agent."""

    @property
    def callbacks(self) -> Callbacks:
        """Where its turns say that a callback is to come."""

    async def answer_once(self, context: TurnContext, turn: Callable[[], Awaitable[Answer]]) -> Answer:
        """Run the turn of an incoming activity, with its state, unless it was run before; a copy gets the same answer.

        Raises:
            Busy: the turn of another copy runs still; let the channel try again.
            StoreError: it was not run, or it failed before it said anything.
        """

    @property
    def user_tokens(self) -> UserTokens:
        """Where its turns get the tokens of their users."""

    async def on_turn(self, context: TurnContext) -> None:
        """Handle one activity."""

    async def on_turn_error(self, context: TurnContext, error: Exception) -> None:
        """A turn failed with this; tell the user, if anything."""

    async def defer(self, activity: Activity, identity: ClaimsIdentity) -> bool:
        """Put the turn on the queue if it would take too long here; False: run it now."""


class ChannelAdapter(ABC):
    """Runs turns, and carries what they send to one kind of service.

    Args:
        now: tells the time; the turns' `context.now` comes from here.
        sleep: waits on the same clock; paces streaming responses.
        new_id: makes an id that nobody else has.
    """

    def __init__(
        self,
        now: Callable[[], datetime],
        sleep: Callable[[timedelta], Awaitable[None]] | None = None,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self.now = now
        self.sleep = sleep or _sleep
        self.new_id = new_id
        self._middleware = MiddlewareSet()

    def use(self, *middleware: Middleware) -> Self:
        """Put middleware around every turn, inbound and proactive; the first one is outermost."""
        self._middleware.use(*middleware)
        return self

    async def receive(self, activity: Activity, identity: ClaimsIdentity, agent: Agent) -> TurnContext:
        """An activity came in whose sender takes no answer in the request: run its turn, or put it on the queue.

        A copy of one that was received before runs nothing. What the turn raises comes out, Busy and StoreError too:
        let the sender try again. Returns the context, which is over.
        """
        context = TurnContext(
            self,
            activity,
            now=self.now(),
            callbacks=agent.callbacks,
            user_tokens=agent.user_tokens,
            identity=identity,
            runtime=self,
        )

        async def turn() -> Answer:
            await self.run_turn(context, agent.on_turn, agent.on_turn_error)
            return Answer(202)

        if not await agent.defer(activity, identity):
            await agent.answer_once(context, turn)
        return context

    async def run_turn(self, context: TurnContext, logic: TurnLogic, on_error: TurnErrorHandler) -> None:
        """Run `logic` inside the middleware, as one turn; logs one line.

        Whatever a middleware or the logic raises goes to `on_error`, while the context can still send, and then out
        of here: the caller decides whether the work is tried again.
        """

        async def inner() -> None:
            await logic(context)

        outcome = "failed"
        try:
            try:
                await self._middleware.on_turn(context, inner)
            except Exception as error:
                await on_error(context, error)
                raise
            outcome = f"handled by {context.handled_by}" if context.handled_by else "not handled"
        finally:
            context.end()
            milliseconds = round((self.now() - context.now).total_seconds() * 1000)
            activity = context.activity
            # %r, because ids come from outside and may hold line breaks.
            logger.info(
                "Turn: %r %s in %d ms, channel %r, conversation %r, activity %r",
                activity.type if activity.type != "event" else activity.name,
                outcome,
                milliseconds,
                activity.channel_id,
                activity.conversation_id,
                activity.id,
            )

    @property
    def user_tokens(self) -> UserTokenService:
        """What keeps the tokens of this channel's users. Raises NotSupported where nothing does."""
        raise NotSupported(f"{type(self).__name__} has no token service, so users cannot sign in through it")

    @abstractmethod
    def own_identity(self) -> ClaimsIdentity:
        """As whom the agent begins a conversation that nobody called it into."""

    def check_service_url(self, service_url: str) -> None:
        """Whether `create_conversation` would go there; an adapter that goes nowhere by a URL need not ask.

        Raises:
            NotAllowed: it is no service that the agent may begin a conversation at.
        """
        return

    @abstractmethod
    async def send_activities(self, context: TurnContext, activities: Sequence[Activity]) -> list[ResourceResponse]:
        """Send in this order, each after the one before was accepted; one response for each."""

    @abstractmethod
    async def update_activity(self, context: TurnContext, activity: Activity) -> ResourceResponse:
        """Put this in the place of the activity with `activity.id`."""

    @abstractmethod
    async def delete_activity(self, context: TurnContext, activity_id: str) -> None:
        """Take it back."""

    @abstractmethod
    async def create_conversation(
        self, service_url: str, parameters: ConversationParameters, identity: ClaimsIdentity
    ) -> ConversationResourceResponse:
        """Create a conversation through that service.

        Raises:
            ChannelError: the channel did not create it.
        """

    def fetch_attachment(
        self,
        activity: Activity,
        identity: ClaimsIdentity,
        attachment: Attachment,
        *,
        slack_token: str | None,
        max_redirects: int,
    ) -> AbstractAsyncContextManager[FetchedContent]:
        """Fetch the content of an attachment of that activity, which that caller sent; an adapter may leave this out.

        Raises:
            AttachmentNotAvailable: it may not be fetched, or could not be.
            NotSupported: this adapter downloads nothing.
        """
        raise NotSupported(f"{type(self).__name__} downloads no attachments; implement its fetch_attachment")

    async def get_member(self, context: TurnContext, user_id: str) -> ChannelAccount:
        """Look up somebody in the conversation of this turn; NotSupported on a channel that cannot."""
        raise NotSupported(f"{type(self).__name__} cannot look up members")

    def get_paged_members(self, context: TurnContext, page_size: int | None = None) -> AsyncIterator[ChannelAccount]:
        """Everybody in the conversation of this turn; NotSupported on a channel that cannot."""
        raise NotSupported(f"{type(self).__name__} cannot look up members")


async def _sleep(delay: timedelta) -> None:
    await asyncio.sleep(delay.total_seconds())
