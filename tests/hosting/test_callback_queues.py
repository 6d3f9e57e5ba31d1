"""Callbacks over a queue, embedded and of Service Bus: with sessions they pass the same tests as without."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from agent_core import AgentApplication, ConversationAccount, TurnContext, TurnState
from agent_core.activity.json_text import dump
from agent_core.errors import ChannelError, SettingsError
from agent_core.proactive.callback_message import session_id
from agent_core.proactive.dead_letters import DeadLetter
from agent_core.proactive.queue import QueueMessage
from agent_core.proactive.work import WorkItem
from agent_core.store.memory_store import MemoryStore
from agent_core.testing import TestAdapter
from tests.hosting.callback_queues import Queues, opened_queues

SECONDS = 60.0


class Sending:
    """The work queue, which notes what is sent to it and when among the settlements that was."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues
        self.messages: list[QueueMessage] = []

    async def send(self, message: QueueMessage) -> None:
        await self._queues.work.send(message)
        self.messages.append(message)
        self._queues.settled.append(("sent", message.message_id))

    async def send_many(self, messages: Sequence[QueueMessage]) -> None:
        for message in messages:
            await self.send(message)

    async def close(self) -> None:
        await self._queues.work.close()


class Shop:
    """An agent on these queues; its continuation answers with the value, after what `before` does with it."""

    def __init__(self, queues: Queues, store: MemoryStore | None = None, adapter: TestAdapter | None = None) -> None:
        self.queues = queues
        self.store = store or MemoryStore(queues.clock.now)
        self.adapter = adapter or TestAdapter(queues.clock, "webchat")
        self.work = Sending(queues)
        self.agent = AgentApplication(self.adapter, self.store, self.work)
        self.before: Callable[[str], object] = str
        self.gate = asyncio.Event()
        self.gate.set()

        @self.agent.message("hi")
        async def greet(context: TurnContext, state: TurnState) -> None:
            await context.send_activity("Hello")

        @self.agent.continuation("shipped")
        async def shipped(context: TurnContext, state: TurnState) -> None:
            self.before(context.activity.value)
            await self.gate.wait()
            await context.send_activity(context.activity.value)

    async def conversation(self, suffix: str = "") -> str:
        """A new conversation with the agent."""
        name = f"c-{uuid.uuid4().hex}{suffix}"
        account = ConversationAccount(id=name)
        await self.adapter.process(self.agent, self.adapter.activity(text="hi", conversation=account))
        return name

    async def publish(self, conversation: str, value: str, *, name: str | None = None, again: str = "") -> None:
        """As a publisher does: with the conversation as the session, whether the queue has them or not."""
        name = name or value
        body = {"id": f"{conversation}-{name}", "conversationId": conversation, "continuation": "shipped"}
        await self.publish_body(conversation, dump({**body, "value": value}), f"{name}{again}")

    async def publish_body(self, conversation: str, body: bytes, name: str) -> None:
        message_id = f"{name}-{session_id(conversation)}"[:128]
        await self.queues.callbacks.send(QueueMessage(body, message_id, session_id=session_id(conversation)))

    async def receive(self) -> int:
        return await self.queues.receive(self.agent.receive_callback, self.agent.do_work)

    async def until(self, done: Callable[[], bool]) -> None:
        """Receive until it is done, and then once more: nothing may come twice."""
        async with asyncio.timeout(SECONDS):
            while not done():
                await self.receive()
            while await self.receive():
                pass

    @property
    def answers(self) -> list[str | None]:
        return [text for text in self.adapter.texts if text != "Hello"]

    async def dead_letters(self, conversation: str) -> list[DeadLetter]:
        return [each async for each in self.agent.dead_letters.list() if conversation in (each.key, each.conversation)]


@pytest.fixture(params=["embedded", "Service Bus"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["plain", "sessions"])
def sessions(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
async def queues(kind: str, sessions: bool, tmp_path: Path) -> AsyncIterator[Queues]:
    async with opened_queues(kind, tmp_path, sessions=sessions) as opened:
        yield opened


@pytest.fixture
def shop(queues: Queues) -> Shop:
    return Shop(queues)


async def test_each_callback_is_answered_once_and_with_sessions_in_the_order_of_publishing(
    shop: Shop, sessions: bool
) -> None:
    """Also in a conversation whose id is too long for a session."""
    conversations = [await shop.conversation(), await shop.conversation("x" * 200)]
    expected = [[f"{which}{number}" for number in range(4)] for which in "ab"]
    for number in range(4):
        for conversation, values in zip(conversations, expected, strict=True):
            await shop.publish(conversation, values[number])
            if number % 2:
                await shop.publish(conversation, values[number - 1], again=" again")  # the same id, as another message
                await shop.publish(conversation, values[number])  # the very same message
    await shop.until(lambda: len(shop.answers) >= 8)
    assert sorted(map(str, shop.answers)) == [*expected[0], *expected[1]]
    if sessions:
        for which, values in zip("ab", expected, strict=True):
            assert [text for text in shop.answers if str(text).startswith(which)] == values


async def test_what_fails_waits_as_a_copy_on_the_work_queue_and_stays_first_in_its_conversation(shop: Shop) -> None:
    """A copy has an id made of the key and the attempt, no session, and is sent before the message is completed."""
    failures = [RuntimeError("not yet")]

    def fail_once(value: str) -> None:
        if failures:
            raise failures.pop()

    shop.before = fail_once
    conversation = await shop.conversation()
    await shop.publish(conversation, "first")
    await shop.publish(conversation, "second")
    await shop.until(lambda: len(shop.answers) >= 2)
    assert shop.answers == ["first", "second"]
    items = [WorkItem.from_message(each) for each in shop.work.messages]
    assert (items[0].key, items[0].attempt) == (f"callback:{conversation}-first", 2)
    assert {(item.key, item.attempt) for item in items[1:]} <= {(f"callback:{conversation}-second", 1)}
    assert {copy.session_id for copy in shop.work.messages} == {None}, "the work queue has no sessions"
    for copy, item in zip(shop.work.messages, items, strict=True):
        assert copy.message_id == item.to_message().message_id
    settled, first_copy = shop.queues.settled, shop.work.messages[0].message_id
    assert settled.index(("sent", first_copy)) < settled.index(("complete", f"first-{conversation}"))


async def test_what_is_throttled_is_put_off_for_as_long_as_the_channel_says_and_is_answered_once(shop: Shop) -> None:
    conversation = await shop.conversation()
    busy = ChannelError("busy", decision="throttled", status=429, retry_after=timedelta(seconds=1))
    shop.adapter.failures = [busy, busy]
    began = shop.queues.clock.now()
    await shop.publish(conversation, "first")
    await shop.until(lambda: bool(shop.answers))
    assert shop.answers == ["first"]
    assert [WorkItem.from_message(each).attempt for each in shop.work.messages] == [1, 1]
    assert shop.queues.clock.now() - began >= timedelta(seconds=2)


async def test_what_cannot_succeed_is_a_dead_letter_and_its_neighbours_in_the_session_are_answered(
    shop: Shop,
) -> None:
    conversation = await shop.conversation()
    await shop.publish_body(conversation, b"no json", "bad")
    await shop.publish(conversation, "good")
    await shop.until(lambda: shop.answers == ["good"])
    (letter,) = await shop.dead_letters(f"callback:bad-{conversation}")
    assert letter.reason == "InvalidJson"
    assert shop.queues.settled[0] == ("complete", f"bad-{conversation}")


async def test_what_was_delivered_too_often_is_drained_and_replayed(shop: Shop, sessions: bool) -> None:
    """The dead-letter queue of a queue with sessions has none itself."""
    conversation = await shop.conversation()
    await shop.publish(conversation, "first")

    async def misconfigured(message: QueueMessage) -> None:
        raise SettingsError("told to")

    async with asyncio.timeout(SECONDS):
        while shop.queues.settled.count(("abandon", f"first-{conversation}")) < 10:
            await shop.queues.receive(misconfigured, shop.agent.do_work)
        while not [each async for each in shop.agent.dead_letters.list() if conversation in each.key]:
            await shop.agent.dead_letters.drain(shop.queues.callbacks, "q", is_work=False)
    (letter,) = [each async for each in shop.agent.dead_letters.list() if conversation in each.key]
    assert letter.reason == "MaxDeliveryCountExceeded"
    assert letter.header is not None
    assert letter.header["sessionId"] == conversation
    assert await shop.agent.dead_letters.replay(letter)
    await shop.until(lambda: bool(shop.answers))
    assert shop.answers == ["first"]


async def test_a_callback_whose_lock_was_lost_while_its_handler_ran_is_delivered_again_and_has_its_effect_once(
    kind: str, sessions: bool, tmp_path: Path
) -> None:
    """To another instance, which puts it off; and to complete it too late does no harm."""
    async with opened_queues(kind, tmp_path, sessions=sessions, short_locks=True) as queues:
        shop = Shop(queues)
        other = Shop(queues, shop.store, shop.adapter)
        conversation = await shop.conversation()
        await shop.publish(conversation, "first")
        shop.gate.clear()

        async def receive_again(message: QueueMessage) -> None:
            await other.agent.receive_callback(message)
            shop.gate.set()

        await queues.deliver_twice(shop.agent.receive_callback, receive_again)
        name = f"first-{conversation}"
        assert sorted(outcome for outcome, message_id in queues.settled if message_id == name) == ["complete", "late"]
        assert shop.answers == ["first"]
        await shop.until(lambda: True)
        assert shop.answers == ["first"]
        assert await shop.dead_letters(conversation) == []
