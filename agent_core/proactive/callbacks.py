"""Callbacks: an external system is done, and the conversation that asked goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from agent_core.activity.activity_types import CallbackTypes
from agent_core.activity.conversation_reference import split_channel_id
from agent_core.errors import AgentError, ContinuationNotFound, InvalidCallback
from agent_core.proactive.callback_message import Callback
from agent_core.proactive.continuations import Continuations
from agent_core.proactive.continuing_later import ContinuingLater
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.conversations import Conversations
from agent_core.proactive.dead_letters import DeadLetters
from agent_core.proactive.deliveries import Deliveries
from agent_core.proactive.delivery import Delivery
from agent_core.proactive.delivery_gate import Notice
from agent_core.proactive.proactive import Proactive
from agent_core.proactive.queue import QueueMessage
from agent_core.proactive.tickets import Ticket, Tickets, expectation_of
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import CONVERSATIONS, Document, DocumentStore, Where, id_for, time_text
from agent_core.turn.turn_context import TurnContext
from agent_core.turn.turn_state import Handler, TurnState

logger = logging.getLogger(__name__)


class ExpectedCallbacks:
    """The callbacks that turns wait for, and what they leave for later."""

    def __init__(
        self,
        store: DocumentStore,
        continuations: Continuations,
        tickets: Tickets,
        later: ContinuingLater,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._continuations = continuations
        self._tickets = tickets
        # See `TurnContext.continue_later`.
        self.continue_later = later.add
        self._now = now
        self._new_id = new_id

    async def expect(
        self,
        context: TurnContext,
        continuation: str,
        *,
        replaces: str | None,
        kinds: Collection[CallbackTypes],
        valid_for: timedelta,
    ) -> Ticket:
        """Store that this callback is to come; see `TurnContext.expect_callback`."""
        _ = self._continuations[continuation]
        reference, now = context.conversation, self._now()
        ticket = self._tickets.sign(
            Ticket(
                conversation_id=reference.conversation_id,
                channel_id=reference.channel,
                continuation=continuation,
                id=self._new_id(),
                kinds=frozenset(kinds),
                expires=now + valid_for,
            )
        )
        await self._store.create(
            CONVERSATIONS,
            {
                "id": id_for("expected", ticket.id),
                CONVERSATIONS.partition_key: ticket.conversation_id,
                "kind": "expected_callback",
                "channel": ticket.channel_id,
                "continuation": continuation,
                "replaces": replaces,
                "created": time_text(now),
                "ttl": max(1, int(valid_for.total_seconds())),
            },
        )
        logger.info("Callback %r is expected in conversation %r", continuation, ticket.conversation_id)
        return ticket

    async def fulfilled_by(self, callback: Callback) -> Document | None:
        """The expectation a callback fulfils: its ticket's, or without one the oldest of that continuation, or None."""
        channel = split_channel_id(callback.channel_id)[0]
        if callback.ticket is not None:
            document_id = id_for("expected", expectation_of(callback.ticket))
            document = await self._store.read(CONVERSATIONS, callback.conversation_id, document_id)
            fits = document is not None and document.body["continuation"] == callback.continuation
            return document if fits and document and channel in (None, document.body["channel"]) else None
        conditions = [Where("kind", "=", "expected_callback"), Where("continuation", "=", callback.continuation or "")]
        if channel is not None:
            conditions.append(Where("channel", "=", channel))
        page = await self._store.query(
            CONVERSATIONS, partition=callback.conversation_id, where=conditions, order_by="created", limit=1
        )
        return next(iter(page.documents), None)


class CallbackReceiver:
    """Takes callbacks from the queue and continues their conversations."""

    def __init__(
        self,
        proactive: Proactive,
        conversations: Conversations,
        continuations: Continuations,
        expected: ExpectedCallbacks,
        tickets: Tickets,
        deliveries: Deliveries,
        dead_letters: DeadLetters,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._proactive = proactive
        self._conversations = conversations
        self._continuations = continuations
        self._expected = expected
        self._tickets = tickets
        self._deliveries = deliveries
        self._dead_letters = dead_letters
        self._now = now

    async def receive(self, message: QueueMessage) -> None:
        """Handle a message of the callback queue; what can never succeed becomes a dead letter.

        The ticket is looked at here and nowhere else: a callback that came in time is not late because its work is
        tried again, and one that an operator replays was admitted by the operator.

        Raises:
            AgentError: a store or queue was not reached; let the message be delivered again.
        """
        try:
            callback = Callback.from_message(message)
        except InvalidCallback as error:
            key = f"callback:{message.message_id}"
            logger.warning("Delivery: callback dead (%s), key %r: %s", error.reason, key, error)
            await self._dead_letters.add_message(
                message, key=key, what="callback", reason=error.reason, explanation=str(error)
            )
            return
        logger.info(
            "Callback %s, key %r, correlation %r, trace %r",
            callback.type,
            callback.key,
            callback.correlation_id,
            callback.traceparent,
        )
        try:
            callback = self._tickets.admit(callback, self._now())
        except InvalidCallback as error:
            await self._refuse(callback.key, _work(callback).to_message().body, error.reason, error)
            return
        item = _work(callback)
        if message.time_to_live is not None:
            item = replace(item, expires=time_text(self._now() + message.time_to_live))
        await self.work_on(item)

    async def work_on(self, item: WorkItem) -> None:
        """Continue the conversation; `item` is a callback's first attempt or a later one from the work queue."""
        callback = Callback(item.key, Callback.from_body(item.payload["body"], item.key).body)
        try:
            handler = self._handler(callback)
        except ContinuationNotFound as error:
            body = item.to_message().body
            await self._refuse(callback.key, body, type(error).__name__, error, callback.conversation_id)
            return

        async def find() -> Conversation:
            return await self._conversations.find(callback.conversation_id, callback.channel_id)

        async def expectation() -> Document | None:
            return await self._expected.fulfilled_by(callback)

        async def run(delivery: Delivery) -> None:
            if callback.type is CallbackTypes.progress:
                expected = await expectation()
                if expected is None:
                    logger.info("Callback %r: no progress is shown after the end", callback.key)
                    return
                # Read and not used up: the placeholder waits for the result as well.
                delivery.placeholder = expected.body["replaces"]
            await self._proactive.continue_conversation(
                delivery.conversation,
                handler,
                value=callback.value,
                value_type=callback.type,
                prepare=delivery.watch,
                may_apologise=partial(self._deliveries.gives_up, delivery),
                marks=partial(self._deliveries.last_marks, delivery),
                user=delivery.user,
            )

        ends = callback.type in (CallbackTypes.result, CallbackTypes.failed)
        notifies = callback.type is CallbackTypes.notification
        await self._deliveries.deliver(
            item,
            callback.conversation_id,
            find,
            run,
            what="notification" if notifies else f"callback {callback.continuation!r}",
            expectation=expectation if ends else None,
            when_unsure="park" if notifies else self._continuations.when_unsure(callback.continuation or ""),
            notice=Notice(urgent=callback.urgent) if notifies else None,
        )

    def _handler(self, callback: Callback) -> Handler:
        """What runs: the continuation, or what shows the message that the callback brings."""
        handler = None
        if callback.type is not CallbackTypes.notification:
            handler = self._continuations[callback.continuation or ""]
        if handler is not None and callback.type is not CallbackTypes.progress:
            return handler

        async def show(context: TurnContext, state: TurnState) -> None:
            await context.send_activity(callback.shown)

        return show

    async def _refuse(self, key: str, payload: bytes, reason: str, error: AgentError, conversation: str = "") -> None:
        logger.warning("Delivery: callback dead (%s), key %r, conversation %r: %s", reason, key, conversation, error)
        await self._dead_letters.add(
            key=key, what="callback", reason=reason, explanation=str(error), payload=payload, conversation=conversation
        )


def _work(callback: Callback) -> WorkItem:
    # Two publishers may use one id in two conversations.
    return WorkItem("callback", callback.key, {"body": callback.body}, scope=callback.conversation_id)
