"""A channel that fails every third time, in every way: nothing is repeated blindly, too early, or lost (R6)."""

import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import MappingProxyType

import pytest

from agent_core import Activity, AgentApplication, ConversationReference, TurnContext, TurnState
from agent_core.activity.conversation_reference import ConversationAccount
from agent_core.channel.cloud_adapter import AgentIdentity, CloudAdapter
from agent_core.channel.connector import Connector
from agent_core.channel.connector_client import ConnectorClient, ConnectorService
from agent_core.channel.http_client import HttpAnswer, HttpClient
from agent_core.channel.url_guard import UrlGuard
from agent_core.errors import ChannelError
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.queue import QueueMessage
from agent_core.store.memory_store import MemoryStore
from agent_core.testing import ManualClock, MemoryQueue
from agent_core.turn.claims_identity import ClaimsIdentity
from tests.faults.faulty_channel import AMBIGUOUS, FAULTS, NOT_READ, THROTTLED, FaultyChannel, Request
from tests.serving import anywhere

CALLBACKS = 150
CONVERSATIONS = 15
MODES = ("park", "resend", "update")


class Impatient(HttpClient):
    """Takes half a second of silence for what the real one takes ten seconds of."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        content: bytes | None = None,
        read_timeout: float | None = None,
        max_body: int | None = None,
    ) -> HttpAnswer:
        return await super().request(method, url, headers=headers, content=content, read_timeout=0.5, max_body=max_body)


class Scene:
    """An agent with a continuation for each mode, before a channel that fails; one thing is done after the other."""

    def __init__(self, http: HttpClient, channel: FaultyChannel, clock: ManualClock, url: str) -> None:
        self.channel, self.clock, self.url = channel, clock, url
        self.client = ConnectorClient(http, None, clock.now, sleep=clock.advance, random=random.Random(1).random)
        self.adapter = CloudAdapter(
            identity=lambda: AgentIdentity(None, None),
            connector=lambda: self.client,
            guard=lambda: UrlGuard(development=True),
            now=clock.now,
            sleep=self._sleep,
        )
        self.queue = MemoryQueue(clock)
        self.agent = AgentApplication(self.adapter, MemoryStore(clock.now), self.queue)
        for mode in MODES:
            self._continuation(mode)

    async def _sleep(self, delay: timedelta) -> None:
        # One message is worked on after the other, so nobody else can end a short wait; renewals are longer.
        await (self.clock.advance if delay < timedelta(seconds=1) else self.clock.sleep)(delay)

    def _continuation(self, mode: str) -> None:
        @self.agent.continuation(mode, when_unsure="resend" if mode == "resend" else "park")
        async def answer(context: TurnContext, state: TurnState) -> None:
            await context.send_activity(context.activity.value)

    def connector(self) -> Connector:
        return Connector(self.client, ConnectorService(self.url, None))

    async def callback(self, number: int) -> tuple[str, QueueMessage]:
        """What is published, and its key; for an edit its placeholder is sent first."""
        mode, conversation = MODES[number % 3], f"c{number % CONVERSATIONS}"
        body = {
            "id": f"{mode} {number}",
            "conversationId": conversation,
            "continuation": mode,
            "value": f"text {number}",
        }
        reference = ConversationReference(
            channel_id="emulator", service_url=self.url, conversation=ConversationAccount(id=conversation)
        )
        stored = Conversation(reference, ClaimsIdentity(), self.clock.now())
        await self.agent.proactive.store_conversation(stored)

        async def order(context: TurnContext, state: TurnState) -> None:
            placeholder = await context.send_activity(f"placeholder {number}")
            body["ticket"] = (await context.expect_callback(mode, replaces=placeholder)).to_dict()["ticket"]

        if mode == "update":
            # What a turn says now is no delivery, and not what is tested here.
            self.channel.about, rate, self.channel.rate = "", self.channel.rate, 0
            await self.agent.proactive.continue_conversation(stored, order)
            self.channel.rate = rate
        return body["id"], QueueMessage(json.dumps(body).encode(), f"m{number}")

    async def work(self) -> None:
        """Do what is due."""
        for message in self.queue.take_due():
            self.channel.about = json.loads(message.body)["key"].removeprefix("callback:")
            await self.agent.do_work(message)

    async def finish(self) -> None:
        """Let time pass until nothing is left to do."""
        while self.queue.messages:
            due = min(each.scheduled_enqueue_time or self.clock.now() for each in self.queue.messages)
            await self.clock.advance(max(timedelta(0), due - self.clock.now()))
            await self.work()


@asynccontextmanager
async def scene(seed: int = 0) -> AsyncIterator[Scene]:
    http, clock = Impatient(allow_address=anywhere), ManualClock()
    channel = FaultyChannel(clock.now, seed)
    async with channel.serve() as url:
        try:
            yield Scene(http, channel, clock, url)
        finally:
            await http.close()


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_r6_each_fault_is_classified_and_only_what_was_not_done_is_posted_again(fault: str, method: str) -> None:
    async with scene() as here:
        connector, here.channel.next_fault = here.connector(), fault
        hello = Activity(type="message", text="hello")
        sending = (
            connector.send_to_conversation("c", hello)
            if method == "POST"
            else connector.update_activity("c", "1", hello)
        )
        error: ChannelError | None = None
        try:
            await sending
        except ChannelError as failed:
            error = failed
        first, *others = here.channel.requests
        if fault in THROTTLED:
            # Repeated if what it asks for fits into the time of a turn, else left to the queue.
            assert error is None or error.decision == "throttled"
            assert bool(others) == (error is None)
            assert all(first.not_before is None or each.at >= first.not_before for each in others)
        elif (fault in (*AMBIGUOUS, NOT_READ) and method == "POST") or fault == "500":
            assert error is not None
            assert error.decision == "ambiguous"
            assert not others
        else:
            assert error is None
            assert bool(others) == (fault in (*AMBIGUOUS, NOT_READ))


@pytest.mark.parametrize("seed", range(3))
async def test_r6_a_channel_that_fails_at_thirty_percent_loses_nothing_and_nothing_is_posted_blindly(seed: int) -> None:
    async with scene(seed) as here:
        here.channel.rate = 0.3
        keys: list[str] = []
        for number in range(CALLBACKS):
            key, message = await here.callback(number)
            here.channel.about = key
            keys.append(key)
            await here.agent.receive_callback(message)
            await here.work()
        await here.finish()
        requests: dict[str, list[Request]] = defaultdict(list)
        for each in here.channel.requests:
            requests[each.about].append(each)
        reasons = {
            letter.key.removeprefix("callback:"): letter.reason async for letter in here.agent.dead_letters.list()
        }
        shown = list(here.channel.messages.values())

        for number, key in enumerate(keys):
            outcome(key, [each.fault for each in requests[key]], reasons.get(key), shown.count(f"text {number}"))
        assert sum(each.fault is not None for each in here.channel.requests) > 0.2 * len(here.channel.requests)
        assert not [text for text in shown if text.startswith("placeholder") and is_answered(text, reasons)]
        no_sooner_than_asked(here.channel.requests)


def outcome(key: str, faults: list[str | None], reason: str | None, seen: int) -> None:
    """What must have become of a callback, by what its requests met."""
    *before, last = faults
    unknown = last in AMBIGUOUS or last == NOT_READ
    if key.startswith("park"):
        assert set(before) <= set(THROTTLED), "a POST that may have been done was repeated"
        assert reason == ("Unsure" if unknown else None)
        assert seen <= 1
        assert reason or seen == 1
    elif key.startswith("resend"):
        assert unknown == (reason is not None)
        assert reason or seen >= 1
    else:
        assert not unknown
        assert reason is None
        assert seen == 1


def is_answered(placeholder: str, reasons: dict[str, str]) -> bool:
    return f"update {placeholder.split()[1]}" not in reasons


def no_sooner_than_asked(requests: list[Request]) -> None:
    """A conversation that is throttled gets nothing until the time that the channel named."""
    closed_until: dict[int, datetime] = {}
    for each in requests:
        if not each.about:
            continue
        conversation = int(each.about.split()[1]) % CONVERSATIONS
        assert conversation not in closed_until or each.at >= closed_until[conversation]
        if each.not_before is not None:
            closed_until[conversation] = each.not_before
