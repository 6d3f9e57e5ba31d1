"""The timer's tick: what is due goes to the work queue, each occurrence once, whoever ticks and however often.

A schedule that is due is first claimed, then its occurrences are put on the queue, then it moves on to what is next.
A claim says by which time it was decided what is due, and hides the schedule from other timers for a while. Whoever
finds it again after a death repeats the same decision, and so names the same occurrences; the queue and the ledger drop
those that were there already.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from agent_core.errors import QueueUnavailable, StoreError
from agent_core.proactive.dead_letters import DeadLetters
from agent_core.proactive.misfires import tick
from agent_core.proactive.queue import Queue
from agent_core.proactive.schedules import KEPT, SHARDS, DroppedStretch, HandingOver, Schedule, Schedules, in_batches
from agent_core.store.document_store import Document

logger = logging.getLogger(__name__)

# What is due within this waits on the queue until its exact time; more than a minute, for a tick may come late.
AHEAD = timedelta(seconds=90)
# Who died while it handed over holds the rest up no longer than this.
LEASE = timedelta(minutes=1)
# Shards at once: the store answers several as fast as one.
AT_ONCE = 4
# A shard that another timer works on is looked at again so often in one tick.
VISITS = 3
PAGE = 500


@dataclass(slots=True)
class TickReport:
    """What a tick did.

    Attributes:
        handed_over: occurrences that were put on the queue.
        schedules: how many they and what was dropped belong to.
        finished: whether nothing that is due was left for want of time.
    """

    handed_over: int = 0
    schedules: int = 0
    finished: bool = True


class Timer:
    """Hands over what is due."""

    def __init__(
        self, schedules: Schedules, queue: Queue, dead_letters: DeadLetters, *, now: Callable[[], datetime]
    ) -> None:
        self._schedules = schedules
        self._queue = queue
        self._dead_letters = dead_letters
        self._now = now

    async def tick(self, now: datetime, *, until: datetime | None = None) -> TickReport:
        """Hand over everything that is due by `now`, and what will be within `AHEAD`, oldest first in each shard.

        Two at once share the work: one that meets the other in a shard goes on with the next.

        Args:
            until: begin no further page then; what is left is for the next tick.

        Raises:
            StoreUnavailable, QueueUnavailable: what was not handed over comes with a later tick; of shards that did
                not fail, all was.
        """
        report = TickReport()
        shards = deque((shard, 1) for shard in SHARDS)
        failures: list[Exception] = []

        async def work() -> None:
            while shards:
                shard, visit = shards.popleft()
                try:
                    if not await self._work_on(shard, now, until, report) and visit < VISITS:
                        shards.append((shard, visit + 1))
                except Exception as error:
                    # The others do not wait for this one, which may fail with every tick.
                    failures.append(error)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        if report.schedules:
            left = "" if report.finished else "; what is left comes with the next tick"
            logger.info(
                "Timer: %d occurrences of %d schedules handed over%s", report.handed_over, report.schedules, left
            )
        if failures:
            raise failures[0]
        return report

    async def _work_on(self, shard: str, now: datetime, until: datetime | None, report: TickReport) -> bool:
        """One shard, page by page; False if another timer is at it."""
        while True:
            documents = await self._schedules.due(shard, now + AHEAD, limit=PAGE)
            if not documents:
                return True
            for batch in in_batches(documents):
                if until is not None and self._now() >= until:
                    report.finished = False
                    return True
                if not await self._hand_over(batch, now, report):
                    return False

    async def _hand_over(self, documents: Sequence[Document], now: datetime, report: TickReport) -> bool:
        """Claim, put on the queue, move on; False if another one had claimed some of them."""
        due = [schedule for document in documents if (schedule := await self._readable(document)) is not None]
        ours = await self._claim(due, now, AHEAD)
        occurrences = await self._pass_on(ours)
        report.handed_over += occurrences
        report.schedules += len(ours)
        return len(ours) == len(due)

    async def _claim(self, due: Sequence[Schedule], now: datetime, ahead: timedelta) -> list[Schedule]:
        """Those that are ours by now; of two callers at once each gets what the other does not.

        By the times of an earlier claim, if whoever made it did not come to the end.
        """
        # The lease begins with the claim, however long ago the tick began.
        hidden = max(now, self._now()) + LEASE + AHEAD
        claimed = [replace(each, claim=each.claim or HandingOver(now, now + ahead)) for each in due]
        written = await self._schedules.write([(_document(each), each.with_claim(hidden)) for each in claimed])
        return [replace(each, stored=document) for each, document in zip(claimed, written, strict=True) if document]

    async def hand_over_now(self, schedule: Schedule, *, ahead: timedelta = AHEAD) -> None:
        """Put what is near of a schedule that was just stored on the queue, without waiting for a tick.

        Never raises for the queue or the store: the timer does what was not done.
        """
        now = self._now()
        if schedule.status != "scheduled" or schedule.next is None or schedule.next > now + ahead:
            return
        try:
            await self._pass_on(await self._claim([schedule], now, ahead))
        except (QueueUnavailable, StoreError) as error:
            logger.warning("Schedule %r comes with the timer, for it was not handed over: %s", schedule.id, error)

    async def _pass_on(self, claimed: Sequence[Schedule]) -> int:
        """Put what is due of these on the queue, and store what is next; returns how many occurrences."""
        occurrences: list[tuple[datetime, Schedule]] = []
        advanced = []
        for schedule in claimed:
            dues, after = decide(schedule)
            occurrences += [(due, schedule) for due in dues]
            advanced.append((_document(schedule), after.to_document()))
        if occurrences:
            occurrences.sort(key=lambda each: each[0])
            await self._queue.send_many([schedule.occurrence(due).to_message(at=due) for due, schedule in occurrences])
        # Whatever was cancelled or changed meanwhile is of another generation than what is on the queue.
        await self._schedules.write(advanced)
        return len(occurrences)

    async def _readable(self, document: Document) -> Schedule | None:
        try:
            return Schedule.from_document(document)
        except (KeyError, TypeError, ValueError) as error:
            # Its zone is none any more, say, or another version wrote it: others must not wait for it.
            await self._dead_letters.add(
                key=f"schedule:{document.id}",
                what="schedule",
                reason="InvalidSchedule",
                explanation=f"It cannot be read any more, and is not looked at again: {error}",
                payload=b"{}",
                conversation=document.body.get("conversation") or "",
            )
            unusable = {**document.body, "status": "unusable", "ttl": int(KEPT.total_seconds())}
            await self._schedules.write([(document, unusable)])
            logger.warning("Schedule %r is unusable: %s", document.id, error)
            return None


def decide(schedule: Schedule) -> tuple[list[datetime], Schedule]:
    """The nominal times to put on the queue now, and the schedule as it is after that.

    It follows from the schedule, its claim's time included, and from nothing else.
    """
    claim, due = schedule.claim, schedule.next
    if claim is None or due is None:
        raise ValueError("Only a schedule that is claimed is decided about")
    found = tick(schedule.recurrence, due, claim.at, schedule.misfires)
    dues, following = list(found.hand_over), found.due
    while following is not None and following <= claim.until:
        dues.append(following)
        following = schedule.recurrence.next_after(following)
    dropped = tuple(DroppedStretch(each.since, each.before, each.reason, claim.at) for each in found.dropped)
    after = replace(
        schedule,
        next=following,
        status="scheduled" if following is not None else "done",
        claim=None,
        handed_over=(*schedule.handed_over, *dues),
        dropped=(*schedule.dropped, *dropped),
    )
    return dues, after


def _document(schedule: Schedule) -> Document:
    if schedule.stored is None:
        raise ValueError("Only a schedule that was read is written over")
    return schedule.stored
