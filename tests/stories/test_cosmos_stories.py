"""The laptop order with Cosmos DB as the store: the real process, started again in between, and killed anywhere."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent_core.activity.json_text import dump
from agent_core.hosting.cosmos_store import CosmosStore
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.proactive.queue import QueueMessage
from agent_core.store.document_store import CONVERSATIONS, Document, Where
from tests.cosmos_server.database import Faults, own_database
from tests.serving import ChannelCall, FakeChannel, serve
from tests.stories.running import RunningApp

WAIT = 30
PLACEHOLDER = "Thank you for ordering a laptop. I will keep you posted."
ANSWER = "Great! Your laptop is order #7."
LONG_AGO = "2020-01-01T00:00:00.000000Z"
# Longer than any test: who is held so long dies before.
FOR_EVER = 120_000


class Story:
    """The app over a database of its own, its channel, and a look into both."""

    def __init__(self, app: RunningApp, store: CosmosStore, faults: Faults, channel: FakeChannel, url: str) -> None:
        self.app = app
        self.faults = faults
        self.channel = channel
        self._store = store
        self._url = url
        self._looks = 0
        self._conversations = (f"c{number}" for number in itertools.count(1))

    def message(self) -> dict[str, Any]:
        """An order, in a conversation of its own."""
        return {
            "type": "message",
            "id": "m1",
            "channelId": "msteams",
            "serviceUrl": self._url,
            "conversation": {"id": next(self._conversations)},
            "from": {"id": "user"},
            "recipient": {"id": "agent"},
            "text": "order laptop",
        }

    async def order(self) -> str:
        message = self.message()
        assert (await self.app.post(message)).status == 202
        return str(message["conversation"]["id"])

    async def publish(self, conversation: str, message_id: str) -> None:
        """Play the supplier; published again under another message's id it is the same callback still."""
        body = {"conversationId": conversation, "continuation": "order_placed", "value": {"number": 7}, "id": "p1"}
        queue = SqliteQueue(self.app.data / "queues.db", "agent-callbacks", now=lambda: datetime.now(UTC))
        await queue.send(QueueMessage(dump(body), f"{conversation} {message_id}"))
        await queue.close()

    async def publish_to_die(self, conversation: str) -> None:
        """Publish, and return when the app hangs over it."""
        await self.publish(conversation, "1")
        while not await self.faults.met():
            pass

    async def documents(self, conversation: str, kind: str) -> list[Document]:
        page = await self._store.query(CONVERSATIONS, partition=conversation, where=[Where("kind", "=", kind)])
        self._looks += 1
        return list(page.documents)

    async def requests(self) -> int:
        """How many requests for documents there were, but for our own."""
        stats = await self.faults.stats()
        return sum(count for kind, count in stats.items() if kind.endswith(" docs")) - self._looks

    async def answered(self, conversation: str) -> None:
        """Return when the ledger says that the callback was answered."""
        async with asyncio.timeout(WAIT):
            while not any(each.body["status"] == "sent" for each in await self.documents(conversation, "delivery")):
                pass

    async def die_at(self, number: int, doing: Coroutine[Any, Any, object], *, after: bool) -> bool:
        """Kill the app while its request after the next `number` is out, before the server's work for it or after it.

        False if what is done comes to its end first.
        """
        await self.faults.make(match="/docs", skip=number, delay=FOR_EVER, drop=not after, after=after)
        task = asyncio.create_task(doing)
        async with asyncio.timeout(WAIT):
            while not (met := await self.faults.met()) and not task.done():
                pass
            if met:
                await self.app.kill()
            await task
        await self.faults.heal()
        return met > 0

    async def let_leases_end(self, conversation: str) -> None:
        """As if so much time had passed that a living owner would have renewed them."""
        for kind in ("claim", "delivery"):
            for document in await self.documents(conversation, kind):
                await self._store.replace(CONVERSATIONS, {**document.body, "heldUntil": LONG_AGO}, document.etag)

    def calls(self, conversation: str, method: str) -> list[ChannelCall]:
        path = f"/v3/conversations/{conversation}/activities"
        return [each for each in self.channel.calls if each.method == method and each.path.startswith(path)]

    async def check(self, conversation: str, placeholders: range) -> None:
        """So many placeholders were sent; one of them became the answer, and nothing else happened."""
        posts, edits = self.calls(conversation, "POST"), self.calls(conversation, "PUT")
        assert len(posts) in placeholders
        assert {each.body["text"] for each in posts} == {PLACEHOLDER}
        assert {each.body["text"] for each in edits} == {ANSWER}
        assert len({each.path for each in edits}) == 1
        (known,) = await self.documents(conversation, "conversation")
        assert known.body["state"] == {"orders": 1}
        assert await self.documents(conversation, "dead_letter") == []


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Story]:
    channel = FakeChannel()
    async with own_database() as (connection, faults), serve(channel.app()) as url:
        account = f"AccountEndpoint={connection.endpoint};AccountKey={connection.key};"
        app = RunningApp(
            tmp_path / "data",
            CosmosConnection=account,
            COSMOS_DATABASE=connection.database,
            # The timer's queries would be counted among a turn's.
            NOTIFICATION_SCHEDULE="0 0 0 1 1 *",
        )
        store = CosmosStore(replace(connection, create_containers=False))
        await app.start()
        try:
            yield Story(app, store, faults, channel, url)
        finally:
            await app.close()
            await store.close()


async def test_the_laptop_order_goes_on_in_another_process_with_what_cosmos_kept(story: Story) -> None:
    conversation = await story.order()
    await story.app.kill()
    await story.publish(conversation, "1")
    await story.app.start()
    await story.answered(conversation)
    await story.publish(conversation, "2")
    assert await story.order() != conversation
    await story.check(conversation, range(1, 2))


@pytest.mark.parametrize("after", [False, True], ids=["before it is done", "after it is done"])
async def test_an_order_survives_a_kill_at_each_of_its_store_calls(story: Story, after: bool) -> None:
    """An inbound turn is at least once: the user may see the placeholder twice if its turn died, and one answer."""
    await story.order()
    for number in itertools.count():
        message = story.message()
        conversation = message["conversation"]["id"]
        if not await story.die_at(number, story.app.post_or_fail(message), after=after):
            break
        await story.let_leases_end(conversation)
        await story.app.start()
        assert await story.app.post_or_fail(message) == 202
        await story.publish(conversation, "1")
        await story.answered(conversation)
        await story.check(conversation, range(1, 3))
    assert number > 5


@pytest.mark.parametrize("after", [False, True], ids=["before it is done", "after it is done"])
async def test_a_callback_survives_a_kill_at_each_of_its_store_calls(story: Story, after: bool) -> None:
    """Promise `update`: exactly one final message."""
    conversation = await story.order()
    before = await story.requests()
    await story.publish(conversation, "1")
    await story.answered(conversation)
    requests = await story.requests() - before
    assert requests > 5
    for number in range(requests):
        conversation = await story.order()
        assert await story.die_at(number, story.publish_to_die(conversation), after=after)
        await story.let_leases_end(conversation)
        await story.app.start()
        await story.publish(conversation, "2")
        await story.answered(conversation)
        await story.check(conversation, range(1, 2))
