"""One turn as its handler sees it: what came in, and the ways to answer."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from agent_core.activity.activity import Activity
from agent_core.activity.activity_types import CallbackTypes
from agent_core.activity.activity_values import InvokeResponse
from agent_core.activity.attachments import Attachment
from agent_core.activity.channels import Channel, channel_of
from agent_core.activity.conversation_reference import ChannelAccount, ConversationReference, ResourceResponse
from agent_core.activity.message_factory import MessageFactory
from agent_core.errors import NotSupported, TurnEnded
from agent_core.turn.claims_identity import ClaimsIdentity
from agent_core.turn.outgoing import fit, with_fewer_actions, within_size
from agent_core.turn.runtime import Runtime
from agent_core.turn.stream_protocol import is_stream
from agent_core.turn.turn_state import TurnState
from agent_core.turn.user_tokens import UserTokens

if TYPE_CHECKING:  # loaded with the first file or stream, so that a cold start is spared them
    from agent_core.activity.received_attachments import FetchedContent, ReceivedAttachment
    from agent_core.turn.streaming_response import StreamingResponse

SendHook = Callable[
    ["TurnContext", Sequence[Activity], Callable[[Sequence[Activity]], Awaitable[list[ResourceResponse]]]],
    Awaitable[list[ResourceResponse]],
]
UpdateHook = Callable[
    ["TurnContext", Activity, Callable[[Activity], Awaitable[ResourceResponse]]], Awaitable[ResourceResponse]
]
DeleteHook = Callable[["TurnContext", str, Callable[[str], Awaitable[None]]], Awaitable[None]]

# What whoever was asked may answer.
ANSWERS = frozenset({CallbackTypes.result, CallbackTypes.progress, CallbackTypes.failed})
# As long as the queue keeps a message, twice: a supplier may be slow, and its message may lie there.
EXPECTED_FOR = timedelta(days=14)


class Sender(Protocol):
    """What carries a turn's answers to the channel, or collects them."""

    async def send_activities(self, context: TurnContext, activities: Sequence[Activity]) -> list[ResourceResponse]:
        """Send in this order, each after the one before was accepted; one response for each."""

    async def update_activity(self, context: TurnContext, activity: Activity) -> ResourceResponse:
        """Put this in the place of the activity with `activity.id`."""

    async def delete_activity(self, context: TurnContext, activity_id: str) -> None:
        """Take it back."""

    async def get_member(self, context: TurnContext, user_id: str) -> ChannelAccount:
        """Look up somebody in the conversation."""

    def get_paged_members(self, context: TurnContext, page_size: int | None = None) -> AsyncIterator[ChannelAccount]:
        """Everybody in the conversation, page after page."""


class TurnRuntime(Runtime, Protocol):
    """What a turn needs of its adapter besides sending."""

    def fetch_attachment(
        self,
        activity: Activity,
        identity: ClaimsIdentity,
        attachment: Attachment,
        *,
        slack_token: str | None,
        max_redirects: int,
    ) -> AbstractAsyncContextManager[FetchedContent]:
        """Fetch the content of an attachment of that activity, which that caller sent.

        Raises:
            AttachmentNotAvailable: it may not be fetched, or could not be.
        """


class CallbackTicket(Protocol):
    """What an external system has to send back to continue the conversation."""

    def to_dict(self) -> dict[str, Any]:
        """JSON to hand over: the callback message, but for its `value`."""


class Callbacks(Protocol):
    """Where a turn says what will continue it: an external system, or time."""

    async def expect(
        self,
        context: TurnContext,
        continuation: str,
        *,
        replaces: str | None,
        kinds: Collection[CallbackTypes],
        valid_for: timedelta,
    ) -> CallbackTicket:
        """Remember, durably, that this callback is to come."""

    async def continue_later(
        self, reference: ConversationReference, continuation: str, value: Any, delay: timedelta, once: str | None
    ) -> str:
        """Remember, durably, that this continuation is to run after the delay; `once` names the call."""


class TurnContext:
    """One turn: the activity, and ways to answer it. Good until the turn ends, and not a moment longer.

    Attributes:
        activity: what came in, mentions of the agent removed from its text.
        identity: who sent it.
        state: what is remembered of this conversation and user; saved after the turn if it did not fail.
        now: when the turn began, aware, UTC.
        invoke_response: the answer to an invoke activity, from the handler's return value.
        handled_by: the name of the handler that was chosen, None if there was none.
        responded: whether something was sent.
        proactive: the agent itself began this turn; `activity` is then a continuation event that no channel sent.
        work_key: the same whenever this turn is run again, None if nobody knows what it is a repetition of.
    """

    def __init__(
        self,
        sender: Sender,
        activity: Activity,
        *,
        now: datetime,
        callbacks: Callbacks | None = None,
        user_tokens: UserTokens | None = None,
        identity: ClaimsIdentity | None = None,
        proactive: bool = False,
        runtime: TurnRuntime | None = None,
    ) -> None:
        """`runtime` is the adapter, as a rule; without one, streaming responses are one message each, and there is
        nothing to download."""
        self.activity = activity.without_mention_of_recipient()
        self.identity = identity or ClaimsIdentity()
        self.state = TurnState()
        self.now = now
        self._match: re.Match[str] | None = None
        self.invoke_response: InvokeResponse | None = None
        self.handled_by: str | None = None
        self.responded = False
        self.proactive = proactive
        self.work_key = self.activity.id
        self._left_for_later = 0
        self._sender = sender
        self._callbacks = callbacks
        self._user_tokens = user_tokens
        self._runtime: Runtime | None = runtime
        self._attachments_from = runtime
        self._stream: StreamingResponse | None = None
        self._ended = False
        self._send_hooks: list[SendHook] = []
        self._update_hooks: list[UpdateHook] = []
        self._delete_hooks: list[DeleteHook] = []

    @property
    def conversation(self) -> ConversationReference:
        """Where this turn takes place: hand it to `agent.notifications.schedule` or `agent.proactive`."""
        return self.activity.get_conversation_reference().replace(activity_id=None, delivery_mode=None)

    @property
    def match(self) -> re.Match[str]:
        """What the route's regular expression found; NotSupported for a handler that was chosen by other means."""
        if self._match is None:
            raise NotSupported(
                "context.match is for handlers of @agent.message(re.compile(…)); this one was not chosen by "
                "a regular expression"
            )
        return self._match

    def chosen(self, handled_by: str, match: re.Match[str] | None = None) -> None:
        """Note which handler was chosen, and by what; called by the application."""
        self.handled_by = handled_by
        self._match = match

    @property
    def channel(self) -> Channel:
        """What this channel can do in this conversation; ask before trying."""
        conversation = self.activity.conversation
        return channel_of(
            self.activity.channel,
            self.activity.sub_channel,
            conversation_type=conversation.conversation_type if conversation else None,
            is_group=conversation.is_group if conversation else None,
        )

    @property
    def attachments(self) -> tuple[ReceivedAttachment, ...]:
        """What the user sent along: files, pictures and cards. `await attachment.download()` fetches one's content."""
        from agent_core.activity.received_attachments import received_attachments

        return received_attachments(self.activity, self._fetch_attachment)

    @property
    def streaming_response(self) -> StreamingResponse:
        """An answer that the user sees while it grows: `async with context.streaming_response as stream:`.

        The same one until its block is over, then a new one. One message at the end where the channel shows no growing
        text (`context.channel.supports_streaming`), where the caller takes all replies at once (expectReplies), and
        where the agent acts as a user of its own (agentic identities).
        """
        from agent_core.turn.streaming_response import StreamingResponse

        self._check_running()
        if self._stream is None or self._stream.ended:
            streams = (
                self.channel.supports_streaming
                and self.activity.delivery_mode != "expectReplies"
                and not self.activity.is_agentic
            )
            self._stream = StreamingResponse(self, self._runtime if streams else None)
        return self._stream

    def _fetch_attachment(
        self, attachment: Attachment, *, slack_token: str | None, max_redirects: int
    ) -> AbstractAsyncContextManager[FetchedContent]:
        self._check_running()
        if self._attachments_from is None:
            raise NotSupported("This context was built without a runtime; run the turn through an adapter")
        return self._attachments_from.fetch_attachment(
            self.activity, self.identity, attachment, slack_token=slack_token, max_redirects=max_redirects
        )

    def buffer_streams(self) -> None:
        """Let each streaming response of this turn be one message, whatever the channel can do."""
        self._runtime = None

    async def send_activity(self, activity: Activity | str) -> ResourceResponse:
        """Send a text (Markdown) or an activity to this conversation.

        What the channel cannot show is left out, such as a typing indicator, or suggested actions beyond its number. A
        text too long for one message is sent as several.

        Returns:
            The new activity's id, of several that of the first; None in it where the channel gave none (Teams, for a
            text with an attachment: send them apart if you need the ids) and where nothing was sent.

        Raises:
            MessageTooLarge: the channel takes no message of that size, and it cannot be split; nothing was sent.
            ChannelError: the channel did not take it; its `decision` says what that calls for.
            TurnEnded: the turn is over.
        """
        return (await self.send_activities([activity]))[0]

    async def send_activities(self, activities: Sequence[Activity | str]) -> list[ResourceResponse]:
        """Send several in this order; the first that fails ends it, and what was sent before stays sent."""
        self._check_running()
        reference = self.activity.get_conversation_reference()
        channel = self.channel
        # Before the hooks: whoever counts messages must see those that are sent.
        fitted = [fit(_addressed(_as_activity(each), reference), channel) for each in activities]
        outgoing = [part for parts in fitted for part in parts]
        if not outgoing:
            return [ResourceResponse() for _ in fitted]
        send = partial(self._sender.send_activities, self)
        for hook in reversed(self._send_hooks):
            send = partial(_with_hook, hook, self, send)
        responses = await send(outgoing)
        self.responded = self.responded or bool(responses)
        following = iter(responses)
        sent = [[next(following, ResourceResponse()) for _ in parts] for parts in fitted]
        return [responses[0] if responses else ResourceResponse() for responses in sent]

    async def update_activity(self, activity: Activity) -> ResourceResponse:
        """Edit the message with `activity.id`; an edit may be repeated without harm.

        Raises:
            NotSupported: the channel cannot edit messages (`context.channel.supports_update`).
            MessageTooLarge: an edit cannot be split; nothing was sent.
            ChannelError: see `send_activity`.
        """
        self._check_running()
        if not activity.id:
            raise ValueError("An update needs the id of the activity to edit: activity.replace(id=response.id)")
        if not self.channel.supports_update:
            raise NotSupported(f"Channel {self.channel.id!r} cannot edit messages; ask context.channel.supports_update")
        addressed = activity.addressed_to(self.conversation).replace(id=activity.id)
        addressed = within_size(with_fewer_actions(addressed, self.channel), self.channel)
        update: Callable[[Activity], Awaitable[ResourceResponse]] = partial(self._sender.update_activity, self)
        for hook in reversed(self._update_hooks):
            update = partial(_with_hook, hook, self, update)
        return await update(addressed)

    async def delete_activity(self, activity_id: str) -> None:
        """Delete a message of the agent's own.

        Raises:
            NotSupported: the channel cannot delete messages (`context.channel.supports_delete`).
            ChannelError: see `send_activity`.
        """
        self._check_running()
        if not self.channel.supports_delete:
            raise NotSupported(
                f"Channel {self.channel.id!r} cannot delete messages; ask context.channel.supports_delete"
            )
        delete: Callable[[str], Awaitable[None]] = partial(self._sender.delete_activity, self)
        for hook in reversed(self._delete_hooks):
            delete = partial(_with_hook, hook, self, delete)
        await delete(activity_id)

    async def get_member(self, user_id: str) -> ChannelAccount:
        """Somebody in this conversation; Teams tells name, email and more (`member.to_dict()`).

        Raises:
            ChannelError: see `send_activity`; `gone` for who is not in it.
            NotSupported: the channel cannot look up members.
        """
        self._check_running()
        return await self._sender.get_member(self, user_id)

    async def get_paged_members(self, page_size: int | None = None) -> AsyncIterator[ChannelAccount]:
        """Everybody in this conversation, in a Teams channel everybody in its team; a page is fetched when it is due.

            async for member in context.get_paged_members(): ...

        Args:
            page_size: how many to fetch at once; Teams gives 50 to 500.

        Raises:
            ChannelError: see `send_activity`.
            NotSupported: the channel cannot look up members.
        """
        self._check_running()
        async for member in self._sender.get_paged_members(self, page_size):
            self._check_running()
            yield member

    async def expect_callback(
        self,
        continuation: str,
        *,
        replaces: ResourceResponse | None = None,
        kinds: Collection[CallbackTypes] = ANSWERS,
        valid_for: timedelta = EXPECTED_FOR,
    ) -> CallbackTicket:
        """Say that an external system will continue this conversation with `@agent.continuation(continuation)`.

        The expectation is stored, with the conversation, before this returns: hand out the ticket afterwards, and no
        answer can come too early.

        Args:
            continuation: the name of the continuation.
            replaces: what `send_activity` returned for a placeholder; the continuation's first message then edits it.
                Ignored on a channel that cannot edit, where the answer comes as a new message.
            kinds: what the ticket allows; add `CallbackTypes.notification` if its holder may also send messages of its
                own to this conversation.
            valid_for: how long the answer is waited for, and the ticket is good.

        Raises:
            ContinuationNotFound: no continuation has that name.
            StoreUnavailable: it could not be stored; do not hand out anything.
        """
        self._check_running()
        if self._callbacks is None:
            raise NotSupported("This context was built without callbacks; run the turn through an AgentApplication")
        return await self._callbacks.expect(
            self, continuation, replaces=replaces.id if replaces else None, kinds=kinds, valid_for=valid_for
        )

    async def continue_later(self, continuation: str, value: Any = None, *, delay: timedelta) -> str:
        """Run `@agent.continuation(continuation)` in this conversation after a while.

            await context.continue_later("remind", {"order": 7}, delay=timedelta(minutes=10))

        It is a schedule like those of `agent.notifications`, and survives when this returns, even if the turn fails
        after that. Up to a day it comes from the queue, to the second; longer delays come with the timer, to the
        minute. A turn that is run again, because it failed or died, does not leave it twice: its first call counts, the
        second call of a turn is another one.

        Args:
            value: JSON, what the continuation finds in `context.activity.value`.

        Returns:
            The id for `agent.notifications.cancel`.

        Raises:
            ContinuationNotFound: no continuation has that name.
            ValueError: the delay is below zero.
            StoreUnavailable: it may not be stored.
        """
        self._check_running()
        if self._callbacks is None:
            raise NotSupported("This context was built without callbacks; run the turn through an AgentApplication")
        once = self.name_for_later()
        return await self._callbacks.continue_later(self.conversation, continuation, value, delay, once)

    def name_for_later(self) -> str | None:
        """Names the next thing that this turn leaves for later: the same name whenever the turn is run again, and
        another one for each call; None if nobody knows what the turn is a repetition of."""
        self._left_for_later += 1
        if self.work_key is None:
            return None
        reference = self.conversation
        parts = (reference.channel or "", reference.conversation_id, self.activity.type or "", self.work_key)
        return json.dumps([*parts, self._left_for_later])

    @property
    def is_personal(self) -> bool:
        """Whether this conversation is the agent's with one user, as far as the channel says."""
        return self.activity.get_conversation_reference().is_personal

    async def user_token(self, name: str, *, user_id: str | None = None) -> str:
        """The user's token for an OAuth connection of the Azure Bot, such as `graph`; see the settings for its name.

            token = await context.user_token("graph")

        Ask before you say or change anything: the handler runs again from its beginning once the user has signed in.

        Args:
            user_id: in a turn that the agent began itself, whose token; by default that of the conversation's user. In
                a group there is no such user, and it must be given.

        Returns:
            A token that is valid for some minutes. Ask again in the next turn, and keep it nowhere.

        Raises:
            SignInRequired: there is none. Let it out of the handler: in a conversation of one user he is asked to sign
                in, and a continuation waits until he has.
            NotSupported: this turn has no user of its own.
            SettingsError: there is no token service, for want of an app id.
            ChannelError: the token service failed or was not reached.
        """
        self._check_running()
        return await self._tokens().token(self, name, user_id)

    async def sign_out(self, name: str) -> None:
        """Let the token service forget the user's token. Raises like `user_token`."""
        self._check_running()
        await self._tokens().sign_out(self, name)

    def _tokens(self) -> UserTokens:
        if self._user_tokens is None:
            raise NotSupported("This context was built without user tokens; run the turn through an AgentApplication")
        return self._user_tokens

    def on_send_activities(self, hook: SendHook) -> None:
        """Wrap every send of this turn in `hook(context, activities, next)`; the hook added first is outermost."""
        self._send_hooks.append(hook)

    def on_update_activity(self, hook: UpdateHook) -> None:
        """Wrap every update of this turn in `hook(context, activity, next)`."""
        self._update_hooks.append(hook)

    def on_delete_activity(self, hook: DeleteHook) -> None:
        """Wrap every delete of this turn in `hook(context, activity_id, next)`."""
        self._delete_hooks.append(hook)

    def end(self) -> None:
        """The turn is over; called by the adapter."""
        self._ended = True

    def _check_running(self) -> None:
        if self._ended:
            raise TurnEnded(
                "This turn is over, its context cannot be used any more. To speak later, keep context.conversation and "
                "use agent.proactive.send_activity or agent.notifications.schedule."
            )


async def _with_hook(hook: Callable[..., Awaitable[Any]], context: TurnContext, inner: Any, outgoing: Any) -> Any:
    return await hook(context, outgoing, inner)


def _addressed(activity: Activity, reference: ConversationReference) -> Activity:
    addressed = activity.addressed_to(reference)
    # The parts of a stream are the only new activities with an id of the sender's: the stream's.
    return addressed.replace(id=activity.id) if is_stream(activity) else addressed


def _as_activity(activity: Activity | str) -> Activity:
    if isinstance(activity, str):
        return MessageFactory.text(activity)
    return activity if activity.type else activity.replace(type="message")
