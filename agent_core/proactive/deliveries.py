"""Proactive work, done once whatever dies and however often it is asked for; and what its failures call for.

The channel's "create activity" takes no idempotency key. So between the ledger's `sending` and the answer of the
channel there is a moment at which a death leaves the outcome unknown. An edit has no such moment: it can be repeated.
"""

from __future__ import annotations

import logging
import random as random_numbers
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from agent_core.errors import (
    ChannelError,
    ConversationNotFound,
    ConversationSuspended,
    DocumentChanged,
    MessageTooLarge,
    NotAllowed,
    QueueUnavailable,
    SignInRequired,
    StoreError,
)
from agent_core.proactive.awaiting_sign_in import WAITS_FOR, AwaitingSignIn
from agent_core.proactive.claims import Mark, TakenOver
from agent_core.proactive.conversation import Counterpart
from agent_core.proactive.conversations import Conversations
from agent_core.proactive.dead_letters import UNDECIDED, DeadLetters
from agent_core.proactive.delivery import Delivery
from agent_core.proactive.delivery_gate import DeliveryGate, HeldBack, Notice, NotWanted
from agent_core.proactive.ledger import (
    KEPT,
    Claim,
    Expectation,
    Found,
    Held,
    InLine,
    Ledger,
    OtherContent,
    Settled,
    Unsure,
    WhenUnsure,
    Work,
)
from agent_core.proactive.opening import Find, Openings
from agent_core.proactive.queue import Queue
from agent_core.proactive.throttle import Throttle
from agent_core.proactive.waiting_line import Present, WaitingLine
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import parse_time, time_text

logger = logging.getLogger(__name__)

# A channel that throttles and does not say for how long.
THROTTLED = timedelta(seconds=30)
# Who waited for the conversation's turn in vain comes again after this.
IN_LINE = timedelta(seconds=1)
# A copy of what another worker does looks again after this: it is done then, or its worker's lease is over soon.
LOOKS_AGAIN = timedelta(seconds=5)
# A callback may be faster than the turn that stores its conversation; after so many attempts nobody stores it any more.
ATTEMPTS_TO_FIND = 3
REASONS = {"gone": "ConversationGone", "blocked": "Blocked", "misconfigured": "Misconfigured", "rejected": "Rejected"}

Run = Callable[[Delivery], Awaitable[None]]
Opening = Callable[[Present], Awaitable[tuple[Found, datetime | None]]]


class _CannotBeQueued(Exception):
    """The work does not fit into a message of the queue."""


class Deliveries:
    """Runs pieces of work under the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        queue: Queue,
        conversations: Conversations,
        dead_letters: DeadLetters,
        awaiting: AwaitingSignIn,
        throttle: Throttle,
        gate: DeliveryGate,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[timedelta], Awaitable[None]],
        random: Callable[[], float] = random_numbers.random,
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._dead_letters = dead_letters
        self._awaiting = awaiting
        self._throttle = throttle
        self._gate = gate
        self._now = now
        self._line = WaitingLine(now=now, sleep=sleep, random=random)
        self._openings = Openings(ledger, conversations, throttle, gate, self._line)

    async def deliver(
        self,
        item: WorkItem,
        conversation_id: str,
        find: Find | None,
        run: Run,
        *,
        what: str,
        expectation: Expectation | None = None,
        when_unsure: WhenUnsure = "park",
        notice: Notice | None = None,
        on_hold: Callable[[datetime], Awaitable[None]] | None = None,
        counterpart: Counterpart | None = None,
    ) -> bool:
        """Do this work once; logs one line. True if it was done now.

        When this returns the queue message can be settled: the work is done, was done before, is a dead letter, or a
        copy of it waits on the queue. Work of one conversation is done one after the other, first come first served.

        Args:
            find: reads the conversation; None for work that brings its activity. It may raise `HeldBack` and
                `NotWanted`.
            run: the work; it calls `delivery.watch` on its turn's context, and lets an error handler speak if
                `gives_up` says.
            expectation: looks up the expectation that a callback fulfils; it is used up.
            when_unsure: what becomes of a message of which nobody knows whether it arrived.
            notice: it is a notification, to be held or dropped as its recipient wants; not once a part of it was sent.
            on_hold: called before it is held, with the time until which what the work needs must be kept.
            counterpart: with whom the conversation probably is.

        Raises:
            AgentError: not even the queue or the store was reached; let the message be delivered again.
        """
        work = Work(item.key, conversation_id, what, item.content, when_unsure)
        delivery = Delivery(item, work, self._ledger, notice, on_hold)
        opening = partial(self._openings.open, delivery, find, expectation, counterpart)
        present = self._line.at(conversation_id)
        present.keys.append(item.key)
        started = self._now()
        outcome: str | None = "failed"
        try:
            # Whoever stands behind one that is before it among all hosts lets that one pass.
            while (outcome := await self._in_turn(delivery, present, opening, run)) is None:
                pass
        finally:
            present.keys.remove(item.key)
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

    async def _in_turn(self, delivery: Delivery, present: Present, opening: Opening, run: Run) -> str | None:
        """How it came out; None if another one of this process is before it."""
        async with present.lock:
            try:
                return await self._attempt(delivery, present, opening, run)
            except _CannotBeQueued as error:
                return await self._bury(delivery, "TooLarge", str(error))
            except TakenOver:
                # Our lease was over, and another worker went on; what we sent so far it finds in the record.
                return "left to another worker"
            finally:
                await delivery.let_go()

    async def _attempt(self, delivery: Delivery, present: Present, opening: Opening, run: Run) -> str | None:
        item = delivery.item
        try:
            found, until = await opening(present)
            if isinstance(found, Settled):
                await self._gone(delivery)
                return f"done before ({found.status})"
            if isinstance(found, Held):
                again = min(found.until, self._now() + LOOKS_AGAIN)
                await self._put(item.put_back(), again)
                return f"put off until {again:%H:%M:%S}, another worker has it"
            if isinstance(found, InLine):
                if present.hold_up(found):
                    return None
                await self._put(item.put_back(), max(self._now() + IN_LINE, found.not_before or self._now()))
                return "put off, another turn of the conversation is before it"
            if isinstance(found, OtherContent):
                return await self._conflict(delivery)
            if isinstance(found, Unsure):
                delivery.begin(found.claim)
                return await self._park(delivery, "Unsure", "a worker ended while it sent")
            if until is not None:
                return await self._put_off(delivery, until)
            await self._check(delivery, found)
            await run(delivery)
            if delivery.unknown:
                return await self._park(delivery, "Unsure", "the handler went on after a send of unknown outcome")
            if not delivery.settled:
                await self._ledger.end(found, "sent", steps=delivery.steps, **delivery.account)
            await self._gone(delivery)
            return "sent"
        except HeldBack as held:
            return await self._hold(delivery, held)
        except NotWanted as unwanted:
            return await self._drop(delivery, unwanted)
        except ChannelError as error:
            logger.warning("Delivery %r: %s", item.key, error)
            return await self._after_channel_error(delivery, error)
        except NotAllowed as error:
            return await self._bury(delivery, error.code, str(error))
        except MessageTooLarge as error:
            return await self._bury(delivery, "MessageTooLarge", str(error))
        except SignInRequired as error:
            return await self._await_sign_in(delivery, error)
        except TakenOver:
            raise  # no failure of the handler; what deals with a failure may find it out as well
        except StoreError as error:
            logger.warning("Delivery %r: %s", item.key, error)
            return await self._again(delivery, "StoreUnavailable", str(error))
        except Exception as error:
            if isinstance(error, (ConversationNotFound, ConversationSuspended)) and _is_its_own(delivery, error):
                may_come = isinstance(error, ConversationNotFound) and delivery.found is None
                if may_come and item.attempt < ATTEMPTS_TO_FIND:
                    return await self._again(delivery, type(error).__name__, str(error))
                return await self._bury(delivery, type(error).__name__, str(error))
            logger.exception("Delivery %r failed", item.key)
            explanation = f"The handler raised {type(error).__name__}; its log has the traceback."
            if delivery.unknown and delivery.parks:
                return await self._park(delivery, "FailedAfterSending", type(error).__name__)
            return await self._again(delivery, "HandlerFailed", explanation)

    async def _check(self, delivery: Delivery, claim: Claim) -> None:
        if delivery.notice is not None and not delivery.steps:
            created = parse_time(claim.document.body["created"])
            delivery.why = await self._gate.check(
                delivery.conversation, delivery.preferences, delivery.work.key, delivery.notice, created
            )

    async def _gone(self, delivery: Delivery) -> None:
        """Where this is not kept, those after it wait a little longer, and not for ever."""
        if delivery.notice is not None and delivery.found is not None:
            with suppress(StoreError):
                await self._gate.gone(delivery.found, delivery.preferences, delivery.work.key)

    async def last_marks(self, delivery: Delivery) -> list[Mark]:
        """The ledger's `sent`, for the batch in which the turn's state is kept."""
        if delivery.claim is None or delivery.unknown:
            return []
        if delivery.claim.fulfils is not None:
            # Nothing was sent, so nothing was used up. Where another callback was as fast, that one has fulfilled it.
            with suppress(DocumentChanged):
                await self._ledger.step(delivery.claim, "claimed", steps=delivery.steps)
        await delivery.let_go()
        delivery.settled = True
        return self._ledger.last_marks(delivery.claim, "sent", steps=delivery.steps, **delivery.account)

    def gives_up(self, delivery: Delivery, error: Exception) -> bool:
        """Whether the work fails for good with this, so that the error handler may tell the user.

        It may not while another attempt is to come, which may succeed, nor about a channel or store that fails.
        """
        if isinstance(
            error, (ChannelError, MessageTooLarge, NotAllowed, SignInRequired, StoreError, QueueUnavailable, TakenOver)
        ):
            return False
        delivery.apologising = self._following(delivery.item) is None or (delivery.unknown and delivery.parks)
        return delivery.apologising

    # -- what failures call for

    async def _after_channel_error(self, delivery: Delivery, error: ChannelError) -> str:
        if error.decision in ("ambiguous", "throttled", "unsent") and delivery.unknown and delivery.parks:
            return await self._park(delivery, "Unsure", str(error))
        if error.decision == "throttled":
            # A channel that keeps saying "in a second" is asked less and less often.
            patience = min(THROTTLED, timedelta(seconds=2 ** min(delivery.item.wait, 10) - 1))
            until = self._now() + max(error.retry_after or THROTTLED, patience)
            tenant_id = delivery.found.tenant_id if delivery.found else None
            await self._throttle.note(tenant_id, delivery.work.conversation_id, until)
            return await self._put_off(delivery, until)
        if error.decision == "unsent":
            return await self._again(delivery, "ChannelUnreachable", str(error))
        if error.decision == "ambiguous":
            # It was an edit, which may be repeated; or a message that is to be repeated rather than missed.
            return await self._again(delivery, "ChannelFailed", str(error))
        return await self._bury(delivery, REASONS[error.decision], str(error))

    async def _put_off(self, delivery: Delivery, until: datetime) -> str:
        """Waiting for a channel that throttles does not count as an attempt."""
        if delivery.item.is_over_at(until):
            return await self._bury(delivery, "Throttled", "The channel throttled until its time to live was over")
        outcome = f"throttled until {until:%H:%M:%S}"
        await self._release(delivery, until, why=outcome, postponedUntil=time_text(until))
        await self._put(delivery.item.put_back(), until)
        return outcome

    async def _hold(self, delivery: Delivery, held: HeldBack) -> str:
        """Waiting for people does not count as an attempt either, and gives up the place in line."""
        if delivery.on_hold is not None:
            await delivery.on_hold(held.until)
        kept = KEPT + max(timedelta(0), held.until - self._now())
        until, ttl = time_text(held.until), int(kept.total_seconds())
        await self._release(delivery, None, status="held", why=held.reason, postponedUntil=until, ttl=ttl)
        await self._put(delivery.item.put_back(), held.until)
        return held.reason

    async def _drop(self, delivery: Delivery, unwanted: NotWanted) -> str:
        if delivery.claim is not None:
            await delivery.let_go()
            await self._ledger.end(delivery.claim, "dropped", **{**delivery.account, "why": unwanted.reason})
        await self._gone(delivery)
        return unwanted.reason

    async def _await_sign_in(self, delivery: Delivery, error: SignInRequired) -> str:
        """Nobody is asked in a turn that nobody began: the work waits until the user has signed in by other means."""
        item = delivery.item
        named = f"{item.kind}:{len(item.scope)}:{item.scope}{item.key}"
        await self._awaiting.wait(
            item,
            error,
            named=named,
            conversation_id=delivery.work.conversation_id,
            what=delivery.work.what,
            most=WAITS_FOR,
        )
        outcome = f"waits for a sign-in to {error.name!r}"
        await self._release(delivery, None, why=outcome)
        return outcome

    async def _again(self, delivery: Delivery, reason: str, explanation: str) -> str:
        """Try later: first the claim goes back, then the copy onto the queue, and only then is the message settled."""
        following = self._following(delivery.item)
        if following is None:
            return await self._bury(delivery, reason, explanation)
        again, wait = following
        # Where the store is not reached either, the next attempt waits until the lease is over.
        at, failed = self._now() + wait, f"failed ({reason})"
        with suppress(StoreError):
            await self._release(delivery, at, why=f"{failed}: {explanation}", postponedUntil=time_text(at))
        await self._put(again, at)
        return f"{failed}, again in {wait.total_seconds():.0f} s"

    def _following(self, item: WorkItem) -> tuple[WorkItem, timedelta] | None:
        """The next attempt and how long to wait; None after the last, and where its time to live ends before."""
        following = item.next_attempt()
        return None if following is None or item.is_over_at(self._now() + following[1]) else following

    async def _put(self, item: WorkItem, at: datetime) -> None:
        try:
            await self._queue.send(item.to_message(at=at))
        except ValueError as error:
            raise _CannotBeQueued(f"It failed, and to be tried again it is too large for the queue: {error}") from error

    async def _release(self, delivery: Delivery, back_at: datetime | None, **changes: Any) -> None:
        if delivery.claim is None:
            return
        await delivery.let_go()
        if delivery.unknown and delivery.parks:
            return  # never given back as if it had not been begun
        known = [step for step in delivery.steps if step["status"] == "sent"]
        await self._ledger.release(delivery.claim, back_at=back_at, steps=known, **{**delivery.account, **changes})

    async def _conflict(self, delivery: Delivery) -> str:
        """The publisher used one key for two different things: the first one stays, the second is not done."""
        await self._dead_letters.add(
            key=f"{delivery.item.key} conflict {delivery.item.content[:12]}",
            what=delivery.work.what,
            reason="IdempotencyConflict",
            explanation="Other work was done under this key before; publish it anew with an id of its own",
            payload=delivery.item.to_message().body,
            conversation=delivery.work.conversation_id,
            attempts=delivery.item.attempt,
        )
        return "dead (IdempotencyConflict)"

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
            what=delivery.work.what,
            reason=reason,
            explanation=explanation,
            payload=delivery.item.to_message().body,
            conversation=delivery.work.conversation_id,
            attempts=delivery.item.attempt,
        )
        if delivery.claim is not None:
            await delivery.let_go()
            # The record tells a replay what was sent; so it stays as long as the dead letter may.
            account = {**delivery.account, "why": explanation, "ttl": UNDECIDED}
            await self._ledger.end(delivery.claim, status, reason=reason, steps=delivery.steps, **account)
        await self._gone(delivery)


def _is_its_own(delivery: Delivery, error: ConversationNotFound | ConversationSuspended) -> bool:
    """Whether the delivery's conversation is meant, and not one that its handler spoke to besides."""
    return not delivery.steps and error.conversation_id == delivery.work.conversation_id
