"""Activities that come in, each answered once: a channel that waits longer than 15 seconds posts the same one again.

One claim per activity, created beside the first read and settled in the batch that keeps the state.
https://github.com/MicrosoftDocs/msteams-docs/issues/6084
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from agent_core.activity.activity import Activity
from agent_core.activity.json_text import dump
from agent_core.errors import Busy, DocumentChanged, DocumentExists, StoreError, StoreUnavailable
from agent_core.proactive.claims import AT_ONCE, Mark, TakenOver, held, held_until
from agent_core.proactive.conversations import Conversations
from agent_core.proactive.turn_record import TurnRecord
from agent_core.store.document_store import CONVERSATIONS, Document, DocumentStore, JsonObject, id_for, time_text
from agent_core.turn.channel_adapter import Answer
from agent_core.turn.turn_context import TurnContext

logger = logging.getLogger(__name__)

# Channels repeat within minutes; a day is generous.
KEPT = timedelta(days=1)
# A turn that runs renews its lease, so one whose lease is over has died, and a channel's next try takes it over.
LEASE = timedelta(seconds=30)
RENEWED_EVERY = timedelta(seconds=10)
# How long a copy waits for the first to be done; the channel hangs up after 15 s.
PATIENCE = timedelta(seconds=5)
LOOKS_EVERY = timedelta(milliseconds=500)
# An answer longer than this is not kept for copies: it shares a document of at most 2 MB.
MAX_ANSWER = 512 * 1024
# An edit has the id of the message that it changes, and so has the next edit.
EDITS = ("messageUpdate", "messageDelete")


@dataclass(slots=True)
class _Held:
    """A claim that is ours: the newest version of its document, and whose turn it is to write it."""

    document: Document
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


class InboundTurns:
    """Runs the turns of incoming activities, each once."""

    def __init__(
        self,
        store: DocumentStore,
        conversations: Conversations,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[timedelta], Awaitable[None]],
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._conversations = conversations
        self._now = now
        self._sleep = sleep
        self._new_id = new_id

    async def answer_once(self, context: TurnContext, turn: Callable[[], Awaitable[Answer]]) -> Answer:
        """See `Agent.answer_once`. An activity without an id cannot be told from a copy, and always runs.

        Two copies at once: one runs, the other waits for it a while and is answered the same.
        """
        activity = context.activity
        if not activity.id:
            record = await self._conversations.load(context)
            await self._conversations.introduce(record)
            answer = await turn()
            await self._keep(record, None, answer)
            return answer
        claim, record = await self._begin(context)
        if isinstance(claim, Answer):
            logger.info("Activity %r came again and was answered before", activity.id)
            return claim
        try:
            await self._conversations.introduce(record)
            answer = await self._run(claim, turn)
        except Exception:
            # Nothing of it is kept, so the channel's next try begins anew.
            await self._release(claim)
            raise
        await self._keep(record, claim, answer)
        return answer

    # -- the claim

    async def _begin(self, context: TurnContext) -> tuple[_Held | Answer, TurnRecord]:
        """Claim the activity, and read beside it what its turn needs."""
        claimed, record = await asyncio.gather(
            self._claim(context.activity), self._conversations.load(context), return_exceptions=True
        )
        if isinstance(claimed, BaseException):
            raise claimed
        if isinstance(record, BaseException):
            if isinstance(claimed, _Held):
                await self._release(claimed)
            raise record
        if isinstance(claimed, Document):
            claim = await self._await_other(context.activity, claimed)
            # What was read beside it is old by now.
            return claim, record if isinstance(claim, Answer) else await self._conversations.load(context)
        return claimed, record

    async def _claim(self, activity: Activity) -> _Held | Document:
        """Ours, or the document of whoever was first. Of two callers at once one gets it."""
        token = self._new_id()
        body: JsonObject = {
            "id": _claim_id(activity),
            CONVERSATIONS.partition_key: activity.conversation_id,
            "kind": "claim",
            "created": time_text(self._now()),
            "answer": None,
            "ttl": int(KEPT.total_seconds()),
            **held("running", token, self._now(), LEASE),
        }
        try:
            return _Held(await self._create(body))
        except DocumentExists:
            stored = await self._store.read(CONVERSATIONS, activity.conversation_id, body["id"])
        if stored is None:
            raise StoreUnavailable("The claim of an activity is there and is not found; try again")
        # Our own write, if its answer was lost and a client below us sent it again.
        return _Held(stored) if stored.body["token"] == token else stored

    async def _create(self, body: JsonObject) -> Document:
        """Again, if it fails at once: where the answer was lost we find our own claim, and need not wait it out."""
        started = self._now()
        try:
            return await self._store.create(CONVERSATIONS, body)
        except StoreUnavailable:
            if self._now() - started > AT_ONCE:
                raise
        return await self._store.create(CONVERSATIONS, body)

    async def _await_other(self, activity: Activity, claim: Document | None) -> _Held | Answer:
        """The answer of the copy that was first, once it has one; or the claim, if that one died."""
        deadline = self._now() + PATIENCE
        while True:
            if claim is None:
                # The first gave up and said nothing: it is our turn.
                claimed = await self._claim(activity)
                if isinstance(claimed, _Held):
                    return claimed
                claim = claimed
            if claim.body["status"] == "done":
                return _recorded(claim)
            if held_until(claim) <= self._now():
                taken = await self._take_over(claim)
                if taken is not None:
                    return taken
            elif self._now() >= deadline:
                raise Busy("This activity is being handled; try again in a few seconds for the answer")
            else:
                await self._sleep(LOOKS_EVERY)
            claim = await self._store.read(CONVERSATIONS, activity.conversation_id, claim.id)

    async def _take_over(self, claim: Document) -> _Held | None:
        """Of two callers at once one gets it, the other None."""
        logger.warning("The turn of an activity died; its claim %r is taken over", claim.id)
        body = {**claim.body, **held("running", self._new_id(), self._now(), LEASE)}
        try:
            return _Held(await self._store.replace(CONVERSATIONS, body, claim.etag))
        except DocumentChanged:
            return None

    async def _run(self, claim: _Held, turn: Callable[[], Awaitable[Answer]]) -> Answer:
        renewing = asyncio.create_task(self._renew(claim))
        try:
            return await turn()
        finally:
            # A renewal under way ends first, so that the document's newest version is known.
            async with claim.writing:
                renewing.cancel()

    async def _renew(self, claim: _Held) -> None:
        while True:
            await self._sleep(RENEWED_EVERY)
            async with claim.writing:
                body = {**claim.document.body, **held("running", claim.document.body["token"], self._now(), LEASE)}
                try:
                    claim.document = await self._store.replace(CONVERSATIONS, body, claim.document.etag)
                except DocumentChanged:
                    return  # somebody took over; the batch at the end will find out
                except StoreError as error:
                    logger.warning("The lease of claim %r could not be renewed: %s", claim.document.id, error)

    async def _release(self, claim: _Held) -> None:
        """Let the next copy begin at once; where even that fails it waits until the lease is over."""
        with suppress(StoreError):
            document = claim.document
            partition = document.body[CONVERSATIONS.partition_key]
            await self._store.delete(CONVERSATIONS, partition, document.id, document.etag)

    # -- the end of the turn

    async def _keep(self, record: TurnRecord, claim: _Held | None, answer: Answer) -> None:
        """Write what the turn changed, and the answer for copies, in one batch."""
        if answer.failed:
            record.state.forget_changes()
        try:
            await self._conversations.keep(record, self._settled(claim.document, answer) if claim else None)
        except TakenOver:
            logger.warning("Activity %r was taken over; what it changed is not kept", record.context.activity.id)

    def _settled(self, document: Document, answer: Answer) -> Mark:
        body: JsonObject | None = {"status": answer.status, "body": answer.body}
        if answer.body is not None and len(dump(answer.body)) > MAX_ANSWER:
            body = None
        return Mark(document, {"status": "done", "answer": body, "updated": time_text(self._now())})


def _claim_id(activity: Activity) -> str:
    parts = [activity.channel or "", activity.type or "", activity.id or ""]
    if activity.type in EDITS:
        parts.append(str(activity.to_dict().get("timestamp")))
    return id_for("claim", *parts)


def _recorded(claim: Document) -> Answer:
    answer = claim.body["answer"]
    if answer is None:
        message = "This was answered before, and the answer was too long to be kept"
        return Answer(500, {"error": {"code": "AnswerNotKept", "message": message}})
    return Answer(answer["status"], answer["body"])
