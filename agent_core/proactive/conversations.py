"""The conversations the agent knows: captured on every turn, with their state, so that it can speak there later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from agent_core.activity.conversation_reference import ConversationReference
from agent_core.errors import ConversationAmbiguous, ConversationNotFound, DocumentChanged, DocumentExists
from agent_core.proactive.conversation import Conversation, conversation_document_id
from agent_core.store.document_store import CONVERSATIONS, USERS, Document, DocumentStore, JsonObject, Where, id_for
from agent_core.turn.turn_context import TurnContext
from agent_core.turn.turn_state import StateScope, TurnState

# How often two writers of one document may meet before we call it an error; each round one of them succeeds.
MAX_CONFLICTS = 20
# Being seen again is no reason to write, unless it was long ago.
TOUCH_AFTER = timedelta(hours=1)


class Conversations:
    """Reads and writes conversations and what is remembered in them."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store

    async def find(self, conversation_id: str, channel_id: str | None = None) -> Conversation:
        """The conversation of that id; name the channel where several have one.

        Raises:
            ConversationNotFound: there is none.
            ConversationAmbiguous: several channels have one of that id, and none was named.
        """
        conversation = await self.get(conversation_id, channel_id)
        if conversation is None:
            raise ConversationNotFound(conversation_id)
        return conversation

    async def get(self, conversation_id: str, channel_id: str | None = None) -> Conversation | None:
        """Like `find`, but None where there is none."""
        if not conversation_id:
            return None
        if channel_id is not None:
            document = await self._store.read(CONVERSATIONS, conversation_id, conversation_document_id(channel_id))
            return Conversation.from_document(document) if document else None
        page = await self._store.query(
            CONVERSATIONS, partition=conversation_id, where=[Where("kind", "=", "conversation")], limit=2
        )
        if len(page.documents) > 1:
            raise ConversationAmbiguous(
                conversation_id,
                f"Several channels have a conversation {conversation_id!r}: name the channel as well (channelId).",
            )
        return Conversation.from_document(page.documents[0]) if page.documents else None

    async def save(self, conversation: Conversation) -> None:
        """Store it over whatever is there, but for its state, which only turns change."""

        def change(stored: Conversation | None) -> Conversation:
            return replace(conversation, state=stored.state) if stored else conversation

        await self._change(conversation.reference, change)

    async def delete(self, conversation_id: str, channel_id: str | None = None) -> None:
        """Forget it, with its state; nothing happens if it is not known."""
        conversation = await self.get(conversation_id, channel_id)
        if conversation is not None:
            await self._store.delete(CONVERSATIONS, conversation.id, conversation.document_id)

    @asynccontextmanager
    async def turn(self, context: TurnContext) -> AsyncIterator[TurnState]:
        """The state for one turn's handler, saved afterwards if the handler did not raise.

        The conversation itself is stored before the handler runs if it is new or has moved to another service, so that
        whatever the handler starts finds it, and so that a handler that fails does not lose it.
        """
        reference = context.conversation
        stored, user = await asyncio.gather(
            self._store.read(CONVERSATIONS, reference.conversation_id, conversation_document_id(reference.channel_id)),
            self._read_user(reference),
        )
        before = Conversation.from_document(stored) if stored else None
        seen = _seen(before, context)
        if before is None or _has_moved(before, seen):
            stored = await self._change(reference, lambda known: _seen(known, context))
            seen = Conversation.from_document(stored)
        state = TurnState(StateScope(seen.state), StateScope(user.body["state"] if user else None))
        yield state

        def after_turn(known: Conversation | None) -> Conversation:
            latest = _seen(known, context)
            return replace(latest, state=state.conversation.laid_over(latest.state))

        if state.conversation.changed or _is_worth_a_write(before, seen):
            await self._change(reference, after_turn, stored)
        if state.user.changed:
            await self._save_user(reference, state, user)

    async def _change(
        self,
        reference: ConversationReference,
        change: Callable[[Conversation | None], Conversation],
        known: Document | None = None,
    ) -> Document:
        """Write what `change` makes of the stored conversation; whoever is second makes it of what the first wrote.

        Args:
            known: the document as it was just read; without it, it is read here.
        """
        conversation_id, document_id = reference.conversation_id, conversation_document_id(reference.channel_id)
        for _ in range(MAX_CONFLICTS):
            known = known or await self._store.read(CONVERSATIONS, conversation_id, document_id)
            body = change(Conversation.from_document(known) if known else None).to_document()
            try:
                if known is None:
                    return await self._store.create(CONVERSATIONS, body)
                return await self._store.replace(CONVERSATIONS, body, known.etag)
            except (DocumentExists, DocumentChanged):
                known = None
        raise DocumentChanged(f"Conversation {conversation_id!r} is written by too many at once; try again")

    async def _read_user(self, reference: ConversationReference) -> Document | None:
        partition = _user_partition(reference)
        return await self._store.read(USERS, partition, "state") if partition else None

    async def _save_user(self, reference: ConversationReference, state: TurnState, user: Document | None) -> None:
        partition = _user_partition(reference)
        if partition is None:
            return
        for _ in range(MAX_CONFLICTS):
            merged = state.user.laid_over(user.body["state"] if user else {})
            body: JsonObject = {"id": "state", USERS.partition_key: partition, "kind": "state", "state": merged}
            try:
                if user is None:
                    await self._store.create(USERS, body)
                else:
                    await self._store.replace(USERS, body, user.etag)
                return
            except (DocumentExists, DocumentChanged):
                user = await self._store.read(USERS, partition, "state")
        raise DocumentChanged(f"The state of user {partition!r} is written by too many at once; try again")


def _user_partition(reference: ConversationReference) -> str | None:
    """A user is one person on one channel; a conversation that the agent created has none until somebody writes."""
    if reference.user is None or not reference.user.id:
        return None
    return id_for("user", reference.channel or "", reference.user.id)


def _seen(before: Conversation | None, context: TurnContext) -> Conversation:
    """The conversation after this turn was seen; a turn that the agent began itself teaches nothing about it."""
    if before is not None and (context.proactive or before.last_seen > context.now):
        return before
    known = Conversation(context.conversation, context.identity, context.now) if before is None else before
    if before is not None and before.identity.service_url_verified and not context.identity.service_url_verified:
        # What a validated token said is never replaced by what nobody vouched for.
        return replace(known, last_seen=context.now)
    return replace(
        known,
        reference=context.conversation,
        identity=context.identity,
        last_seen=context.now,
        time_zone=context.activity.local_timezone or known.time_zone,
    )


def _has_moved(before: Conversation, seen: Conversation) -> bool:
    return (
        before.reference.service_url != seen.reference.service_url
        or before.identity.service_url_verified != seen.identity.service_url_verified
    )


def _is_worth_a_write(before: Conversation | None, seen: Conversation) -> bool:
    if before is None:
        return False
    return (
        before.reference != seen.reference
        or before.identity.persisted() != seen.identity.persisted()
        or before.time_zone != seen.time_zone
        or seen.last_seen - before.last_seen > TOUCH_AFTER
    )
