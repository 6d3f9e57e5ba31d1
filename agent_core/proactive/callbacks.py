"""Callbacks: an external system is done, and the conversation that asked goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from agent_core.activity.json_text import parse_object
from agent_core.errors import AgentError, BadActivity, ContinuationNotFound, ConversationNotFound, InvalidCallback
from agent_core.proactive.continuations import Continuations
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.conversations import Conversations
from agent_core.proactive.dead_letters import DeadLetters
from agent_core.proactive.deliveries import Deliveries, Delivery
from agent_core.proactive.proactive import Proactive
from agent_core.proactive.queue import QueueMessage
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import CONVERSATIONS, Document, DocumentStore, Where, is_storable, time_text
from agent_core.turn.turn_context import TurnContext

logger = logging.getLogger(__name__)

# As long as the queue keeps a message, twice: a supplier may be slow, and its message may lie there.
EXPECTED_FOR = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Ticket:
    """What an external system sends back, with a `value` added, to continue the conversation."""

    conversation_id: str
    channel_id: str | None
    continuation: str
    id: str

    def to_dict(self) -> dict[str, Any]:
        """The callback message as JSON, but for its `value`."""
        named: dict[str, Any] = {
            "conversationId": self.conversation_id,
            "continuation": self.continuation,
            "ticket": self.id,
        }
        return {**named, "channelId": self.channel_id} if self.channel_id else named


@dataclass(frozen=True, slots=True)
class Callback:
    """A callback message: `{"conversationId", "continuation", "value"}`, and optionally `channelId`, `ticket`, `id`.

    Attributes:
        key: its `id`, or else the id of the message that brought it; the same key twice has one effect.
    """

    key: str
    conversation_id: str
    continuation: str
    value: Any = None
    channel_id: str | None = None
    ticket: str | None = None

    @classmethod
    def from_message(cls, message: QueueMessage) -> Callback:
        """Raises InvalidCallback, saying what is wrong, if it is none."""
        try:
            body = parse_object(message.body)
        except BadActivity as error:
            raise InvalidCallback(str(error), reason=error.code) from error
        return cls.from_dict(body, message.message_id)

    @classmethod
    def from_dict(cls, body: dict[str, Any], message_id: str) -> Callback:
        """Like `from_message`, of the parsed body."""
        for name in ("conversationId", "continuation"):
            if not isinstance(body.get(name), str) or not body[name]:
                raise InvalidCallback(f"A callback needs a string in {name!r}", reason="MissingField")
        if not is_storable(body["conversationId"]):
            raise InvalidCallback("A callback's 'conversationId' is too long, or no text", reason="InvalidConversation")
        for name in ("channelId", "ticket", "id"):
            if body.get(name) is not None and not isinstance(body[name], str):
                raise InvalidCallback(f"A callback's {name!r} must be a string", reason="WrongType")
        return cls(
            key="callback:" + (body.get("id") or message_id),
            conversation_id=body["conversationId"],
            continuation=body["continuation"],
            value=body.get("value"),
            channel_id=body.get("channelId"),
            ticket=body.get("ticket"),
        )


class ExpectedCallbacks:
    """The callbacks that turns wait for."""

    def __init__(
        self,
        store: DocumentStore,
        continuations: Continuations,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._continuations = continuations
        self._now = now
        self._new_id = new_id

    async def expect(self, context: TurnContext, continuation: str, replaces: str | None) -> Ticket:
        """Store that this callback is to come; see `TurnContext.expect_callback`."""
        _ = self._continuations[continuation]
        reference = context.conversation
        ticket = Ticket(reference.conversation_id, reference.channel, continuation, self._new_id())
        await self._store.create(
            CONVERSATIONS,
            {
                "id": f"expected|{ticket.id}",
                CONVERSATIONS.partition_key: ticket.conversation_id,
                "kind": "expected_callback",
                "channel": ticket.channel_id,
                "continuation": continuation,
                "replaces": replaces,
                "created": time_text(self._now()),
                "ttl": int(EXPECTED_FOR.total_seconds()),
            },
        )
        logger.info("Callback %r is expected in conversation %r", continuation, ticket.conversation_id)
        return ticket

    async def fulfilled_by(self, callback: Callback, conversation: Conversation) -> Document | None:
        """The expectation a callback fulfils: its ticket's, or without one the oldest of that continuation, or None."""
        page = await self._store.query(
            CONVERSATIONS,
            partition=conversation.id,
            where=[
                Where("kind", "=", "expected_callback"),
                Where("channel", "=", conversation.reference.channel or ""),
                Where("continuation", "=", callback.continuation),
            ],
            order_by="created",
            limit=1000 if callback.ticket else 1,
        )
        for document in page.documents:
            if callback.ticket is None or document.id == f"expected|{callback.ticket}":
                return document
        return None


class CallbackReceiver:
    """Takes callbacks from the queue and continues their conversations."""

    def __init__(
        self,
        proactive: Proactive,
        conversations: Conversations,
        continuations: Continuations,
        expected: ExpectedCallbacks,
        deliveries: Deliveries,
        dead_letters: DeadLetters,
    ) -> None:
        self._proactive = proactive
        self._conversations = conversations
        self._continuations = continuations
        self._expected = expected
        self._deliveries = deliveries
        self._dead_letters = dead_letters

    async def receive(self, message: QueueMessage) -> None:
        """Handle a message of the callback queue; what can never succeed becomes a dead letter.

        Raises:
            AgentError: a store or queue was not reached; let the message be delivered again.
        """
        try:
            callback = Callback.from_message(message)
        except InvalidCallback as error:
            await self._refuse(f"callback:{message.message_id}", message.body, error.reason, error)
            return
        payload = parse_object(message.body)
        item = WorkItem(
            "callback",
            callback.key,
            {"body": payload, "messageId": message.message_id},
            # Two publishers may use one id in two conversations.
            scope=callback.conversation_id,
        )
        await self.work_on(item)

    async def work_on(self, item: WorkItem) -> None:
        """Continue the conversation; `item` is a callback's first attempt or a later one from the work queue."""
        callback = Callback.from_dict(item.payload["body"], item.payload["messageId"])
        body = item.to_message().body
        try:
            handler = self._continuations[callback.continuation]
            conversation = await self._conversations.find(callback.conversation_id, callback.channel_id)
        except (ContinuationNotFound, ConversationNotFound) as error:
            await self._refuse(callback.key, body, type(error).__name__, error, callback.conversation_id)
            return

        async def expectation() -> Document | None:
            return await self._expected.fulfilled_by(callback, conversation)

        async def run(delivery: Delivery) -> None:
            await self._proactive.continue_conversation(
                conversation,
                handler,
                value=callback.value,
                prepare=partial(self._deliveries.watch, delivery),
                may_apologise=partial(self._deliveries.gives_up, delivery),
                mark=partial(self._deliveries.last_step, delivery),
            )

        await self._deliveries.deliver(
            item, conversation.id, run, what=f"callback {callback.continuation!r}", expectation=expectation
        )

    async def _refuse(self, key: str, payload: bytes, reason: str, error: AgentError, conversation: str = "") -> None:
        logger.warning("Delivery: callback dead (%s), key %r, conversation %r: %s", reason, key, conversation, error)
        await self._dead_letters.add(
            key=key, what="callback", reason=reason, explanation=str(error), payload=payload, conversation=conversation
        )
