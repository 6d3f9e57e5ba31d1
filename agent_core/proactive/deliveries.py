"""The ledger of proactive work: each piece is done once, whatever dies and however often it is asked for.

A delivery goes `claimed -> sending -> sent`, or ends as `parked` (it may have been sent, nobody can know) or `dead`.
Every step is conditional on the ETag of the step before, so of two workers with one delivery only one goes on.

The channel's "create activity" takes no idempotency key. So between the write of `sending` and the answer of the
channel there is a moment at which a death leaves the outcome unknown. An edit has no such moment: it can be repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from agent_core.activity.activity import Activity
from agent_core.activity.conversation_reference import ResourceResponse
from agent_core.errors import ChannelError, DocumentChanged, DocumentExists, StoreError, StoreUnavailable
from agent_core.proactive.dead_letters import DeadLetters
from agent_core.proactive.queue import Queue
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import (
    CONVERSATIONS,
    Create,
    Delete,
    Document,
    DocumentStore,
    JsonObject,
    Operation,
    id_for,
    parse_time,
    time_text,
)
from agent_core.turn.turn_context import TurnContext

logger = logging.getLogger(__name__)

KEPT = timedelta(days=14)
# Longer than a turn may take (host.json ends a function after five minutes), so that a claim whose lease is over has no
# living owner.
LEASE = timedelta(minutes=6)
# A channel that throttles and does not say for how long.
THROTTLED = timedelta(seconds=30)
SETTLED = ("sent", "parked", "dead")


@dataclass(slots=True)
class Claim:
    """A delivery that this worker holds.

    Attributes:
        replaces: the id of the placeholder that the first message edits; None: it is a new message.
    """

    document: Document
    replaces: str | None = None
    posted: bool = False
    activity_ids: list[str] = field(default_factory=list)


class _TakenOver(Exception):
    """The ledger's record has another version than ours: another worker holds the delivery now."""


class Deliveries:
    """Runs pieces of work under the ledger, and decides what their failures call for."""

    def __init__(
        self,
        store: DocumentStore,
        queue: Queue,
        dead_letters: DeadLetters,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._queue = queue
        self._dead_letters = dead_letters
        self._now = now
        self._new_id = new_id

    async def deliver(
        self,
        item: WorkItem,
        conversation_id: str,
        run: Callable[[Claim], Awaitable[None]],
        *,
        what: str,
        expectation: Callable[[], Awaitable[Document | None]] | None = None,
    ) -> bool:
        """Do this work once; logs one line. True if it was done now.

        When this returns the queue message can be settled: the work is done, was done before, is a dead letter, or a
        copy of it waits on the queue.

        Args:
            run: the work; it calls `watch` on its turn's context before it sends.
            what: for people, such as `callback 'order_placed'`.
            expectation: looks up the expectation that a callback fulfils; the claim uses it up, in one batch with it.

        Raises:
            AgentError: not even the queue or the store was reached; let the message be delivered again.
        """
        started = self._now()
        outcome = "failed"
        try:
            outcome = await self._deliver(item, conversation_id, run, what, expectation)
        finally:
            milliseconds = round((self._now() - started).total_seconds() * 1000)
            logger.info(
                "Delivery: %s %s in %d ms, attempt %d, key %r, conversation %r",
                what,
                outcome,
                milliseconds,
                item.attempt,
                item.key,
                conversation_id,
            )
        return outcome == "sent"

    async def _deliver(
        self,
        item: WorkItem,
        conversation_id: str,
        run: Callable[[Claim], Awaitable[None]],
        what: str,
        expectation: Callable[[], Awaitable[Document | None]] | None,
    ) -> str:
        claim: Claim | None = None
        try:
            found = await self._claim(item, conversation_id, what, expectation)
            if isinstance(found, str):
                return found
            if isinstance(found, datetime):
                await self._queue.send(item.put_back().to_message(at=found))
                return f"put off until {found:%H:%M:%S}, another worker has it"
            claim = found
            await run(claim)
            await self._step(claim, "sent", activityIds=claim.activity_ids)
            return "sent"
        except ChannelError as error:
            return await self._after_channel_error(item, conversation_id, what, claim, error)
        except _TakenOver:
            # Our lease was over, and another worker went on; what we sent so far it finds as `sending`.
            return "left to another worker"
        except StoreError as error:
            logger.warning("Delivery %r: %s", item.key, error)
            return await self._again(item, conversation_id, what, claim, "StoreUnavailable", str(error))
        except Exception as error:
            logger.exception("Delivery %r failed", item.key)
            if claim is not None and claim.posted:
                return await self._park(item, conversation_id, what, claim, "FailedAfterSending", type(error).__name__)
            explanation = f"The handler raised {type(error).__name__}; its log has the traceback."
            return await self._again(item, conversation_id, what, claim, "HandlerFailed", explanation)

    def watch(self, claim: Claim, context: TurnContext) -> None:
        """Let the ledger see what this turn sends: the first message edits the placeholder, and no other message
        leaves before the ledger says `sending`."""

        async def send(
            context: TurnContext,
            activities: Sequence[Activity],
            send_on: Callable[[Sequence[Activity]], Awaitable[list[ResourceResponse]]],
        ) -> list[ResourceResponse]:
            responses = []
            for activity in activities:
                if activity.type == "message":
                    edited = await self._edit_placeholder(claim, context, activity)
                    if edited is not None:
                        responses.append(edited)
                        continue
                    if not claim.posted:
                        await self._step(claim, "sending")
                        claim.posted = True
                sent = await send_on([activity])
                responses += sent
                claim.activity_ids += [response.id for response in sent if response.id]
            return responses

        context.on_send_activities(send)

    async def _edit_placeholder(
        self, claim: Claim, context: TurnContext, activity: Activity
    ) -> ResourceResponse | None:
        placeholder, claim.replaces = claim.replaces, None
        if placeholder is None or not context.channel.supports_update:
            return None
        try:
            await context.update_activity(activity.replace(id=placeholder))
        except ChannelError as error:
            if error.decision != "gone":
                raise
            # The user deleted the placeholder: the answer comes as a new message.
            return None
        claim.activity_ids.append(placeholder)
        return ResourceResponse(id=placeholder)

    async def _claim(
        self,
        item: WorkItem,
        conversation_id: str,
        what: str,
        expectation: Callable[[], Awaitable[Document | None]] | None,
    ) -> Claim | datetime | str:
        """The claim; or how the delivery ended before; or when to look again, because another worker holds it."""
        token = self._new_id()
        while True:
            expected = await expectation() if expectation else None
            body: JsonObject = {
                "id": id_for("delivery", item.key),
                CONVERSATIONS.partition_key: conversation_id,
                "kind": "delivery",
                "key": item.key,
                "what": what,
                "replaces": expected.body["replaces"] if expected else None,
                "created": time_text(self._now()),
                "ttl": int(KEPT.total_seconds()),
                **self._held("claimed", token),
            }
            operations: list[Operation] = [Create(body)]
            if expected is not None:
                operations.append(Delete(expected.id, expected.etag))
            try:
                await self._store.batch(CONVERSATIONS, conversation_id, operations)
            except DocumentExists:
                # The work is known: or it is our own write, repeated by the client after a time-out; the token tells.
                break
            except DocumentChanged:
                # Another callback used this expectation up; there may be a later one for us.
                continue
            break
        stored = await self._store.read(CONVERSATIONS, conversation_id, str(body["id"]))
        if stored is None:
            raise StoreUnavailable(f"The ledger's record of {item.key!r} was written and is not found")
        if stored.body["token"] == token:
            return Claim(stored, replaces=stored.body["replaces"])
        return await self._take_over(stored, token, item, conversation_id)

    async def _take_over(
        self, stored: Document, token: str, item: WorkItem, conversation_id: str
    ) -> Claim | datetime | str:
        status = stored.body["status"]
        if status in SETTLED:
            return f"done before ({status})"
        held_until = parse_time(stored.body["heldUntil"])
        if held_until > self._now():
            return held_until
        claim = Claim(stored, replaces=stored.body["replaces"])
        if status == "sending":
            what = stored.body["what"]
            return await self._park(item, conversation_id, what, claim, "Unsure", "a worker ended while it sent")
        await self._write(claim, self._held("claimed", token))
        return claim

    def _held(self, status: str, token: str) -> dict[str, Any]:
        now = self._now()
        return {"status": status, "token": token, "heldUntil": time_text(now + LEASE), "updated": time_text(now)}

    async def _step(self, claim: Claim, status: str, **changes: Any) -> None:
        await self._write(claim, {**self._held(status, claim.document.body["token"]), **changes})

    async def _write(self, claim: Claim, changes: dict[str, Any]) -> None:
        body = {**claim.document.body, **changes}
        try:
            claim.document = await self._store.replace(CONVERSATIONS, body, claim.document.etag)
        except DocumentChanged as error:
            raise _TakenOver from error

    async def _after_channel_error(
        self, item: WorkItem, conversation_id: str, what: str, claim: Claim | None, error: ChannelError
    ) -> str:
        logger.warning("Delivery %r: %s", item.key, error)
        posted = claim is not None and claim.posted
        done = bool(claim and claim.activity_ids)
        if claim is not None and error.decision in ("unsent", "throttled") and not done:
            # Nothing was sent: the claim goes back, and the work is tried again when the channel wants it.
            claim.posted = False
            if error.decision == "throttled":
                await self._release(claim)
                at = self._now() + (error.retry_after or THROTTLED)
                await self._queue.send(item.put_back().to_message(at=at))
                return f"throttled until {at:%H:%M:%S}"
            return await self._again(item, conversation_id, what, claim, "ChannelUnreachable", str(error))
        if error.decision == "ambiguous" and not posted:
            # It was an edit, and an edit may be repeated.
            return await self._again(item, conversation_id, what, claim, "ChannelFailed", str(error))
        if error.decision in ("ambiguous", "unsent", "throttled"):
            return await self._park(item, conversation_id, what, claim, "Unsure", str(error))
        reason = {"gone": "ConversationGone", "blocked": "Blocked", "misconfigured": "Misconfigured"}.get(
            error.decision, "Rejected"
        )
        return await self._bury(item, conversation_id, what, claim, reason, str(error))

    async def _again(
        self, item: WorkItem, conversation_id: str, what: str, claim: Claim | None, reason: str, explanation: str
    ) -> str:
        """Try later: first the claim goes back, then the copy onto the queue, and only then is the message settled."""
        following = item.next_attempt()
        if following is None:
            return await self._bury(item, conversation_id, what, claim, reason, explanation)
        if claim is not None and not claim.posted:
            # Where the store is not reached either, the next attempt waits until the lease is over.
            with suppress(StoreError):
                await self._release(claim)
        again, wait = following
        await self._queue.send(again.to_message(at=self._now() + wait))
        return f"failed ({reason}), again in {wait.total_seconds():.0f} s"

    async def _release(self, claim: Claim | None) -> None:
        if claim is not None:
            changes = {"status": "claimed", "token": "", "heldUntil": time_text(self._now())}
            await self._write(claim, changes)

    async def _park(
        self, item: WorkItem, conversation_id: str, what: str, claim: Claim | None, reason: str, explanation: str
    ) -> str:
        sentence = f"It may have been sent ({explanation}); look at the conversation before sending it again."
        await self._end("parked", item, conversation_id, what, claim, reason, sentence)
        return f"parked ({reason})"

    async def _bury(
        self, item: WorkItem, conversation_id: str, what: str, claim: Claim | None, reason: str, explanation: str
    ) -> str:
        await self._end("dead", item, conversation_id, what, claim, reason, explanation)
        return f"dead ({reason})"

    async def _end(
        self,
        status: str,
        item: WorkItem,
        conversation_id: str,
        what: str,
        claim: Claim | None,
        reason: str,
        explanation: str,
    ) -> None:
        # The dead letter first: a death between the two writes must leave too much said, not too little.
        await self._dead_letters.add(
            key=item.key,
            what=what,
            reason=reason,
            explanation=explanation,
            payload=item.to_message().body,
            conversation=conversation_id,
            attempts=item.attempt,
        )
        if claim is not None:
            await self._step(claim, status, reason=reason)
