"""Hosts whose clocks disagree, over one store and one queue: their calls wait at gates, and happen in a chosen order.

What a host does to the schedules, the queue, the ledger and the channel is a step that waits until it is let through,
or fails, or is the last one of that host. `every_way` goes through all orders.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, cast

from agent_core import AgentApplication, TurnContext, TurnState
from agent_core.activity.activity import Activity
from agent_core.activity.conversation_reference import ResourceResponse
from agent_core.errors import AgentError, QueueUnavailable, StoreUnavailable
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.proactive.queue import Queue, QueueMessage
from agent_core.proactive.schedules import SHARDS, Schedule, shard_of
from agent_core.proactive.timer import AHEAD, decide
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import (
    CONVERSATIONS,
    SCHEDULES,
    Container,
    Create,
    Document,
    DocumentStore,
    JsonObject,
    Page,
    Replace,
    Where,
    parse_time,
)
from agent_core.store.memory_store import MemoryStore
from agent_core.store.sqlite_store import SqliteStore
from agent_core.testing import ManualClock, TestAdapter

# `unsent`: it was not done; `lost`: it was done, and the answer did not come; `dead`: the host ends before it.
FAULTS = ("unsent", "lost", "dead")
Choose = Callable[[int], int]
MINUTE = timedelta(minutes=1)
# Shards but for the one that the world's schedule is in; asking them would take most of the time.
_EMPTY = frozenset(SHARDS)
# A living host ends its work within so many turns of the event loop.
_PATIENCE = 200_000


async def every_way(run: Callable[[Choose], Awaitable[None]]) -> int:
    """Run with every sequence of choices there is; returns how many. What a run does follows from its choices."""
    path: list[tuple[int, int]] = []
    for count in itertools.count(1):
        depth = itertools.count()

        def choose(options: int, depth: Iterator[int] = depth) -> int:
            at = next(depth)
            if at == len(path):
                path.append((0, options))
            assert path[at][1] == options, "a run that is repeated goes another way"
            return path[at][0]

        await run(choose)
        while path and path[-1][0] == path[-1][1] - 1:
            path.pop()
        if not path:
            return count
        path[-1] = (path[-1][0] + 1, path[-1][1])
    raise AssertionError("unreachable")


async def some_ways(run: Callable[[Choose], Awaitable[None]], count: int, seed: int) -> int:
    """Run with so many sequences of choices, drawn from the seed."""
    numbers = random.Random(seed)
    for _ in range(count):
        await run(numbers.randrange)
    return count


class HostClock(ManualClock):
    """The clock of a host: it goes as another one does, and is some time ahead of it."""

    def __init__(self, clock: ManualClock, ahead: timedelta) -> None:
        super().__init__()
        self._clock = clock
        self._ahead = ahead

    def now(self) -> datetime:
        return self._clock.now() + self._ahead

    async def sleep(self, delay: timedelta) -> None:
        await self._clock.sleep(delay)


class WorkQueue(Queue, Protocol):
    """A queue that can be received from."""

    async def take_due(self, now: datetime) -> list[QueueMessage]:
        """Take out what is due."""


class PlainQueue:
    """A queue that knows no duplicates: its window for them is over."""

    def __init__(self) -> None:
        self.messages: list[QueueMessage] = []

    async def send(self, message: QueueMessage) -> None:
        self.messages.append(message)

    async def send_many(self, messages: Sequence[QueueMessage]) -> None:
        self.messages += messages

    async def close(self) -> None:
        """Nothing is open."""

    async def take_due(self, now: datetime) -> list[QueueMessage]:
        due = [each for each in self.messages if (each.scheduled_enqueue_time or now) <= now]
        self.messages = [each for each in self.messages if each not in due]
        return due


class FileQueue(SqliteQueue):
    """The local engine's queue."""

    async def take_due(self, now: datetime) -> list[QueueMessage]:
        due = await self.receive(1000)
        for each in due:
            await self.complete(each)
        return [each.message for each in due]


class Host:
    """One process: an agent whose calls wait at its gate, while the gate is closed."""

    def __init__(self, world: World, number: int, ahead: timedelta) -> None:
        self.world = world
        self.clock = HostClock(world.clock, ahead)
        self.adapter = GatedAdapter(self.clock)
        self.adapter.host = self
        self.adapter.messages = world.messages
        self.adapter._count = number * 10_000  # ids of its own
        self.store, self.queue = world.opened(self.clock.now)
        ids = itertools.count()
        self.agent = AgentApplication(
            self.adapter,
            cast(DocumentStore, GatedStore(self)),
            GatedQueue(self),
            new_id=lambda: f"h{number}-{next(ids)}",
        )
        self.closed = False
        self.is_dead = False
        self.steps: list[str] = []
        self.doing: asyncio.Task[Any] | None = None
        self._waiting: list[asyncio.Future[str]] = []
        register(self.agent)

    def begin(self, work: Coroutine[Any, Any, Any]) -> None:
        """Begin to do something behind the closed gate."""

        async def done() -> Any:
            try:
                return await work
            except AgentError as error:
                return error
            finally:
                self.closed = False

        self.closed = True
        self.doing = asyncio.create_task(done())

    def tick(self) -> Coroutine[Any, Any, int]:
        return self.agent.notifications.send_due(self.clock.now())

    @property
    def waits(self) -> bool:
        """Whether a call waits at the gate."""
        return not self.is_dead and bool(self._waiting)

    async def settle(self) -> None:
        """Return when it waits at the gate, or is done."""
        for _ in range(_PATIENCE):
            if self.waits or self.is_dead or self.doing is None or self.doing.done():
                return
            await asyncio.sleep(0)
        raise AssertionError(f"the host hangs after {self.steps}")

    async def step(self, fault: str = "") -> None:
        """Let the next call through."""
        if fault == "dead":
            self.is_dead = True
            return
        self._waiting.pop(0).set_result(fault)
        await self.settle()

    async def passing(self, label: str | None, work: Callable[[], Awaitable[Any]], error: Exception) -> Any:
        """Do this when it is let through."""
        if label is None or not self.closed:
            return await work()
        waiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        fault = await waiting
        self.steps.append(label)
        if fault == "unsent":
            raise error
        answer = await work()
        self.world.log.append((self, label))
        if fault == "lost":
            raise error
        return answer


class GatedStore:
    """The store behind a host's gate; the world is told what is written into the schedules."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            async def work() -> Any:
                answer = await getattr(self._host.store, name)(*args, **kwargs)
                if args[0] is SCHEDULES:
                    self._host.world.note(bodies)
                return answer

            if name == "query" and kwargs.get("partition") in _EMPTY and kwargs["partition"] != self._host.world.shard:
                return Page()
            bodies = _bodies(name, args)
            label = self._label(name, args, kwargs, bodies) if args else None
            return await self._host.passing(label, work, StoreUnavailable("told to"))

        return call

    def _label(self, name: str, args: Sequence[Any], kwargs: Any, bodies: Sequence[JsonObject]) -> str | None:
        container: Container = args[0]
        if container is SCHEDULES:
            partition = kwargs.get("partition") or (bodies[0]["shard"] if bodies else args[1])
            if not bodies:
                return f"{name} schedule" if partition == self._host.world.shard else None
            return "claim" if any(body["claim"] for body in bodies) else "store schedule"
        record = next((body for body in bodies if body.get("kind") == "delivery"), None)
        return f"ledger {record['status']}" if record is not None else None


class GatedQueue:
    """The work queue behind a host's gate."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def send(self, message: QueueMessage) -> None:
        await self.send_many([message])

    async def send_many(self, messages: Sequence[QueueMessage]) -> None:
        async def work() -> None:
            self._host.world.sent += [WorkItem.from_message(message) for message in messages]
            await self._host.queue.send_many(messages)

        await self._host.passing("queue", work, QueueUnavailable("told to"))

    async def close(self) -> None:
        """The world closes it."""


class GatedAdapter(TestAdapter):
    """The channel behind a host's gate."""

    host: Host

    async def send_activities(self, context: TurnContext, activities: Sequence[Activity]) -> list[ResourceResponse]:
        async def work() -> list[ResourceResponse]:
            return await super(GatedAdapter, self).send_activities(context, activities)

        answer: list[ResourceResponse] = await self.host.passing("post", work, AssertionError("never told to fail"))
        return answer


def _bodies(name: str, args: Sequence[Any]) -> list[JsonObject]:
    if name in ("create", "replace", "upsert"):
        return [args[1]]
    if name == "batch":
        return [each.body for each in args[2] if isinstance(each, (Create, Replace))]
    return []


def register(agent: AgentApplication) -> None:
    """What the agent says: the key of the occurrence, so that the channel tells which ones came."""

    @agent.continuation("say")
    async def say(context: TurnContext, state: TurnState) -> None:
        await context.send_activity(f"{context.activity.value} {context.work_key}")


class World:
    """What survives every host: the store, the queue, what the user saw, and the true time.

    Attributes:
        log: which host did what, in order.
        sent: everything that was put on the queue.
        decided: the nominal times that were handed over, and those that were dropped, once per decision.
    """

    def __init__(self, start: datetime, folder: Path | None = None) -> None:
        """With a folder, the store and the queue are the local engine's."""
        self.clock = ManualClock(start)
        self.messages: dict[str, Activity] = {}
        self.log: list[tuple[Host, str]] = []
        self.sent: list[WorkItem] = []
        self.handed_over: list[datetime] = []
        self.dropped: list[datetime] = []
        self.hosts: list[Host] = []
        self.schedule_id = ""
        self._folder = folder
        self._memory = MemoryStore(self.clock.now), PlainQueue()
        self._last: dict[str, JsonObject] = {}
        # It only looks.
        self.observer = Host(self, 0, timedelta(0))

    def opened(self, now: Callable[[], datetime]) -> tuple[DocumentStore, WorkQueue]:
        """The store and the queue, as a host with this clock opens them."""
        if self._folder is None:
            return self._memory
        return SqliteStore(self._folder / "store.db", now), FileQueue(self._folder / "queues.db", "work", now=now)

    def host(self, ahead: timedelta = timedelta(0)) -> Host:
        """One more host."""
        self.hosts.append(Host(self, len(self.hosts) + 1, ahead))
        return self.hosts[-1]

    @property
    def shard(self) -> str:
        return shard_of(self.schedule_id)

    @property
    def texts(self) -> list[str]:
        """What the user saw."""
        return [activity.text or "" for activity in self.messages.values()]

    async def schedule(self, host: Host, **when: Any) -> Schedule:
        """A conversation, and a schedule for it."""
        await host.adapter.say(host.agent, "hello")
        given = {"continuation": "say", "value": "old", **when}
        self.schedule_id = await host.agent.notifications.schedule("c1", **given)
        return await self.stored()

    async def stored(self) -> Schedule:
        """The schedule as it is."""
        found = await self.observer.agent.notifications.get(self.schedule_id)
        assert found is not None
        return found

    def note(self, bodies: Sequence[JsonObject]) -> None:
        """This was written into the schedules."""
        for body in bodies:
            before = self._last.get(body["id"])
            if before and before["claim"] and not body["claim"] and before["generation"] == body["generation"]:
                schedule = Schedule.from_document(Document(before, ""))
                dues, after = decide(schedule)
                assert body["next"] == after.to_document()["next"]
                self.handed_over += dues
                for stretch in after.dropped[len(schedule.dropped) :]:
                    for due in schedule.recurrence.after(stretch.since - timedelta(microseconds=1)):
                        if due >= stretch.before:
                            break
                        self.dropped.append(due)
            self._last[body["id"]] = body

    async def interleave(self, choose: Choose, faults: int = 0) -> None:
        """Let what the hosts have begun go on in the order that is chosen, until all is done.

        Args:
            faults: how many calls fail in a chosen way, at the most.
        """
        for host in self.hosts:
            await host.settle()
        while True:
            able = [host for host in self.hosts if host.waits]
            if not able:
                return
            host = able[choose(len(able))] if len(able) > 1 else able[0]
            fault = ""
            if faults and (number := choose(len(FAULTS) + 1)):
                fault, faults = FAULTS[number - 1], faults - 1
            await host.step(fault)

    async def deliver(self) -> int:
        """The living hosts work on what is due, every message of it two times; returns how many there were."""
        count = 0
        living = [host for host in self.hosts if not host.is_dead]
        for host in living:
            for message in await host.queue.take_due(host.clock.now()):
                count += 1
                for _ in range(2):
                    await host.agent.do_work(message)
        return count

    async def finish(self) -> None:
        """No more faults: time passes, and the living hosts tick and work until there is nothing left to do."""
        living = [host for host in self.hosts if not host.is_dead]
        ahead = max(host.clock.now() for host in living) - self.clock.now()
        for _ in range(500):
            for host in living:
                await host.tick()
            if await self.deliver():
                continue
            schedule = await self.stored()
            waiting = self._memory[1].messages if self._folder is None else await self._peeked(living[0])
            if schedule.next is None and schedule.claim is None and not waiting:
                assert schedule.status == "done"
                return
            # The next tick, or where nothing is near the next time that something is.
            near = [each.scheduled_enqueue_time for each in waiting if each.scheduled_enqueue_time]
            near += [schedule.next - AHEAD - ahead] if schedule.next and not schedule.claim else [self.clock.now()]
            await self.clock.advance(max(MINUTE, min(near) - self.clock.now()))
        raise AssertionError(f"it has no end: {await self.stored()}")

    async def _peeked(self, host: Host) -> list[QueueMessage]:
        assert isinstance(host.queue, FileQueue)
        return [each.message for each in await host.queue.peek()]

    async def check(self, nominal: Sequence[datetime]) -> None:
        """Each of these times was handed over or dropped, and not both; what was handed over came once."""
        schedule = await self.stored()
        story = f"{[label for _, label in self.log]} {schedule}"
        assert Counter(self.handed_over) + Counter(self.dropped) == Counter(nominal), story
        keys = [schedule.key_of(due) for due in sorted(self.handed_over)]
        assert {item.key for item in self.sent} == set(keys), story
        assert await self.records() == dict.fromkeys(keys, "sent"), story
        assert sorted(self.texts) == [f"old {key}" for key in keys], story
        letters = [letter async for letter in self.observer.agent.dead_letters.list()]
        assert letters == [], story

    async def records(self) -> dict[str, str]:
        """The keys in the ledger, and how far they came."""
        page = await self.observer.store.query(
            CONVERSATIONS, partition="c1", where=[Where("kind", "=", "delivery")], limit=1000
        )
        return {each.body["key"]: each.body["status"] for each in page.documents}

    async def close(self) -> None:
        """End what is still under way."""
        tasks = [host.doing for host in self.hosts if host.doing is not None]
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._folder is not None:
            for host in (self.observer, *self.hosts):
                await host.store.close()
                await host.queue.close()


def due_of(text: str) -> datetime:
    """The nominal time of what the user saw."""
    return parse_time(text.split(":", 3)[-1])
