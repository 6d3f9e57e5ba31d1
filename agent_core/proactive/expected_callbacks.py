"""The callbacks that turns wait for; apart from what receives them, which a turn does not load."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from agent_core.activity.activity_types import CallbackTypes
from agent_core.activity.conversation_reference import ConversationReference, split_channel_id
from agent_core.proactive.continuations import Continuations
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.turn_record import partition_of_user
from agent_core.store.document_store import CONVERSATIONS, Document, DocumentStore, Where, id_for, time_text
from agent_core.turn.turn_context import TurnContext

if TYPE_CHECKING:  # loaded with the first ticket, so that a cold start is spared them
    from agent_core.proactive.callback_message import Callback
    from agent_core.proactive.tickets import Ticket, Tickets

logger = logging.getLogger(__name__)

ContinueLater = Callable[[ConversationReference, str, Any, timedelta, str | None], Awaitable[str]]


class ExpectedCallbacks:
    """The callbacks that turns wait for, and what they leave for later."""

    def __init__(
        self,
        store: DocumentStore,
        continuations: Continuations,
        tickets: Tickets | None,
        continue_later: ContinueLater,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._continuations = continuations
        self._tickets = tickets
        self._continue_later = continue_later
        self._now = now
        self._new_id = new_id

    async def continue_later(
        self, reference: ConversationReference, continuation: str, value: Any, delay: timedelta, once: str | None
    ) -> str:
        """Leave a continuation for later; see `TurnContext.continue_later`."""
        return await self._continue_later(reference, continuation, value, delay, once)

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
        from agent_core.proactive.tickets import Ticket, Tickets

        _ = self._continuations[continuation]
        reference, now = context.conversation, self._now()
        ticket = (self._tickets or Tickets()).sign(
            Ticket(
                conversation_id=reference.conversation_id,
                channel_id=reference.channel,
                continuation=continuation,
                id=self._new_id(),
                kinds=frozenset(kinds),
                expires=now + valid_for,
                user=partition_of_user(reference, context.identity),
                tenant_id=Conversation(reference, context.identity, now).tenant_id,
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
        from agent_core.proactive.tickets import expectation_of

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
