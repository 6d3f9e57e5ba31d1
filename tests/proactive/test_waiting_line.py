"""One turn at a time in a conversation, first come first served, between processes and without sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import pytest

from agent_core import AgentApplication, ConversationReference, TurnContext, TurnState
from agent_core.activity.conversation_reference import ConversationAccount
from agent_core.activity.json_text import dump
from agent_core.errors import ChannelError
from agent_core.proactive import turn_order
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.deliveries import IN_LINE, LOOKS_AGAIN
from agent_core.proactive.ledger import LEASE
from agent_core.proactive.queue import QueueMessage
from agent_core.proactive.turn_order import LONGEST_HOLD_UP
from agent_core.proactive.waiting_line import ABSENT_AFTER, MAX_WAITING, PATIENCE
from agent_core.store.document_store import CONVERSATIONS
from agent_core.store.memory_store import MemoryStore
from agent_core.testing import ManualClock, MemoryQueue, TestAdapter
from agent_core.turn.claims_identity import ClaimsIdentity

SOON = timedelta(seconds=1)
# The longest pause between two looks; and five of them are within the patience of the last in line.
A_LOOK = timedelta(milliseconds=800)


class Processes:
    """Several agents over one store and one queue, and one clock for all; a turn goes on until it is let go."""

    def __init__(self, count: int) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock.now)
        self.adapter = TestAdapter(self.clock)
        self.queue = MemoryQueue(self.clock)
        self.began: list[str] = []
        self.running: dict[str, asyncio.Event] = {}
        self.agents = [AgentApplication(self.adapter, self.store, self.queue) for _ in range(count)]
        for agent in self.agents:
            agent.continuation("go on")(self._go_on)
            # Pauses of chance would make now and then another order of what is looked at than the one that is shown.
            agent._deliveries._line._random = lambda: 0.25
        self.tasks: list[asyncio.Task[None]] = []

    async def _go_on(self, context: TurnContext, state: TurnState) -> None:
        key = str(context.activity.value)
        self.began.append(key)
        self.running[key] = asyncio.Event()
        await self.running[key].wait()
        await context.send_activity(key)

    async def know(self, *conversations: str) -> None:
        for conversation_id in conversations:
            reference = ConversationReference(
                channel_id="emulator",
                service_url="https://service.test/",
                conversation=ConversationAccount(id=conversation_id),
            )
            conversation = Conversation(reference, ClaimsIdentity(), self.clock.now())
            await self.agents[0].proactive.store_conversation(conversation)

    async def arrive(self, process: int, key: str, conversation: str = "c1") -> None:
        """A callback comes to that process, which begins to work on it."""
        body = {"id": key, "conversationId": conversation, "continuation": "go on", "value": key}
        await self._begin(self.agents[process].receive_callback, QueueMessage(dump(body), key))

    async def come_again(self, process: int) -> int:
        """What is due on the work queue comes to that process; returns how much it was."""
        due = self.queue.take_due()
        for message in due:
            await self._begin(self.agents[process].do_work, message)
        return len(due)

    async def _begin(self, work: Callable[[QueueMessage], Awaitable[None]], message: QueueMessage) -> None:
        self.tasks.append(asyncio.ensure_future(work(message)))
        await settle()

    async def let_go(self, key: str) -> None:
        """That turn sends its message and ends."""
        self.running[key].set()
        await settle()

    async def pass_by(self, delta: timedelta) -> None:
        """Time passes, in steps that let everybody go on."""
        end = self.clock.now() + delta
        while self.clock.now() < end:
            await self.clock.advance(min(timedelta(milliseconds=250), end - self.clock.now()))
            await settle()

    @property
    def put_off(self) -> list[datetime | None]:
        """When each of those on the queue comes again."""
        return [message.scheduled_enqueue_time for message in self.queue.messages]

    async def finish(self) -> None:
        """Everything that was begun comes to its end."""
        for _ in range(50):
            for event in self.running.values():
                event.set()
            await settle()
            await self.come_again(0)
            await self.pass_by(SOON)
        await asyncio.gather(*self.tasks)
        assert self.queue.messages == []
        # The line is as if nobody had been there.
        assert await self.store.read(CONVERSATIONS, "c1", "turn-order") is None


async def settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


async def test_who_finds_another_process_speaking_waits_for_it_and_does_not_go_back_to_the_queue() -> None:
    here = Processes(2)
    await here.know("c1")
    await here.arrive(0, "first")
    await here.arrive(1, "second")
    await here.pass_by(SOON)
    assert here.began == ["first"]
    await here.let_go("first")
    await here.pass_by(SOON)
    assert here.began == ["first", "second"]
    assert here.put_off == []
    await here.finish()
    assert here.adapter.texts == ["first", "second"]


@pytest.mark.parametrize("processes", [1, 2, 4])
async def test_first_come_is_first_served_whichever_process_it_came_to(processes: int) -> None:
    """In the order in which the store took them into the line; in one process in that of its messages."""
    here = Processes(processes)
    await here.know("c1")
    keys = [f"k{number}" for number in range(4)]
    for number, key in enumerate(keys):
        await here.arrive(number % processes, key)
    for key in keys:
        await here.pass_by(A_LOOK)
        assert here.began[-1] == key
        # Who comes while the line stands is last.
        await here.arrive(0, f"later than {key}")
        await here.let_go(key)
    for key in keys:
        await here.pass_by(A_LOOK)
        assert here.began[-1] == f"later than {key}"
        await here.let_go(here.began[-1])
    await here.finish()
    assert len(here.began) == len(here.adapter.texts) == 8


async def test_who_waited_in_vain_comes_again_from_the_queue_and_is_still_before_those_who_came_later() -> None:
    here = Processes(3)
    await here.know("c1")
    await here.arrive(0, "slow")
    await here.arrive(1, "second")
    await here.pass_by(PATIENCE + SOON)
    assert len(here.put_off) == 1
    await here.arrive(2, "third")
    await here.let_go("slow")
    await here.pass_by(SOON)
    assert here.began == ["slow"]
    assert await here.come_again(1) == 1
    assert here.began == ["slow", "second"]
    await here.finish()
    assert here.began == ["slow", "second", "third"]


async def test_who_waits_in_a_process_lets_pass_there_who_is_before_it() -> None:
    """Else the first in line would stand behind it, and both would wait until the place is lost."""
    here = Processes(3)
    await here.know("c1")
    await here.arrive(0, "slow")
    await here.arrive(1, "second")
    await here.pass_by(PATIENCE + SOON)
    for key in ("third", "fourth"):
        await here.arrive(2, key)
    await here.pass_by(SOON)
    await here.let_go("slow")
    assert await here.come_again(2) == 1
    await here.pass_by(SOON)
    assert here.began == ["slow", "second"]
    await here.finish()
    assert here.began == ["slow", "second", "third", "fourth"]


async def test_only_so_many_wait_in_a_process_and_the_others_go_back_to_the_queue_at_once() -> None:
    """So a few busy conversations leave it free for the others."""
    here = Processes(2)
    busy = [f"c{number}" for number in range(MAX_WAITING + 2)]
    await here.know(*busy, "free")
    for conversation in busy:
        await here.arrive(0, f"first of {conversation}", conversation)
    for conversation in busy:
        await here.arrive(1, f"second of {conversation}", conversation)
    assert here.put_off == [here.clock.now() + IN_LINE] * 2
    await here.arrive(1, "at once", "free")
    assert here.began[-1] == "at once"
    await here.finish()
    assert len(here.adapter.texts) == 2 * len(busy) + 1


async def test_where_one_waited_in_vain_those_behind_it_in_the_process_do_not() -> None:
    """A turn of a minute would else take the process's time, message by message."""
    here = Processes(2)
    await here.know("c1")
    await here.arrive(0, "slow")
    for number in range(6):
        await here.arrive(1, f"k{number}")
    assert here.put_off == []
    await here.pass_by(PATIENCE + SOON)
    assert len(here.put_off) == 6
    await here.finish()
    assert here.began == ["slow", *(f"k{number}" for number in range(6))]


async def test_who_waits_for_one_that_is_on_a_queue_leaves_soon_and_for_a_while_nobody_in_the_process_waits() -> None:
    """That one may stand behind it on the queue: a worker that does one thing after the other must come round to it."""
    here = Processes(3)
    await here.know("c1", "c2")
    await here.arrive(0, "slow")
    await here.arrive(1, "second")
    await here.pass_by(PATIENCE + SOON)
    await here.let_go("slow")
    await here.arrive(2, "third")
    await here.pass_by(ABSENT_AFTER + SOON)
    assert len(here.put_off) == 2
    await here.arrive(0, "first of c2", "c2")
    await here.arrive(2, "second of c2", "c2")
    assert len(here.put_off) == 3
    await here.finish()
    assert here.began == ["slow", "first of c2", "second", "third", "second of c2"]


async def test_a_look_costs_one_read_and_who_waits_long_looks_seldom() -> None:
    here = Processes(2)
    await here.know("c1")
    await here.arrive(0, "slow")
    reads = 0
    read = here.store.read

    async def counted(*args: object) -> object:
        nonlocal reads
        reads += 1
        return await read(*args)  # type: ignore[arg-type]  # what it was called with

    here.store.read = counted  # type: ignore[method-assign,assignment]  # only to count
    await here.arrive(1, "second")
    await here.pass_by(PATIENCE + SOON)
    assert 10 < reads < 50
    await here.finish()


async def test_a_copy_of_what_another_process_does_looks_again_soon_and_not_only_when_the_lease_is_over() -> None:
    here = Processes(2)
    await here.know("c1")
    await here.arrive(0, "twice")
    await here.arrive(1, "twice")
    assert LOOKS_AGAIN < LEASE
    assert here.put_off == [here.clock.now() + LOOKS_AGAIN]
    await here.let_go("twice")
    await here.pass_by(LOOKS_AGAIN)
    assert await here.come_again(1) == 1
    await here.finish()
    assert here.adapter.texts == ["twice"]


@pytest.mark.parametrize("wait", [timedelta(seconds=90), LONGEST_HOLD_UP, LONGEST_HOLD_UP + SOON])
async def test_what_the_channel_throttles_keeps_the_others_back_for_two_minutes_at_most(wait: timedelta) -> None:
    """What docs/promises.md says: a short `Retry-After` keeps the order, for a longer one the work steps aside."""
    here = Processes(2)
    await here.know("c1")
    here.adapter.failures = [ChannelError("told to", decision="throttled", status=429, retry_after=wait)]
    await here.arrive(0, "throttled")
    await here.let_go("throttled")
    until = here.clock.now() + wait
    assert here.put_off == [until]
    await here.arrive(1, "other")
    if wait <= LONGEST_HOLD_UP:
        # It comes again together with the one before it, and not every second until then.
        assert here.put_off == [until, until]
        assert here.began == ["throttled"]
    else:
        assert here.began == ["throttled", "other"]
    await here.pass_by(wait)
    await here.finish()
    order = ["throttled", "other"] if wait <= LONGEST_HOLD_UP else ["other", "throttled"]
    assert here.adapter.texts == order


async def test_a_place_is_lost_where_its_holder_gives_no_sign_so_that_a_death_holds_nobody_up_for_long() -> None:
    here = Processes(3)
    await here.know("c1")
    await here.arrive(0, "slow")
    await here.arrive(1, "dies")
    here.tasks.pop().cancel()
    await here.pass_by(SOON)
    await here.arrive(2, "third")
    await here.let_go("slow")
    for _ in range(35):
        await here.pass_by(SOON)
        await here.come_again(2)
    assert here.began == ["slow", "third"]
    await here.finish()
    assert here.adapter.texts == ["slow", "third"]


async def test_a_copy_of_what_was_done_gives_its_place_up_and_nobody_waits_for_it() -> None:
    """It may have looked at the record before it was done, and taken its place after."""
    here = Processes(3)
    await here.know("c1")
    await here.arrive(0, "twice")
    await here.let_go("twice")
    await here.arrive(0, "slow")
    order = await here.store.read(CONVERSATIONS, "c1", "turn-order")
    assert order is not None
    joining = turn_order.join(order, "c1", "callback:twice", here.clock.now())
    assert joining is not None
    await here.store.batch(CONVERSATIONS, "c1", [joining])
    await here.arrive(1, "third")
    await here.arrive(2, "twice")
    await here.let_go("slow")
    await here.pass_by(SOON)
    assert here.began == ["twice", "slow", "third"]
    await here.finish()


async def test_a_line_that_is_full_turns_nobody_away_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_order, "MAX_LINE", 3)
    here, keys = Processes(6), [f"k{number}" for number in range(6)]
    await here.know("c1")
    for number, key in enumerate(keys):
        await here.arrive(number, key)
    for _ in keys:
        await here.let_go(here.began[-1])
        await here.pass_by(SOON)
        await here.come_again(0)
    await here.finish()
    assert sorted(map(str, here.adapter.texts)) == keys
    assert here.began[:4] == keys[:4]
