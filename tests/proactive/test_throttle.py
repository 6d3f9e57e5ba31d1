"""P6.6: where a channel throttles the agent in several conversations of a tenant, all instances wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from agent_core import ConversationAccount, TurnContext, TurnState
from agent_core.errors import ChannelError, StoreUnavailable
from agent_core.proactive.throttle import LONGEST, LOOKED_UP_FOR, WITHIN, Throttle
from agent_core.proactive.work import LADDER, WorkItem
from agent_core.store.document_store import CONVERSATIONS, DocumentStore, Where
from agent_core.store.memory_store import MemoryStore
from agent_core.store.sqlite_store import SqliteStore
from agent_core.testing import ManualClock
from tests.faulty_store import FaultyStore
from tests.proactive.setting import Setting

SECOND = timedelta(seconds=1)
TENANT = "72f988bf-0000-0000-0000-000000000000"


class Instances:
    """Two instances of the app with one clock, over one store."""

    def __init__(self, store: DocumentStore | None = None) -> None:
        self.clock = ManualClock()
        self.store = store or MemoryStore(self.clock.now)
        self.one, self.other = (Throttle(self.store, self.clock.now) for _ in range(2))

    def at(self, seconds: float) -> datetime:
        """So many seconds from now."""
        return self.clock.now() + timedelta(seconds=seconds)


async def brake(throttle: Throttle, until: datetime) -> None:
    for conversation in ("c1", "c2"):
        await throttle.note(TENANT, conversation, until)


async def test_refusals_in_two_conversations_brake_the_tenant_on_every_instance_and_no_other_tenant() -> None:
    two = Instances()
    until = two.at(40)
    await brake(two.one, until)
    assert await two.one.until(TENANT) == await two.other.until(TENANT) == until
    assert await two.other.until("another") is None
    assert await two.other.until(None) is None


async def test_instances_over_one_file_honour_it_too(tmp_path: Path) -> None:
    clock = ManualClock()
    stores = [SqliteStore(tmp_path / "documents.db", clock.now) for _ in range(2)]
    until = clock.now() + timedelta(seconds=40)
    await brake(Throttle(stores[0], clock.now), until)
    assert await Throttle(stores[1], clock.now).until(TENANT) == until
    for store in stores:
        await store.close()


async def test_the_limit_of_one_conversation_holds_up_that_conversation_alone() -> None:
    two = Instances()
    for _ in range(5):
        await two.one.note(TENANT, "c1", two.at(40))
        await two.clock.advance(SECOND)
    await two.one.note("another", "c2", two.at(40))
    await two.one.note(None, "c3", two.at(40))
    assert await two.one.until(TENANT) is None
    assert await two.other.until(TENANT) is None


@pytest.mark.parametrize(("apart", "brakes"), [(WITHIN, True), (WITHIN + SECOND, False)])
async def test_only_what_happens_within_a_minute_is_taken_together(apart: timedelta, brakes: bool) -> None:
    two = Instances()
    await two.one.note(TENANT, "c1", two.at(100))
    await two.clock.advance(apart)
    await two.one.note(TENANT, "c2", two.at(100))
    assert (await two.other.until(TENANT) is not None) == brakes


async def test_one_refusal_cannot_stop_a_tenant_for_longer_than_five_minutes() -> None:
    two = Instances()
    await brake(two.one, two.at(86_400))
    assert timedelta(minutes=5) == LONGEST
    assert await two.other.until(TENANT) == two.clock.now() + LONGEST


async def test_it_ends_by_itself_and_leaves_nothing() -> None:
    two = Instances()
    await brake(two.one, two.at(40))
    await two.clock.advance(timedelta(seconds=40) - timedelta(microseconds=1))
    assert await two.one.until(TENANT) is not None
    assert await two.other.until(TENANT) is not None
    await two.clock.advance(timedelta(microseconds=1))
    assert await two.one.until(TENANT) is None
    assert await two.other.until(TENANT) is None
    await two.clock.advance(2 * SECOND)
    assert not (await two.store.query(CONVERSATIONS, where=[Where("kind", "=", "throttle")])).documents


async def test_another_instance_sees_it_within_a_second_without_asking_for_each_message() -> None:
    two = Instances()
    asked = FaultyStore(two.store)
    other = Throttle(asked.as_store(), two.clock.now)
    assert await other.until(TENANT) is None
    await brake(two.one, two.at(40))
    for _ in range(10):
        assert await other.until(TENANT) is None
    assert asked.calls == ["read"]
    await two.clock.advance(LOOKED_UP_FOR + timedelta(microseconds=1))
    assert await other.until(TENANT) is not None


async def test_the_later_end_stays_whoever_says_it_last() -> None:
    two = Instances()
    await brake(two.one, two.at(40))
    await brake(two.other, two.at(20))
    assert await two.one.until(TENANT) == await two.other.until(TENANT) == two.at(40)
    await brake(two.other, two.at(60))
    await two.clock.advance(2 * SECOND)
    assert await two.one.until(TENANT) == await two.other.until(TENANT) == two.at(58)


async def test_of_many_instances_at_once_the_latest_end_stays() -> None:
    """A store whose answers take turns: each has read before any of them writes."""
    two = Instances()

    class TakingTurns(MemoryStore):
        async def read(self, *arguments, **named):  # type: ignore[no-untyped-def]  # passes on whatever it gets
            document = await super().read(*arguments, **named)
            await asyncio.sleep(0)
            return document

    store = TakingTurns(two.clock.now)
    ends = [40, 60, 20, 50, 30]
    await asyncio.gather(*(brake(Throttle(store, two.clock.now), two.at(seconds)) for seconds in ends))
    assert await Throttle(store, two.clock.now).until(TENANT) == two.at(60)


async def test_a_store_that_fails_brakes_nobody_and_stops_nobody() -> None:
    clock = ManualClock()
    store = FaultyStore(MemoryStore(clock.now))
    throttle = Throttle(store.as_store(), clock.now)
    store.down = True
    await brake(throttle, clock.now() + timedelta(seconds=40))
    assert await throttle.until(TENANT) is None
    store.down = False
    assert await Throttle(store.as_store(), clock.now).until(TENANT) is None


# -- the deliveries


class Instance(Setting):
    """An instance of an agent that answers callbacks with a message each."""

    def __init__(self, open_store: Callable[[Callable[[], datetime]], DocumentStore] = MemoryStore) -> None:
        super().__init__("msteams", open_store=open_store)

        @self.agent.message("hi")
        async def greet(context: TurnContext, state: TurnState) -> None:
            await context.send_activity("Hello")

        @self.agent.continuation("done")
        async def done(context: TurnContext, state: TurnState) -> None:
            await context.send_activity(context.activity.value)

    async def begin(self, conversation: str, tenant: str) -> None:
        account = ConversationAccount(id=conversation, tenant_id=tenant)
        await self.adapter.process(self.agent, self.adapter.activity(text="hi", conversation=account))

    async def answer(self, conversation: str) -> None:
        body = {"id": conversation, "conversationId": conversation, "continuation": "done", "value": conversation}
        await self.callback(body, f"m-{conversation}")

    @property
    def answers(self) -> list[str | None]:
        return [text for text in self.adapter.texts if text != "Hello"]

    def waiting(self) -> list[tuple[str, int]]:
        """What waits on the queue: its key and its attempt."""
        items = [WorkItem.from_message(message) for message in self.queue.messages]
        return [(item.key, item.attempt) for item in items]


async def test_a_braked_tenant_is_sent_nothing_by_any_instance_and_no_attempt_is_used_up() -> None:
    one = Instance()
    other = Instance(lambda now: one.store)
    for conversation, tenant in (("a", "t1"), ("b", "t1"), ("c", "t1"), ("d", "t2")):
        await one.begin(conversation, tenant)
    busy = ChannelError("busy", decision="throttled", status=429, retry_after=timedelta(seconds=40))
    one.adapter.failures = [busy, busy]
    for conversation in ("a", "b"):
        await one.answer(conversation)
    for conversation in ("c", "d"):
        await other.answer(conversation)
    assert one.answers == []
    assert other.answers == ["d"], "the channel was not asked for anything in the braked tenant"
    assert one.waiting() == [("callback:a", 1), ("callback:b", 1)]
    assert other.waiting() == [("callback:c", 1)]
    for each in (one, other):
        await each.later(timedelta(seconds=39))
    assert (one.answers, other.answers) == ([], ["d"])
    for each in (one, other):
        await each.later(SECOND)
    assert (one.answers, other.answers) == (["a", "b"], ["d", "c"])
    assert await one.dead_letters() == []


async def test_a_brake_that_is_set_again_and_again_uses_up_no_attempts() -> None:
    one = Instance()
    for conversation in ("a", "b", "c"):
        await one.begin(conversation, "t1")
    busy = ChannelError("busy", decision="throttled", status=429, retry_after=timedelta(seconds=40))
    one.adapter.failures = [busy for _ in range(2 * (len(LADDER) + 3))]
    for conversation in ("a", "b", "c"):
        await one.answer(conversation)
    while one.adapter.failures:
        await one.later(timedelta(seconds=41))
        assert all(attempt == 1 for _, attempt in one.waiting())
    for _ in range(20):
        await one.later(timedelta(minutes=1))
    assert sorted(map(str, one.answers)) == ["a", "b", "c"]
    assert await one.dead_letters() == []


async def test_a_store_that_fails_over_the_brake_delays_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Instance()
    await one.begin("a", "t1")
    read = one.store.read

    async def without_brakes(container, partition, document_id):  # type: ignore[no-untyped-def]  # as the store's own
        if document_id.startswith("throttle"):
            raise StoreUnavailable("told to")
        return await read(container, partition, document_id)

    monkeypatch.setattr(one.store, "read", without_brakes)
    await one.answer("a")
    assert one.answers == ["a"]
