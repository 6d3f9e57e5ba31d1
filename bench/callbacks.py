"""What a callback costs on its whole way, queue, ledger and channel, and how often it waits for the store.

The embedded queue and store in files, a channel on loopback in a process of its own. Where COSMOS_TEST_CONNECTION names
a server, the same with Cosmos DB's store.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from agent_core import AgentApplication, ConversationReference, TurnContext, TurnState
from agent_core.activity.conversation_reference import ChannelAccount, ConversationAccount
from agent_core.channel.cloud_adapter import AgentIdentity, CloudAdapter
from agent_core.channel.connector_client import ConnectorClient
from agent_core.channel.http_client import HttpAnswer, HttpClient
from agent_core.channel.url_guard import UrlGuard
from agent_core.hosting.cosmos_store import CosmosConnection, CosmosStore
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.queue import QueueMessage
from agent_core.store.document_store import DocumentStore
from agent_core.store.sqlite_store import SqliteStore
from agent_core.turn.claims_identity import ClaimsIdentity
from bench.counting_proxy import Traffic

CALLBACKS = 600
CONVERSATIONS = 60
AT_ONCE = 16
SERVER = "COSMOS_TEST_CONNECTION"
ROOT = Path(__file__).parent.parent


def run() -> None:
    """Print two tables; there is no limit."""
    logging.disable(logging.WARNING)
    asyncio.run(_run())


async def _run() -> None:
    with tempfile.TemporaryDirectory() as folder, _channel() as url:
        print(f"{CALLBACKS} callbacks in {CONVERSATIONS} conversations, {AT_ONCE} at once, one message each")
        print("| store | callbacks/s | queue | store | channel | CPU of the process |\n|---|---|---|---|---|---|")
        await _print_speed("SQLite", SqliteStore(Path(folder, "store.db"), _now), Path(folder), url)
        connection = os.environ.get(SERVER)
        if connection:
            database = f"bench-{uuid4().hex[:12]}"
            account = CosmosConnection.from_connection_string(connection, database=database, create_containers=True)
            await _print_speed("Cosmos DB server of the tests", CosmosStore(account), Path(folder, "cosmos"), url)
        else:
            print(f"Cosmos DB is left out: {SERVER} names no account or emulator")
        print(
            "\nA continuation with one message, nothing else going on: round trips to the store in sequence, requests"
        )
        print("| message | round trips | requests | in this order |\n|---|---|---|---|")
        store = SqliteStore(Path(folder, "trips.db"), _now)
        for name in ("edit", "new message", "new message, state changed"):
            await _print_trips(name, store, Path(folder), url)
        await store.close()


# --- how fast


@dataclass
class Part:
    """How long the callbacks waited for one part of their way, all added up."""

    seconds: float = 0.0

    async def timed(self, call: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return await call(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - began


class _Watched:
    """Passes every call on, through `around`."""

    def __init__(self, inner: object, around: Callable[..., Awaitable[Any]]) -> None:
        self._inner, self._around = inner, around

    def __getattr__(self, name: str) -> Any:
        return partial(self._around, getattr(self._inner, name))


class _WatchedHttp(HttpClient):
    """An HTTP client that says how long its answers took."""

    part: Part

    async def request(self, *args: Any, **kwargs: Any) -> HttpAnswer:
        return cast(HttpAnswer, await self.part.timed(super().request, *args, **kwargs))


async def _print_speed(name: str, store: DocumentStore, folder: Path, url: str) -> None:
    queue_part, store_part, channel_part = Part(), Part(), Part()
    watched = cast(DocumentStore, _Watched(store, store_part.timed))
    queue, agent, http = _agent(watched, folder, channel_part)
    for number in range(CALLBACKS):
        await _know(agent, url, f"c{number % CONVERSATIONS}")
    for number in range(CALLBACKS):
        await queue.send(_callback(f"{name} {number}", f"c{number % CONVERSATIONS}"))
    store_part.seconds = 0.0
    began, cpu = time.perf_counter(), time.process_time()

    async def consume() -> None:
        while received := await queue_part.timed(queue.receive, 1):
            await agent.receive_callback(received[0].message)
            await queue_part.timed(queue.complete, received[0])

    await asyncio.gather(*(consume() for _ in range(AT_ONCE)))
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    waited = queue_part.seconds + store_part.seconds + channel_part.seconds
    shares = [f"{part.seconds / waited:.0%}" for part in (queue_part, store_part, channel_part)]
    print(f"| {name} | {CALLBACKS / seconds:.0f} | {' | '.join(shares)} | {cpu / seconds:.0%} |", flush=True)
    for each in (queue, http, store):
        await each.close()


# --- how many round trips


async def _print_trips(name: str, store: DocumentStore, folder: Path, url: str) -> None:
    traffic, names = Traffic(), list[str]()

    async def counted(call: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        place = traffic.begin()
        names.append(f"{place} {call.__name__}")
        try:
            # What is asked at once shall overlap.
            await asyncio.sleep(0.02)
            return await call(*args, **kwargs)
        finally:
            traffic.end(place)

    queue, agent, http = _agent(cast(DocumentStore, _Watched(store, counted)), folder, Part())
    conversation = await _know(agent, url, name)
    # Others were before it there; the very first creates what these write over.
    await agent.receive_callback(_callback("before", name))
    if name == "edit":

        async def order(context: TurnContext, state: TurnState) -> None:
            await context.expect_callback("shipped", replaces=await context.send_activity("I will keep you posted."))

        await agent.proactive.continue_conversation(conversation, order)
    traffic.start()
    names.clear()
    await agent.receive_callback(_callback("now", name, {"state": name.endswith("changed")}))
    print(f"| {name} | {traffic.round_trips} | {traffic.requests} | {', '.join(names)} |")
    await queue.close()
    await http.close()


# --- the agent, its callbacks and its channel


def _now() -> datetime:
    return datetime.now(UTC)


def _agent(store: DocumentStore, folder: Path, channel_part: Part) -> tuple[SqliteQueue, AgentApplication, HttpClient]:
    http = _WatchedHttp(allow_address=lambda host, address: True)
    http.part = channel_part
    connector = ConnectorClient(http, None, _now)
    adapter = CloudAdapter(
        identity=lambda: AgentIdentity(None, None),
        connector=lambda: connector,
        guard=lambda: UrlGuard(development=True),
        now=_now,
    )
    queue = SqliteQueue(folder / "queues.db", "callbacks", now=_now, lock_duration=timedelta(minutes=5))
    agent = AgentApplication(adapter, store, SqliteQueue(folder / "queues.db", "work", now=_now))

    @agent.continuation("shipped")
    async def shipped(context: TurnContext, state: TurnState) -> None:
        if (context.activity.value or {}).get("state"):
            state.conversation["shipped"] = True
        await context.send_activity("It has been shipped.")

    return queue, agent, http


async def _know(agent: AgentApplication, url: str, name: str) -> Conversation:
    reference = ConversationReference(
        channel_id="emulator",
        service_url=url,
        user=ChannelAccount(id=f"user of {name}"),
        conversation=ConversationAccount(id=name, tenant_id="tenant"),
    )
    await agent.proactive.store_conversation(Conversation(reference, ClaimsIdentity(), _now()))
    conversation = await agent.proactive.get_conversation(name)
    assert conversation is not None
    return conversation


def _callback(key: str, conversation: str, value: object = None) -> QueueMessage:
    body = {"id": key, "conversationId": conversation, "continuation": "shipped", "value": value}
    return QueueMessage(json.dumps(body).encode(), key)


@contextmanager
def _channel() -> Iterator[str]:
    """A channel in a process of its own, so that it takes nothing of ours; gives its URL."""
    command = [sys.executable, "-m", "bench.callbacks"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def _serve() -> None:
    answer = b'HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{"id":"1"}'

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = next(int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:"))
                await reader.readexactly(length)
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
