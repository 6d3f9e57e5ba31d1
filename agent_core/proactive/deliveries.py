"""Proactive work, done once whatever dies and however often it is asked for; and what its failures call for.

The channel's "create activity" takes no idempotency key. So between the ledger's `sending` and the answer of the
channel there is a moment at which a death leaves the outcome unknown. An edit has no such moment: it can be repeated.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from agent_core.activity.activity import Activity
from agent_core.activity.conversation_reference import ResourceResponse
from agent_core.errors import (
    ChannelError,
    ConversationNotFound,
    ConversationSuspended,
    NotAllowed,
    QueueUnavailable,
    SignInRequired,
    StoreError,
)
from agent_core.proactive.awaiting_sign_in import WAITS_FOR, AwaitingSignIn
from agent_core.proactive.claims import Mark, TakenOver
from agent_core.proactive.dead_letters import DeadLetters
from agent_core.proactive.ledger import Claim, Expectation, Held, Ledger, Settled, Unsure
from agent_core.proactive.queue import Queue
from agent_core.proactive.work import WorkItem
from agent_core.turn.stream_protocol import is_stream
from agent_core.turn.turn_context import TurnContext

logger = logging.getLogger(__name__)

# A channel that throttles and does not say for how long.
THROTTLED = timedelta(seconds=30)
REASONS = {"gone": "ConversationGone", "blocked": "Blocked", "misconfigured": "Misconfigured", "rejected": "Rejected"}


class _CannotBeQueued(Exception):
    """The work does not fit into a message of the queue."""


@dataclass(slots=True)
class Delivery:
    """One piece of proactive work in the hands of a worker.

    Attributes:
        what: for people, such as `callback 'order_placed'`.
        claim: the ledger's record, once it is ours.
        posted: a new message was begun, so a repeat could double it.
        arrived: the channel took something; it need not have given an id for it.
        activity_ids: what the channel said it has.
        placeholder: the id of a message that the next one edits, until one did.
        apologising: the work has failed for good, and the error handler speaks.
        settled: the ledger's last step is written together with the turn's state.
    """

    item: WorkItem
    conversation_id: str
    what: str
    claim: Claim | None = None
    posted: bool = False
    arrived: bool = False
    activity_ids: list[str] = field(default_factory=list)
    placeholder: str | None = None
    apologising: bool = False
    settled: bool = False
    # A handler may send from several tasks at once; the ledger is written by one after the other.
    turns: asyncio.Lock = field(default_factory=asyncio.Lock)

    def note(self, sent: Sequence[ResourceResponse]) -> None:
        """The channel has these; every part of a stream comes with the id of the stream."""
        self.arrived = True
        self.activity_ids += [each.id for each in sent if each.id and each.id not in self.activity_ids]

    @property
    def attempted_often_enough(self) -> bool:
        """Whether this was the last attempt."""
        return self.item.next_attempt() is None


class Deliveries:
    """Runs pieces of work under the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        queue: Queue,
        dead_letters: DeadLetters,
        awaiting: AwaitingSignIn,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._dead_letters = dead_letters
        self._awaiting = awaiting
        self._now = now

    async def deliver(
        self,
        item: WorkItem,
        conversation_id: str,
        run: Callable[[Delivery], Awaitable[None]],
        *,
        what: str,
        expectation: Expectation | None = None,
    ) -> bool:
        """Do this work once; logs one line. True if it was done now.

        When this returns the queue message can be settled: the work is done, was done before, is a dead letter, or a
        copy of it waits on the queue.

        Args:
            run: the work; it calls `watch` on its turn's context, and lets an error handler speak if `gives_up` says.
            expectation: looks up the expectation that a callback fulfils; the claim uses it up.

        Raises:
            AgentError: not even the queue or the store was reached; let the message be delivered again.
        """
        delivery = Delivery(item, conversation_id, what)
        started = self._now()
        outcome = "failed"
        try:
            try:
                outcome = await self._attempt(delivery, run, expectation)
            except _CannotBeQueued as error:
                outcome = await self._bury(delivery, "TooLarge", str(error))
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

    async def _attempt(
        self, delivery: Delivery, run: Callable[[Delivery], Awaitable[None]], expectation: Expectation | None
    ) -> str:
        item = delivery.item
        try:
            found = await self._ledger.claim(item.key, delivery.conversation_id, delivery.what, expectation)
            if isinstance(found, Settled):
                return f"done before ({found.status})"
            if isinstance(found, Held):
                await self._put(item.put_back(), found.until)
                return f"put off until {found.until:%H:%M:%S}, another worker has it"
            if isinstance(found, Unsure):
                # Whatever fails from here on, this is never given back as if it had not been begun.
                delivery.claim, delivery.posted = found.claim, True
                return await self._park(delivery, "Unsure", "a worker ended while it sent")
            delivery.claim, delivery.placeholder = found, found.replaces
            await run(delivery)
            if not delivery.settled:
                await self._ledger.step(found, "sent", activityIds=delivery.activity_ids)
            return "sent"
        except ChannelError as error:
            logger.warning("Delivery %r: %s", item.key, error)
            return await self._after_channel_error(delivery, error)
        except SignInRequired as error:
            return await self._await_sign_in(delivery, error)
        except NotAllowed as error:
            return await self._bury(delivery, error.code, str(error))
        except TakenOver:
            # Our lease was over, and another worker went on; what we sent so far it finds as `sending`.
            return "left to another worker"
        except StoreError as error:
            logger.warning("Delivery %r: %s", item.key, error)
            return await self._again(delivery, "StoreUnavailable", str(error))
        except Exception as error:
            if isinstance(error, (ConversationNotFound, ConversationSuspended)) and _is_its_own(delivery, error):
                return await self._bury(delivery, type(error).__name__, str(error))
            logger.exception("Delivery %r failed", item.key)
            if delivery.posted:
                return await self._park(delivery, "FailedAfterSending", type(error).__name__)
            explanation = f"The handler raised {type(error).__name__}; its log has the traceback."
            return await self._again(delivery, "HandlerFailed", explanation)

    def watch(self, delivery: Delivery, context: TurnContext) -> None:
        """Let the ledger see what this turn sends: the first message edits the placeholder, and no other message
        leaves before the ledger says `sending`.

        A stream is a message from its first update on. Where a placeholder waits there is none: only one message at
        the end can edit it.
        """
        if delivery.placeholder is not None and context.channel.supports_update:
            context.buffer_streams()

        async def send(
            context: TurnContext,
            activities: Sequence[Activity],
            send_on: Callable[[Sequence[Activity]], Awaitable[list[ResourceResponse]]],
        ) -> list[ResourceResponse]:
            responses = []
            for activity in activities:
                is_message = activity.type == "message" or is_stream(activity)
                if is_message:
                    edited = await self._edit_placeholder(delivery, context, activity)
                    if edited is not None:
                        responses.append(edited)
                        continue
                    await self._before_new_message(delivery)
                sent = await send_on([activity])
                responses += sent
                if is_message:
                    delivery.note(sent)
            return responses

        async def send_in_turn(
            context: TurnContext,
            activities: Sequence[Activity],
            send_on: Callable[[Sequence[Activity]], Awaitable[list[ResourceResponse]]],
        ) -> list[ResourceResponse]:
            async with delivery.turns:
                return await send(context, activities, send_on)

        context.on_send_activities(send_in_turn)

    def last_step(self, delivery: Delivery) -> Mark | None:
        """The ledger's `sent`, for the batch in which the turn's state is kept."""
        if delivery.claim is None:
            return None
        delivery.settled = True
        return self._ledger.mark(delivery.claim, "sent", activityIds=delivery.activity_ids)

    def gives_up(self, delivery: Delivery, error: Exception) -> bool:
        """Whether the work fails for good with this, so that the error handler may tell the user.

        It may not while another attempt is to come, which may succeed, nor about a channel or store that fails.
        """
        if isinstance(error, (ChannelError, NotAllowed, SignInRequired, StoreError, QueueUnavailable, TakenOver)):
            return False
        delivery.apologising = delivery.posted or delivery.attempted_often_enough
        return delivery.apologising

    async def _before_new_message(self, delivery: Delivery) -> None:
        if delivery.posted or delivery.apologising or delivery.claim is None:
            return
        await self._ledger.step(delivery.claim, "sending")
        delivery.posted = True

    async def _edit_placeholder(
        self, delivery: Delivery, context: TurnContext, activity: Activity
    ) -> ResourceResponse | None:
        placeholder, delivery.placeholder = delivery.placeholder, None
        if placeholder is None or not context.channel.supports_update:
            return None
        try:
            await context.update_activity(activity.replace(id=placeholder))
        except ChannelError as error:
            if error.decision != "gone":
                raise
            # The user deleted the placeholder: the answer comes as a new message.
            return None
        delivery.arrived = True
        delivery.activity_ids.append(placeholder)
        return ResourceResponse(id=placeholder)

    async def _after_channel_error(self, delivery: Delivery, error: ChannelError) -> str:
        if error.decision in ("unsent", "throttled") and not delivery.arrived:
            # Nothing was sent: the claim goes back, and the work is tried again when the channel wants it.
            delivery.posted = False
            if error.decision == "unsent":
                return await self._again(delivery, "ChannelUnreachable", str(error))
            await self._release(delivery)
            # A channel that keeps saying "in a second" is asked less and less often.
            patience = min(THROTTLED, timedelta(seconds=2 ** min(delivery.item.wait, 10) - 1))
            at = self._now() + max(error.retry_after or THROTTLED, patience)
            await self._put(delivery.item.put_back(), at)
            return f"throttled until {at:%H:%M:%S}"
        if error.decision == "ambiguous" and not delivery.posted:
            # It was an edit, and an edit may be repeated.
            return await self._again(delivery, "ChannelFailed", str(error))
        if error.decision in ("ambiguous", "unsent", "throttled"):
            return await self._park(delivery, "Unsure", str(error))
        return await self._bury(delivery, REASONS[error.decision], str(error))

    async def _await_sign_in(self, delivery: Delivery, error: SignInRequired) -> str:
        """Nobody is asked in a turn that nobody began: the work waits until the user has signed in by other means."""
        if delivery.posted:
            sentence = "It said something before it asked for the user's token, so it cannot run again; ask first"
            return await self._bury(delivery, "SignInRequired", sentence)
        item = delivery.item
        named = f"{item.kind}:{len(item.scope)}:{item.scope}{item.key}"
        await self._awaiting.wait(
            item,
            error,
            named=named,
            conversation_id=delivery.conversation_id,
            what=delivery.what,
            most=WAITS_FOR,
        )
        await self._release(delivery)
        return f"waits for a sign-in to {error.name!r}"

    async def _again(self, delivery: Delivery, reason: str, explanation: str) -> str:
        """Try later: first the claim goes back, then the copy onto the queue, and only then is the message settled."""
        following = delivery.item.next_attempt()
        if following is None:
            return await self._bury(delivery, reason, explanation)
        # Where the store is not reached either, the next attempt waits until the lease is over.
        with suppress(StoreError):
            await self._release(delivery)
        again, wait = following
        await self._put(again, self._now() + wait)
        return f"failed ({reason}), again in {wait.total_seconds():.0f} s"

    async def _put(self, item: WorkItem, at: datetime) -> None:
        try:
            await self._queue.send(item.to_message(at=at))
        except ValueError as error:
            raise _CannotBeQueued(f"It failed, and to be tried again it is too large for the queue: {error}") from error

    async def _release(self, delivery: Delivery) -> None:
        if delivery.claim is not None and not delivery.posted:
            await self._ledger.release(delivery.claim)

    async def _park(self, delivery: Delivery, reason: str, explanation: str) -> str:
        sentence = f"It may have been sent ({explanation}); look at the conversation before sending it again."
        await self._end(delivery, "parked", reason, sentence)
        return f"parked ({reason})"

    async def _bury(self, delivery: Delivery, reason: str, explanation: str) -> str:
        await self._end(delivery, "dead", reason, explanation)
        return f"dead ({reason})"

    async def _end(self, delivery: Delivery, status: str, reason: str, explanation: str) -> None:
        # The dead letter first: a death between the two writes must leave too much said, not too little.
        await self._dead_letters.add(
            key=delivery.item.key,
            what=delivery.what,
            reason=reason,
            explanation=explanation,
            payload=delivery.item.to_message().body,
            conversation=delivery.conversation_id,
            attempts=delivery.item.attempt,
        )
        if delivery.claim is not None:
            await self._ledger.step(delivery.claim, status, reason=reason)


def _is_its_own(delivery: Delivery, error: ConversationNotFound | ConversationSuspended) -> bool:
    """Whether the delivery's conversation is meant, and not one that its handler spoke to besides."""
    return not delivery.posted and error.conversation_id == delivery.conversation_id
