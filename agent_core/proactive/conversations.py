"""The conversations the agent knows: captured on every turn, with their state, so that it can speak there later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from weakref import WeakValueDictionary

from agent_core.activity.conversation_reference import ConversationReference
from agent_core.errors import (
    ChannelError,
    ConversationAmbiguous,
    ConversationNotFound,
    ConversationSuspended,
    DocumentChanged,
    DocumentExists,
    QueueUnavailable,
    StoreError,
    StoreUnavailable,
)
from agent_core.proactive.claims import AT_ONCE, Mark, newest_marks
from agent_core.proactive.conversation import Conversation, conversation_document_id
from agent_core.proactive.late_saves import LateSaves
from agent_core.proactive.lifecycle import after_change, change_after_failure, follow_up
from agent_core.proactive.queue import Queue
from agent_core.proactive.refusals import watch_refusals
from agent_core.proactive.turn_record import MAX_CONFLICTS, TurnRecord, partition_of_user, state_of_user
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import (
    CONVERSATIONS,
    USERS,
    Create,
    Document,
    DocumentStore,
    Operation,
    Replace,
    Where,
)
from agent_core.turn.turn_context import TurnContext

logger = logging.getLogger(__name__)


class Conversations:
    """Reads and writes conversations and what is remembered in them."""

    def __init__(
        self, store: DocumentStore, queue: Queue, late_saves: LateSaves, *, now: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._queue = queue
        self._late_saves = late_saves
        self._now = now
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

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
            return _remembered([document] if document else [])
        page = await self._store.query(
            CONVERSATIONS, partition=conversation_id, where=[Where("kind", "=", "conversation")]
        )
        if sum(document.body["status"] != "forgotten" for document in page.documents) > 1:
            raise ConversationAmbiguous(
                conversation_id,
                f"Several channels have a conversation {conversation_id!r}: name the channel as well (channelId).",
            )
        return _remembered(page.documents)

    async def save(self, conversation: Conversation) -> None:
        """Store it over whatever is there, but for its state, which only turns change."""

        def change(stored: Conversation | None) -> Conversation:
            return replace(conversation, state=stored.state) if stored else conversation

        await self.change(conversation.reference, change)

    async def delete(self, conversation_id: str, channel_id: str | None = None) -> bool:
        """Delete it, with its state; False if it is not known."""
        conversation = await self.get(conversation_id, channel_id)
        if conversation is not None:
            await self._store.delete(CONVERSATIONS, conversation.id, conversation.document_id)
        return conversation is not None

    # -- a turn: load and introduce before the handler, keep after it

    @asynccontextmanager
    async def turn(
        self,
        context: TurnContext,
        *,
        known: Conversation | None = None,
        user: Document | None = None,
        marks: Callable[[], Awaitable[Sequence[Mark]]] | None = None,
        even_if_suspended: bool = False,
    ) -> AsyncIterator[None]:
        """One turn, with `context.state`; kept afterwards, with the marks, if nothing was raised.

        Args:
            known: the conversation as it was just read, and `user` what `user_at` gave with it; else they are read.
            marks: called after the turn.

        Raises:
            ConversationSuspended, ConversationNotFound: the agent may not speak there, and nothing that came in since
                says otherwise.
        """
        record = TurnRecord(context, known.stored, user) if known and known.stored else await self.load(context)
        if record.before is not None and record.is_unwanted:
            _check_may_speak(record.before, even_if_suspended)
        await self.introduce(record)
        refused = watch_refusals(context)
        try:
            yield
        finally:
            for error in refused[:1]:
                await self._note_refusal(record, error)
        await self.keep(record, await marks() if marks else ())

    async def user_at(self, partition: str | None) -> Document | None:
        """The document of the state of the user that `partition_of_user` names, for `turn`."""
        return await self._store.read(USERS, partition, "state") if partition else None

    async def load(self, context: TurnContext) -> TurnRecord:
        """Read what is kept of a turn's conversation and user: one round trip, and nothing is written."""
        reference, user = context.conversation, partition_of_user(context.conversation, context.identity)
        conversation = self._store.read(
            CONVERSATIONS, reference.conversation_id, conversation_document_id(reference.channel_id)
        )
        if user is None:
            return TurnRecord(context, await conversation, None)
        return TurnRecord(context, *await asyncio.gather(conversation, self._store.read(USERS, user, "state")))

    async def introduce(self, record: TurnRecord) -> None:
        """Make the state ready, and store a conversation that is new or has moved to another service: whatever the
        handler starts then finds it, and a handler that fails does not lose it. Others are not written."""
        await self._announce(record.follow_up)
        if record.is_news:
            record.stored = await self.change(record.reference, record.introduced_to, just_read=[record.stored])
        record.context.state = record.state

    async def keep(self, record: TurnRecord, marks: Sequence[Mark] = ()) -> None:
        """Write what the turn changed, and the marks, in one batch; the user's state, elsewhere, at the same time.

        Two turns that change the state at once lose nothing: the second lays its keys over what the first wrote. If
        the store does not answer, and the turn has said something so that it must not run again, what it changed
        waits on the work queue.

        Raises:
            TakenOver: another worker wrote to the first marked document; of the conversation nothing was written.
            StoreUnavailable: it may have been written or not, and does not wait on the queue.
        """
        started = self._now()
        try:
            await self._write(record, marks)
        except StoreUnavailable:
            try:
                if self._now() - started > AT_ONCE:
                    raise
                await self._write(record, marks)
            except StoreUnavailable:
                if not record.context.responded or not await self._late_saves.put_off(record, marks):
                    raise

    async def _write(self, record: TurnRecord, marks: Sequence[Mark]) -> None:
        await asyncio.gather(self._keep_conversation(record, marks), self._keep_user(record))

    async def _keep_conversation(self, record: TurnRecord, marks: Sequence[Mark]) -> None:
        if not record.is_changed and not marks:
            return
        partition, document_id = record.reference.conversation_id, conversation_document_id(record.reference.channel_id)
        known = record.stored
        async with self._lock(document_id + partition):
            for _ in range(MAX_CONFLICTS):
                operations: list[Operation] = [mark.operation for mark in marks]
                known_now = Conversation.from_document(known) if known else None
                after = record.after_turn(known_now) if record.is_changed else None
                if after is not None:
                    body = after.to_document()
                    operations.append(Replace(body, known.etag) if known else Create(body))
                if not operations:
                    return
                try:
                    await self._store.batch(CONVERSATIONS, partition, operations)
                    return
                except (DocumentExists, DocumentChanged):
                    if marks:
                        newest = await newest_marks(self._store, partition, marks)
                        if newest is None:
                            return
                        marks = newest
                    known = await self._store.read(CONVERSATIONS, partition, document_id)
        raise DocumentChanged(f"Conversation {partition!r} is written by too many at once; try again")

    async def _keep_user(self, record: TurnRecord) -> None:
        partition, user = partition_of_user(record.reference, record.context.identity), record.user
        if partition is None or not record.state.user.changed:
            return
        async with self._lock(partition):
            for _ in range(MAX_CONFLICTS):
                merged = record.state.user.laid_over(user.body["state"] if user else {})
                body = state_of_user(partition, merged, record.reference)
                try:
                    if user is None:
                        await self._store.create(USERS, body)
                    else:
                        await self._store.replace(USERS, body, user.etag)
                    return
                except (DocumentExists, DocumentChanged):
                    user = await self._store.read(USERS, partition, "state")
        raise DocumentChanged(f"The state of user {partition!r} is written by too many at once; try again")

    async def _announce(self, work: WorkItem | None) -> None:
        if work is not None:
            await self._queue.send(work.to_message())

    async def _note_refusal(self, record: TurnRecord, error: ChannelError) -> None:
        """Suspend or forget the conversation that the channel refused a message for; the refusal itself goes on."""
        change = change_after_failure(error, self._now())
        if change is None or record.stored is None:
            return
        before = Conversation.from_document(record.stored)
        try:
            await self._announce(follow_up(before, after_change(before, change), change))
            await self.change(record.reference, lambda known: after_change(known, change) if known else None)
        except (StoreError, QueueUnavailable) as failure:
            # The next message is refused as well, and tells it again; this refusal must not be hidden by another error.
            logger.warning("That conversation %r is %s is not kept: %s", before.id, change.reason, failure)
            return
        logger.warning("Conversation %r is %s now: %s", before.id, change.to, change.reason)

    async def change(
        self,
        reference: ConversationReference,
        change: Callable[[Conversation | None], Conversation | None],
        *,
        just_read: Sequence[Document | None] = (),
    ) -> Document | None:
        """Write what `change` makes of the stored conversation, None for no change; whoever is second makes it of what
        the first wrote. Returns what is stored then.

        Args:
            just_read: the document, or that there was none; without it, it is read here.
        """
        conversation_id, document_id = reference.conversation_id, conversation_document_id(reference.channel_id)
        async with self._lock(document_id + conversation_id):
            for number in range(MAX_CONFLICTS):
                if number == 0 and just_read:
                    known = just_read[0]
                else:
                    known = await self._store.read(CONVERSATIONS, conversation_id, document_id)
                changed = change(Conversation.from_document(known) if known else None)
                try:
                    if known is None:
                        if changed is None:
                            return None
                        return await self._store.create(CONVERSATIONS, changed.to_document())
                    if changed is None:
                        return known
                    return await self._store.replace(CONVERSATIONS, changed.to_document(), known.etag)
                except (DocumentExists, DocumentChanged):
                    continue
        raise DocumentChanged(f"Conversation {conversation_id!r} is written by too many at once; try again")

    def _lock(self, name: str) -> asyncio.Lock:
        """One for each document: who writes it in this process does so one after the other, so that few meet in the
        store."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock


def _remembered(documents: Sequence[Document]) -> Conversation | None:
    found = [Conversation.from_document(document) for document in documents]
    return next((conversation for conversation in found if conversation.status != "forgotten"), None)


def _check_may_speak(conversation: Conversation, even_if_suspended: bool) -> None:
    if conversation.status == "forgotten":
        raise ConversationNotFound(conversation.id)
    if not conversation.is_active and not even_if_suspended:
        raise ConversationSuspended(conversation.id, conversation.reason, conversation.since)
