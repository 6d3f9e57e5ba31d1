"""What a tick of the timer costs: by what is due, and by what exists; on the embedded store and queue, in files."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.proactive.dead_letters import DeadLetters
from agent_core.proactive.recipients import ConversationRecipient
from agent_core.proactive.recurrence import Recurrence
from agent_core.proactive.schedules import SHARDS, Schedule, Schedules, new_id, shard_of
from agent_core.proactive.timer import Timer
from agent_core.store.document_store import SCHEDULES, Create, Operation
from agent_core.store.sqlite_store import SqliteStore

# One minute in which so many are due; `BENCH_DUE` for another number.
DUE = int(os.environ.get("BENCH_DUE", "100000"))
EXISTING = (0, 1_000, 10_000, 100_000)
FEW = 100
TICKS = 7
NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


class World:
    """A store, a queue and a timer in a folder, at one moment."""

    def __init__(self, folder: Path) -> None:
        self.store = SqliteStore(folder / "store.db", lambda: NOW)
        self.queue = SqliteQueue(folder / "queues.db", "agent-work", now=lambda: NOW)
        self.timer = Timer(
            Schedules(self.store), self.queue, DeadLetters(self.store, lambda: NOW, self.queue), now=lambda: NOW
        )
        self._numbers = itertools.count()

    async def add(self, dues: Sequence[datetime], every: timedelta | None = None) -> None:
        """Store schedules as `Notifications.schedule` does, many at once."""
        by_shard: dict[str, list[Operation]] = {shard: [] for shard in SHARDS}
        for due in dues:
            number = next(self._numbers)
            to = ConversationRecipient(f"19:{number:032x}@thread.v2", "msteams")
            recurrence = Recurrence(at=due) if every is None else Recurrence(every=every, start=due)
            schedule = Schedule(
                new_id(to, f"{number:032x}"),
                to,
                recurrence,
                due,
                activity={"type": "message", "text": f"Your parcel {number} has arrived at the counter."},
            )
            by_shard[shard_of(schedule.id)].append(Create(schedule.to_document()))
        for shard, operations in by_shard.items():
            for begin in range(0, len(operations), 100):
                await self.store.batch(SCHEDULES, shard, operations[begin : begin + 100])

    async def tick(self, now: datetime) -> tuple[float, float, int]:
        """Seconds, CPU seconds and how many were handed over."""
        began, cpu = time.perf_counter(), time.process_time()
        report = await self.timer.tick(now)
        return time.perf_counter() - began, time.process_time() - cpu, report.handed_over

    async def close(self) -> None:
        await self.store.close()
        await self.queue.close()


def run() -> None:
    """Print two tables; exits with 1 if a minute does not do for what is due in it."""
    logging.disable(logging.WARNING)
    asyncio.run(_run())


async def _run() -> None:
    print(f"A tick with {FEW} due, by how many schedules exist beside them; median of {TICKS}")
    print("| exist | nothing due | due | CPU of the second |\n|---|---|---|---|")
    first = 0.0
    for existing in EXISTING:
        idle, due, cpu = await _by_what_exists(existing)
        first = first or due
        print(
            f"| {existing:,} | {idle * 1000:.1f} ms | {due * 1000:.1f} ms ({due / first:.2f}) | {cpu * 1000:.0f} ms |"
        )
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        minute = [NOW - timedelta(microseconds=600 * number) for number in range(DUE)]
        await world.add(minute)
        seconds, cpu, handed_over = await world.tick(NOW)
        await world.close()
    print(f"\n{handed_over:,} due in one minute: handed over in {seconds:.1f} s, {cpu:.1f} s of CPU")
    if handed_over != DUE or seconds > 60:
        raise SystemExit(1)


async def _by_what_exists(existing: int) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        await world.add([NOW + timedelta(days=1, seconds=number) for number in range(existing)])
        idle, due, cpu = [], [], []
        for _ in range(TICKS):
            idle.append((await world.tick(NOW))[0])
            await world.add([NOW - timedelta(seconds=1)] * FEW)
            seconds, used, handed_over = await world.tick(NOW)
            assert handed_over == FEW
            due.append(seconds)
            cpu.append(used)
        await world.close()
    return statistics.median(idle), statistics.median(due), statistics.median(cpu)
