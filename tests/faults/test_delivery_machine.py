"""The real services, a step at a time, between any faults: they come to what the model allows, and to nothing else.

Every call of a host to the store, the queue and the channel waits at a gate until the machine lets it through, or lets
it fail. A host that is dead is never let through again; one that stands still is let through when its lease is over.

`AGENT_TESTS_EXAMPLES=1000 pytest tests/faults/test_delivery_machine.py` looks longer, and differently each time.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent_core import AgentApplication, TurnContext, TurnState
from agent_core.activity.activity import Activity
from agent_core.activity.conversation_reference import ResourceResponse
from agent_core.activity.json_text import dump
from agent_core.errors import AgentError, ChannelError, QueueUnavailable, StoreUnavailable
from agent_core.proactive.ledger import FINAL
from agent_core.proactive.queue import QueueMessage
from agent_core.store.document_store import CONVERSATIONS, DocumentStore, Where
from agent_core.store.memory_store import MemoryStore
from agent_core.testing import ManualClock, MemoryQueue, TestAdapter
from tests.faults.protocol_model import Faults, Protocol, outcomes

# `refused` and `unsent`: it was not done. `broken`: it was not done, and nobody can know. `lost`: it was done, and
# nobody can know.
Fault = Literal["", "refused", "unsent", "broken", "lost"]
LOCKED = timedelta(seconds=60)
ALLOWED = {mode: outcomes(Protocol(mode), Faults(2, 1, 1))[0] for mode in ("park", "resend", "update")}
T = TypeVar("T")
MODES = st.sampled_from(["update", "park", "resend"])
EXAMPLES = os.environ.get("AGENT_TESTS_EXAMPLES")


class Gate:
    """Where the calls of one host wait."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[Fault]] = []
        self.closed = False
        self.at_channel: Fault = ""  # how the next call to the channel is to fail

    async def passed(self) -> Fault:
        """Return when this call is let through, with how it is to fail."""
        if self.closed:
            raise asyncio.CancelledError
        waiting: asyncio.Future[Fault] = asyncio.get_running_loop().create_future()
        self.waiting.append(waiting)
        return await waiting

    @property
    def waits(self) -> bool:
        """Whether a call waits."""
        return any(not each.done() for each in self.waiting)

    def let_through(self, which: int, fault: Fault) -> bool:
        """Let one call through; False if none waits."""
        self.waiting = [each for each in self.waiting if not each.done()]
        if not self.waiting:
            return False
        self.waiting.pop(which % len(self.waiting)).set_result(fault)
        return True


class GatedStore:
    """A store behind a gate."""

    def __init__(self, store: MemoryStore, gate: Gate) -> None:
        self._store = store
        self._gate = gate

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            fault = await self._gate.passed()
            if fault in ("refused", "unsent", "broken"):
                raise StoreUnavailable("told to")
            answer = await method(*args, **kwargs)
            if fault:
                raise StoreUnavailable("told to")
            return answer

        return call


class GatedQueue:
    """The work queue behind a gate."""

    def __init__(self, queue: MemoryQueue, gate: Gate) -> None:
        self._queue = queue
        self._gate = gate

    async def send(self, message: QueueMessage) -> None:
        fault = await self._gate.passed()
        if fault in ("", "lost"):
            await self._queue.send(message)
        if fault:
            raise QueueUnavailable("told to")

    async def send_many(self, messages: Sequence[QueueMessage]) -> None:
        for message in messages:
            await self.send(message)

    async def close(self) -> None:
        """Nothing is open."""


class GatedAdapter(TestAdapter):
    """The channel behind a gate."""

    gate: Gate

    async def send_activities(self, context: TurnContext, activities: Sequence[Activity]) -> list[ResourceResponse]:
        return await self._gated(lambda: super(GatedAdapter, self).send_activities(context, activities))

    async def update_activity(self, context: TurnContext, activity: Activity) -> ResourceResponse:
        return await self._gated(lambda: super(GatedAdapter, self).update_activity(context, activity))

    async def _gated(self, work: Callable[[], Awaitable[T]]) -> T:
        fault = await self.gate.passed() or self.gate.at_channel
        self.gate.at_channel = ""
        if fault == "refused":
            raise ChannelError("told to", decision="throttled", status=429, retry_after=timedelta(seconds=5))
        if fault == "unsent":
            raise ChannelError("told to", decision="unsent")
        if fault == "broken":
            raise ChannelError("told to", decision="ambiguous")
        answer = await work()
        if fault == "lost":
            raise ChannelError("told to", decision="ambiguous")
        return answer


class Host:
    """One process: an agent whose calls wait at its gate."""

    def __init__(self, world: World, number: int) -> None:
        self.gate = Gate()
        adapter = GatedAdapter(world.clock)
        adapter.gate = self.gate
        adapter.messages = world.adapter.messages
        adapter._count = number * 10_000  # ids of its own
        store = cast(DocumentStore, GatedStore(world.store, self.gate))
        ids = itertools.count()
        self.agent = AgentApplication(
            adapter, store, GatedQueue(world.queue, self.gate), new_id=lambda: f"h{number}-{next(ids)}"
        )
        register(self.agent, {})
        self.tasks: set[asyncio.Task[None]] = set()


def register(agent: AgentApplication, tickets: dict[str, dict[str, Any]]) -> None:
    """The handlers of the agent; `tickets` gets what is expected."""

    @agent.message()
    async def order(context: TurnContext, state: TurnState) -> None:
        key = context.activity.text or ""
        placeholder = await context.send_activity("ordered")
        tickets[key] = (await context.expect_callback("update", replaces=placeholder)).to_dict()

    async def finish(context: TurnContext, state: TurnState) -> None:
        key = context.activity.value
        state.conversation[key] = state.conversation.get(key, 0) + 1
        await context.send_activity(key)

    agent.continuation("update")(finish)
    agent.continuation("park")(finish)
    agent.continuation("resend", when_unsure="resend")(finish)


@dataclass(eq=False)
class Delivered:
    """A message that one of the two queues holds."""

    message: QueueMessage
    is_callback: bool
    locked_until: datetime | None = None
    deliveries: int = 0


class World:
    """What survives every host: the clock, the store, the queues and the channel."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock.now)
        self.queue = MemoryQueue(self.clock)
        self.adapter = TestAdapter(self.clock)
        self.tickets: dict[str, dict[str, Any]] = {}
        ids = itertools.count()
        self.agent = AgentApplication(self.adapter, self.store, self.queue, new_id=lambda: f"w{next(ids)}")
        register(self.agent, self.tickets)
        self.ready: list[Delivered] = []
        self.modes: dict[str, str] = {}
        self.numbers = itertools.count(1)
        self.hosts = [Host(self, next(self.numbers)) for _ in range(2)]
        self.dead: list[Host] = []

    async def publish(self, mode: str) -> None:
        key = f"k{len(self.modes)}"
        self.modes[key] = mode
        await self.adapter.say(self.agent, key if mode == "update" else "hello")
        self.copy(key)

    def copy(self, key: str) -> None:
        ticket = self.tickets.get(key, {"conversationId": "c1", "continuation": self.modes[key]})
        body = dump({**ticket, "id": key, "value": key})
        self.ready.append(Delivered(QueueMessage(body, f"m{next(self.numbers)}"), True))

    async def receive(self, host: Host) -> bool:
        """Give the host the next message that is free; False if none is."""
        self.ready += [Delivered(message, False) for message in self.queue.take_due()]
        now = self.clock.now()
        free = next((each for each in self.ready if each.locked_until is None or each.locked_until <= now), None)
        if free is None:
            return False
        free.locked_until = now + LOCKED
        free.deliveries += 1
        host.tasks.add(asyncio.create_task(self._work(host, free, free.deliveries)))
        await settle()
        return True

    async def _work(self, host: Host, delivered: Delivered, delivery: int) -> None:
        try:
            await (host.agent.receive_callback if delivered.is_callback else host.agent.do_work)(delivered.message)
        except AgentError:
            if delivered.deliveries == delivery:
                delivered.locked_until = None
            return
        await host.gate.passed()
        if delivered.deliveries == delivery and delivered in self.ready:
            self.ready.remove(delivered)

    async def crash(self, number: int) -> None:
        self.dead.append(self.hosts[number])
        self.hosts[number] = Host(self, next(self.numbers))

    async def finish(self) -> None:
        """No more faults: work until there is nothing left to do."""
        for _ in range(5_000):
            moved = False
            for host in self.hosts:
                while host.gate.let_through(0, ""):
                    moved = True
                    await settle()
                moved = await self.receive(host) or moved
                host.tasks = {task for task in host.tasks if not task.done() or task.result()}
            if moved:
                continue
            if not self.ready and not self.queue.messages:
                return
            await self.clock.advance(timedelta(minutes=1))
            await settle()
        raise AssertionError(f"the work has no end: {self.ready} {self.queue.messages}")

    async def check_the_end(self) -> None:
        letters = {letter.key: letter.reason async for letter in self.agent.dead_letters.list()}
        conversation = await self.agent.proactive.get_conversation("c1")
        page = await self.store.query(CONVERSATIONS, partition="c1", where=[Where("kind", "=", "delivery")])
        records = {document.body["key"]: document.body["status"] for document in page.documents}
        for key, mode in self.modes.items():
            visible, reported = self.adapter.texts.count(key), callback_key(key) in letters
            story = f"{key} {mode}: {visible} {letters} {records}"
            assert (min(visible, 3), reported) in ALLOWED[mode], story
            status = records[callback_key(key)]
            assert status in FINAL, story
            assert reported or status == "sent", story
            if status == "sent":
                assert visible >= 1, story
                assert conversation is not None
                assert conversation.state.get(key) == 1, story

    async def close(self) -> None:
        hosts = self.hosts + self.dead
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for host in hosts:
            host.gate.closed = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def callback_key(key: str) -> str:
    """The delivery's key of a callback that was published with this id."""
    return f"callback:{key}"


async def settle() -> None:
    """Let everything go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Deliveries(RuleBasedStateMachine):
    """Anything that can happen, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world: World = self.do(self._world())
        self.faults = 0

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    async def _world(self) -> World:
        return World()

    @initialize(mode=MODES)
    def begin(self, mode: str) -> None:
        self.do(self.world.publish(mode))

    @precondition(lambda self: len(self.world.modes) < 3)
    @rule(mode=MODES)
    def publish(self, mode: str) -> None:
        self.do(self.world.publish(mode))

    @precondition(lambda self: len(self.world.ready) < 4)
    @rule(which=st.integers(0, 2))
    def deliver_once_more(self, which: int) -> None:
        keys = list(self.world.modes)
        self.world.copy(keys[which % len(keys)])

    @rule(host=st.integers(0, 1), which=st.integers(0, 3), count=st.integers(1, 8))
    def go_on(self, host: int, which: int, count: int) -> None:
        """A host does some steps of its work; one that has none takes a message first."""
        self.do(self._go_on(host, which, count))

    async def _go_on(self, host: int, which: int, count: int, fault: Fault = "") -> None:
        if not self.world.hosts[host].gate.waits:
            await self.world.receive(self.world.hosts[host])
        for _ in range(count):
            self.world.hosts[host].gate.let_through(which, "")
            await settle()
        if fault:
            self.world.hosts[host].gate.let_through(which, fault)
            await settle()

    @rule(host=st.integers(0, 1))
    def receive_another(self, host: int) -> None:
        if len([task for task in self.world.hosts[host].tasks if not task.done()]) < 3:
            self.do(self.world.receive(self.world.hosts[host]))

    @precondition(lambda self: self.faults < 5)
    @rule(
        host=st.integers(0, 1), after=st.integers(0, 9), fault=st.sampled_from(["refused", "unsent", "broken", "lost"])
    )
    def fail(self, host: int, after: int, fault: Fault) -> None:
        """A host does some steps, and the next one fails."""
        self.faults += 1
        self.do(self._go_on(host, 0, after, fault))

    @precondition(lambda self: self.faults < 5)
    @rule(host=st.integers(0, 1), fault=st.sampled_from(["refused", "unsent", "broken", "lost"]))
    def fail_at_the_channel(self, host: int, fault: Fault) -> None:
        self.faults += 1
        self.world.hosts[host].gate.at_channel = fault

    @precondition(lambda self: len(self.world.dead) < 3)
    @rule(host=st.integers(0, 1), after=st.integers(0, 9))
    def crash(self, host: int, after: int) -> None:
        """A host does some steps, and dies."""
        self.do(self._go_on(host, 0, after))
        self.do(self.world.crash(host))

    @rule(seconds=st.sampled_from([1, 5, 15, 31, 61]))
    def time_passes(self, seconds: int) -> None:
        self.do(self.world.clock.advance(timedelta(seconds=seconds)))
        self.do(settle())

    @invariant()
    def nothing_is_doubled_that_may_not_be(self) -> None:
        for key, mode in self.world.modes.items():
            assert mode == "resend" or self.world.adapter.texts.count(key) <= 1

    def teardown(self) -> None:
        try:
            self.do(self.world.finish())
            self.do(self.world.check_the_end())
        finally:
            self.do(self.world.close())
            self.loop.close()


TestDeliveries = Deliveries.TestCase
TestDeliveries.settings = settings(
    max_examples=int(EXAMPLES or "15"),
    stateful_step_count=50,
    deadline=None,
    derandomize=EXAMPLES is None,
    suppress_health_check=list(HealthCheck),
)
