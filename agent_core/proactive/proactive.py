"""Speaking first, from anywhere: turns in stored conversations that no incoming activity began."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from agent_core.activity.activity import CONTINUE_CONVERSATION, CREATE_CONVERSATION, Activity, continuation_activity
from agent_core.activity.conversation_reference import (
    ChannelAccount,
    ConversationAccount,
    ConversationParameters,
    ConversationReference,
    ResourceResponse,
)
from agent_core.proactive.claims import Mark
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.conversations import Conversations
from agent_core.store.document_store import Document
from agent_core.turn.channel_adapter import ChannelAdapter, TurnErrorHandler
from agent_core.turn.turn_context import Callbacks, TurnContext
from agent_core.turn.turn_state import Handler, TurnState
from agent_core.turn.user_tokens import UserTokens


class Proactive:
    """Sends into stored conversations, continues them, and creates new ones."""

    def __init__(
        self,
        adapter: ChannelAdapter,
        conversations: Conversations,
        *,
        callbacks: Callbacks,
        user_tokens: UserTokens,
        on_turn_error: TurnErrorHandler,
    ) -> None:
        self._adapter = adapter
        self._conversations = conversations
        self._callbacks = callbacks
        self._user_tokens = user_tokens
        self._on_turn_error = on_turn_error

    async def store_conversation(self, conversation: Conversation | TurnContext) -> str:
        """Keep a conversation; every turn does it by itself, this is for those that come from elsewhere.

        Returns:
            The conversation's id.
        """
        if isinstance(conversation, TurnContext):
            conversation = Conversation(conversation.conversation, conversation.identity, conversation.now)
        await self._conversations.save(conversation)
        return conversation.id

    async def get_conversation(self, conversation_id: str, channel_id: str | None = None) -> Conversation | None:
        """The stored conversation, or None. Raises ConversationAmbiguous if several channels have one of that id."""
        return await self._conversations.get(conversation_id, channel_id)

    async def delete_conversation(self, conversation_id: str, channel_id: str | None = None) -> None:
        """Forget a conversation and its state; nothing happens if it is not known."""
        await self._conversations.delete(conversation_id, channel_id)

    async def send_activity(
        self, conversation: Conversation | str, activity: Activity | str, *, even_if_suspended: bool = False
    ) -> ResourceResponse:
        """Send now, as a new message, through the middleware.

        Nothing is tried again here: for "at its time, once, whatever happens" use `agent.notifications.schedule`.

        Args:
            even_if_suspended: try it where the agent was removed or blocked; the channel then decides.

        Raises:
            ConversationNotFound: no conversation is stored under that id.
            ConversationSuspended: the agent does not speak there for now; nothing was sent.
            ChannelError: the channel did not take it; its `decision` says what that calls for.
        """
        responses: list[ResourceResponse] = []

        async def send(context: TurnContext, state: TurnState) -> None:
            responses.append(await context.send_activity(activity))

        await self.continue_conversation(conversation, send, even_if_suspended=even_if_suspended)
        return responses[0]

    async def continue_conversation(
        self,
        conversation: Conversation | str,
        handler: Handler,
        *,
        value: Any = None,
        value_type: str | None = None,
        name: str = CONTINUE_CONVERSATION,
        prepare: Callable[[TurnContext], None] | None = None,
        may_apologise: Callable[[Exception], bool] | None = None,
        marks: Callable[[], Awaitable[Sequence[Mark]]] | None = None,
        user: Document | None = None,
        even_if_suspended: bool = False,
    ) -> None:
        """Run a handler as a turn in a stored conversation, with its state, through the middleware.

        Args:
            value: what the handler finds in `context.activity.value`.
            value_type: what the handler finds in `context.activity.value_type`.
            name: what the handler finds in `context.activity.name`.
            prepare: called with the context before the middleware, to add hooks to it.
            may_apologise: asked whether the `@agent.error` handler may speak about an error; it may if not given.
            marks: called after the turn; what it returns is written in the batch that keeps the state.
            user: the document of the user's state, if it was read together with the conversation.
            even_if_suspended: see `send_activity`.

        Raises:
            ConversationNotFound: no conversation is stored under that id.
            ConversationSuspended: the agent does not speak there for now; the handler did not run.
            SignInRequired: the handler needs a token of the user. Nobody is asked here; callbacks and schedules wait.
            Exception: what the handler or a middleware raised, after the error handler saw it; its state is not saved.
        """
        known = None
        if isinstance(conversation, str):
            conversation = await self._conversations.find(conversation)
        elif marks is not None:
            known = conversation  # just read, by the delivery
        context = TurnContext(
            self._adapter,
            continuation_activity(conversation.reference, name=name, value=value, value_type=value_type),
            now=self._adapter.now(),
            callbacks=self._callbacks,
            user_tokens=self._user_tokens,
            identity=conversation.identity,
            proactive=True,
            runtime=self._adapter,
        )
        context.chosen(getattr(handler, "__name__", name))
        if prepare is not None:
            prepare(context)

        async def logic(context: TurnContext) -> None:
            await handler(context, context.state)

        async def on_error(context: TurnContext, error: Exception) -> None:
            if may_apologise is None or may_apologise(error):
                await self._on_turn_error(context, error)

        async with self._conversations.turn(
            context, known=known, user=user, marks=marks, even_if_suspended=even_if_suspended
        ):
            await self._adapter.run_turn(context, logic, on_error)

    async def continue_later(
        self, conversation: Conversation | str, continuation: str, value: Any = None, *, delay: timedelta
    ) -> str:
        """Run `@agent.continuation(continuation)` in a stored conversation after a while; each call does so once.

        See `TurnContext.continue_later`.

        Raises:
            ConversationNotFound: no conversation is stored under that id.
        """
        if isinstance(conversation, str):
            conversation = await self._conversations.find(conversation)
        return await self._callbacks.continue_later(conversation.reference, continuation, value, delay, None)

    async def create_conversation(
        self,
        channel_id: str,
        service_url: str,
        parameters: ConversationParameters,
        handler: Handler | None = None,
    ) -> Conversation:
        """Create a conversation on a channel, store it, and run a handler in it if there is one.

        Args:
            service_url: the channel's service; it must be one that may receive the agent's token.
            parameters: for Teams `members` (one user: `29:…` id, or the aadObjectId) and `tenant_id`; the agent itself
                is added. See https://learn.microsoft.com/microsoftteams/platform/bots/how-to/conversations/send-proactive-messages.

        Returns:
            The conversation as stored. Creating it again for the same user gives, on most channels, the same one.

        Raises:
            ChannelError: the channel did not create it.
            NotAllowed: the service is none that may receive the agent's token.
        """
        identity = self._adapter.own_identity()
        parameters = _with_tenant(parameters)
        app_id = identity.claims.get("aud")
        if parameters.agent is None and app_id is not None:
            # Teams knows agents by their app id with a prefix.
            parameters = parameters.replace(
                agent=ChannelAccount(id=f"28:{app_id}" if channel_id == "msteams" else app_id)
            )
        created = await self._adapter.create_conversation(service_url, parameters, identity)
        reference = ConversationReference(
            channel_id=channel_id,
            service_url=created.service_url or service_url,
            agent=parameters.agent,
            user=parameters.members[0] if parameters.members else None,
            conversation=ConversationAccount(
                id=created.id, is_group=parameters.is_group, tenant_id=parameters.tenant_id
            ),
        )
        conversation = Conversation(reference, identity, self._adapter.now())
        await self._conversations.save(conversation)
        if handler is not None:
            await self.continue_conversation(conversation, handler, name=CREATE_CONVERSATION)
        return conversation


def _with_tenant(parameters: ConversationParameters) -> ConversationParameters:
    # Teams wants the tenant in two places: tenantId and channelData.tenant.id.
    if parameters.tenant_id is None:
        return parameters
    data = parameters.channel_data
    named = dict(data) if isinstance(data, Mapping) else {}
    return parameters.replace(channel_data={"tenant": {"id": parameters.tenant_id}, **named})
