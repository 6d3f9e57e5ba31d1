"""Turns and callbacks with every fault of Cosmos DB at each of their requests, over real connections.

What the store must survive: no lost update, no doubled answer, no foreign claim taken for ours nor ours for foreign.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from agent_core import AgentApplication, TurnContext, TurnState
from agent_core.activity.activity import Activity
from agent_core.activity.conversation_reference import ChannelAccount, ConversationAccount
from agent_core.activity.json_text import dump
from agent_core.channel.cloud_adapter import AgentIdentity, CloudAdapter, HttpRequest
from agent_core.channel.connector_client import ConnectorClient
from agent_core.channel.http_client import HttpClient
from agent_core.channel.url_guard import UrlGuard
from agent_core.errors import Busy, QueueUnavailable, StoreUnavailable
from agent_core.hosting.cosmos_store import CosmosStore
from agent_core.proactive.queue import QueueMessage
from agent_core.store.document_store import USERS, id_for
from agent_core.testing import ManualClock, MemoryQueue
from tests.cosmos_server.database import Faults, own_database
from tests.proactive.test_inbound import Counting
from tests.serving import FakeChannel, anywhere, serve

# A request that takes longer is given up. While one is out, this much real time is this much of the agent's time, so
# that a request that hangs takes the agent as long as it would with the time-outs of production.
READ_TIMEOUT = timedelta(milliseconds=100)
REAL_STEP = 0.02
STEP = timedelta(milliseconds=600)
HANGS = 170

FAULTS: dict[str, dict[str, Any]] = {
    "429": {"status": 429},
    "429 with a delay": {"status": 429, "count": 2, "headers": {"x-ms-retry-after-ms": "5"}},
    "429 without end": {"status": 429, "count": 4, "headers": {"x-ms-retry-after-ms": "1"}},
    "449": {"status": 449},
    "449 without end": {"status": 449, "count": 5},
    "412": {"status": 412},
    "408": {"status": 408},
    "408 and done": {"status": 408, "after": True},
    "503": {"status": 503, "count": 2},
    "503 and done, so that the client repeats it": {"status": 503, "after": True},
    "hangs": {"delay": HANGS, "drop": True},
    "hangs, and is done late": {"delay": HANGS},
    "hangs when done": {"delay": HANGS, "after": True},
    "reset": {"drop": True},
    "answer lost": {"drop": True, "after": True},
}
# What the faults are to those who call the store: not done, done, done later, a refusal that is none, our own write in
# the way. The others come to one of these, and half a second of the client's patience each.
KINDS = ["reset", "answer lost", "hangs, and is done late", "412", "503 and done, so that the client repeats it"]
numbers = itertools.count(1)


class Agent(Counting):
    """An agent over Cosmos DB in a conversation of its own, with a user of its own."""

    def __init__(self, store: CosmosStore, faults: Faults) -> None:
        self._cosmos = store
        self._faults = faults
        super().__init__()
        self.name = f"c{next(numbers)}"
        self.ticket: dict[str, Any] = {}

        @self.agent.event("order")
        async def order(context: TurnContext, state: TurnState) -> None:
            placeholder = await context.send_activity("ordered")
            ticket = await context.expect_callback("done", replaces=placeholder)
            self.ticket = ticket.to_dict()

        @self.agent.continuation("done")
        async def done(context: TurnContext, state: TurnState) -> None:
            state.conversation["count"] = state.conversation.get("count", 0) + 1
            state.user["count"] = state.user.get("count", 0) + 1
            await context.send_activity("done")

    def _wrap(self, store: Any) -> Any:
        return self._cosmos

    def activity(self, text: str | None = None, *, name: str | None = None) -> Activity:
        return self.adapter.activity(
            "event" if name else "message",
            name=name,
            text=text,
            conversation=ConversationAccount(id=self.name),
            from_property=ChannelAccount(id=self.name),
        )

    def another_host(self) -> AgentApplication:
        """The same agent in another process."""
        host = AgentApplication(self.adapter, self.store, self.queue)
        host.message()(self.count)
        return host

    async def until_heard(self, activity: Activity, host: AgentApplication) -> None:
        """Post to this host until it does not say 503."""
        while True:
            try:
                await self.post(activity, host)
                return
            except (StoreUnavailable, Busy):
                await self.clock.sleep(timedelta(seconds=5))

    async def in_time(self, work: Awaitable[Any]) -> None:
        """Do this while the time goes on."""
        task = asyncio.ensure_future(work)
        while not (await asyncio.wait({task}, timeout=REAL_STEP))[0]:
            await self.clock.advance(STEP)
        await task

    async def until_done(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Do this again until it raises nothing, as a channel or queue does."""
        for _ in range(10):
            try:
                await self.in_time(work())
                return
            except (StoreUnavailable, QueueUnavailable, Busy):
                await self.clock.advance(timedelta(seconds=15))
        raise AssertionError("it never came to its end")

    async def faults_over(self) -> None:
        async with asyncio.timeout(5):
            while not await self._faults.over():
                pass

    async def work_off(self) -> None:
        """Do all that waits on the work queue, when it is due."""
        for _ in range(100):
            for message in self.queue.take_due():
                await self.until_done(partial(self.agent.do_work, message))
            if not self.queue.messages:
                return
            await self.clock.advance(timedelta(minutes=1))
        raise AssertionError("the work has no end")

    async def state(self) -> tuple[Any, Any]:
        conversation = await self.agent.proactive.get_conversation(self.name)
        assert conversation is not None
        user = await self.store.read(USERS, id_for("user", "emulator", self.name), "state")
        assert user is not None
        return conversation.state.get("count"), user.body["state"].get("count")

    async def letters(self) -> list[str]:
        return [each.reason async for each in self.agent.dead_letters.list() if each.conversation == self.name]


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[tuple[CosmosStore, Faults]]:
    async with own_database() as (connection, faults):
        store = CosmosStore(connection, read_timeout=READ_TIMEOUT, sleep=lambda _: asyncio.sleep(0))
        yield store, faults
        await store.close()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_turn_is_answered_once_and_counted_once_whatever_fault_any_of_its_requests_meets(
    server: tuple[CosmosStore, Faults], fault: str
) -> None:
    store, faults = server
    for number in itertools.count():
        agent = Agent(store, faults)
        await agent.post(agent.activity("before"))
        await faults.make(match="/docs", skip=number, **FAULTS[fault])
        activity = agent.activity("hi")
        await agent.until_done(partial(agent.post, activity))
        met = await faults.met()
        await agent.faults_over()
        await faults.heal()
        await agent.work_off()
        assert agent.adapter.texts == ["1", "2"], number
        assert await agent.state() == (2, 2), number
        assert await agent.letters() == [], number
        if not met:
            break
    assert number > 4


@pytest.mark.parametrize("fault", ["reset", "answer lost", "412"])
async def test_of_two_hosts_that_get_copies_at_once_one_answers_whatever_fault_any_request_meets(
    server: tuple[CosmosStore, Faults], fault: str
) -> None:
    """Each knows its own claim from the other's, also where it learns only by a refusal that its write was done."""
    store, faults = server
    for number in itertools.count():
        agent = Agent(store, faults)
        await agent.post(agent.activity("before"))
        await faults.make(match="/docs", skip=number, **FAULTS[fault])
        activity = agent.activity("hi")
        copies = [agent.until_heard(activity, host) for host in (agent.agent, agent.another_host())]
        await agent.in_time(asyncio.gather(*copies))
        met = await faults.met()
        await faults.heal()
        await agent.work_off()
        assert agent.adapter.texts == ["1", "2"], number
        assert await agent.state() == (2, 2), number
        if not met:
            break
    assert number > 6


async def deliver(agent: Agent, faults: Faults, number: int, fault: str, ticket: dict[str, Any]) -> bool:
    """A callback arrives, its `number`th request meets the fault, and everything is brought to its end.

    True if there was such a request.
    """
    await faults.make(match="/docs", skip=number, **FAULTS[fault])
    message = QueueMessage(dump({**ticket, "value": 1}), f"callback {agent.name}")
    await agent.until_done(partial(agent.agent.receive_callback, message))
    met = await faults.met()
    await agent.faults_over()
    await agent.work_off()
    await faults.heal()
    # Published twice, or delivered once more after all, it has no second effect.
    await agent.until_done(partial(agent.agent.receive_callback, message))
    await agent.work_off()
    return met > 0


@pytest.mark.parametrize("fault", [*KINDS, "429", "449", "hangs", "hangs when done"])
async def test_a_callback_that_edits_its_placeholder_has_its_effect_once_whatever_fault_any_of_its_requests_meets(
    server: tuple[CosmosStore, Faults], fault: str
) -> None:
    """Promise `update`: exactly one final message."""
    store, faults = server
    for number in itertools.count():
        agent = Agent(store, faults)
        await agent.post(agent.activity(name="order"))
        found = await deliver(agent, faults, number, fault, agent.ticket)
        assert agent.adapter.texts == ["done"], number
        assert len(agent.adapter.sent) == 1, number
        assert await agent.state() == (1, 1), number
        assert await agent.letters() == [], number
        if not found:
            break
    assert number > 6


@pytest.mark.parametrize("fault", KINDS)
async def test_a_callback_that_sends_a_message_sends_it_once_or_is_reported_whatever_fault_any_of_its_requests_meets(
    server: tuple[CosmosStore, Faults], fault: str
) -> None:
    """Promise `park`: at most one message, and never silence."""
    store, faults = server
    for number in itertools.count():
        agent = Agent(store, faults)
        await agent.post(agent.activity("before"))
        ticket = {"conversationId": agent.name, "continuation": "done"}
        found = await deliver(agent, faults, number, fault, ticket)
        letters = await agent.letters()
        assert agent.adapter.texts in (["1", "done"], ["1"]), number
        assert set(letters) <= {"Unsure", "FailedAfterSending"}, number
        if not letters:
            assert agent.adapter.texts == ["1", "done"], number
            assert await agent.state() == (2, 2), number
        if not found:
            break
    assert number > 6


async def test_the_channel_is_told_503_as_long_as_nothing_was_said_if_the_store_hangs_from_any_request_on(
    server: tuple[CosmosStore, Faults],
) -> None:
    """The answer comes after two hanging calls in sequence at most: within 6 s with the default time-outs."""
    store, faults = server
    channel, http, clock = (
        FakeChannel(),
        HttpClient(
            allow_address=anywhere,
        ),
        ManualClock(),
    )
    adapter = CloudAdapter(
        identity=lambda: AgentIdentity(None, None),
        connector=lambda: ConnectorClient(http, None, clock.now),
        guard=lambda: UrlGuard(development=True),
        now=clock.now,
        sleep=clock.sleep,
    )
    agent = AgentApplication(adapter, store, MemoryQueue(clock))

    @agent.message()
    async def answer(context: TurnContext, state: TurnState) -> None:
        state.conversation["heard"] = True
        await context.send_activity("heard")

    async with serve(channel.app()) as url:
        for number in itertools.count():
            before = len(channel.calls)
            body = {
                "type": "message",
                "id": "m1",
                "channelId": "emulator",
                "serviceUrl": url,
                "conversation": {"id": f"c{next(numbers)}"},
                "from": {"id": "user"},
                "recipient": {"id": "agent"},
            }
            request = HttpRequest("POST", f"{url}/api/messages", {"content-type": "application/json"}, dump(body))
            await faults.make(match="/docs", skip=number, count=1000, delay=HANGS, drop=True)
            response = await adapter.process_activity(request, agent)
            met = await faults.met()
            await faults.heal()
            said = len(channel.calls) - before
            assert (response.status, said) in [(503, 0), (202, 1)], number
            assert response.status == 202 or response.headers["retry-after"], number
            # Three at once, and then one more.
            assert met <= 4, number
            if not met:
                break
    assert number >= 5
    await http.close()
