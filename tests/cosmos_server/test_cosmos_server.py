"""What the tests rely on in their Cosmos DB server, beyond what the contract of the stores shows."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from agent_core.errors import StoreUnavailable
from agent_core.hosting.cosmos_store import CosmosStore
from agent_core.store.document_store import USERS
from tests.cosmos_server.database import Faults, own_database
from tests.cosmos_server.running import ABSENT, HERE


def body(document_id: str) -> dict[str, Any]:
    return {"id": document_id, "user": "u"}


class Server:
    """The server through two clients: one that meets faults, and one that comes later and looks."""

    def __init__(self, store: CosmosStore, looking: CosmosStore, faults: Faults) -> None:
        self.store = store
        self.faults = faults
        self._looking = looking

    async def fault(self, **fault: Any) -> None:
        await self.faults.make(match="/docs", method="POST", **fault)

    async def create(self, *names: str) -> list[str]:
        """Create documents of these names; gives the names of those that were answered."""
        answered = []
        for name in names:
            try:
                await self.store.create(USERS, body(name))
                answered.append(name)
            except StoreUnavailable:
                pass
        return answered

    async def has(self, *names: str) -> list[str]:
        return [name for name in names if await self._looking.read(USERS, "u", name) is not None]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with own_database() as (connection, faults):
        store = CosmosStore(connection, read_timeout=timedelta(milliseconds=200))
        await store.create(USERS, body("there"))
        looking = CosmosStore(replace(connection, create_containers=False))
        yield Server(store, looking, faults)
        await store.close()
        await looking.close()


async def test_a_fault_meets_the_request_it_is_meant_for(server: Server) -> None:
    await server.fault(skip=2, count=1, status=408)
    assert await server.create("a", "b", "c", "d") == ["a", "b", "d"]
    assert await server.faults.met() == 1
    assert await server.has("a", "b", "c", "d") == ["a", "b", "d"]


async def test_a_fault_comes_before_the_work_or_after_it(server: Server) -> None:
    await server.fault(drop=True)
    await server.fault(drop=True, after=True)
    await server.fault(status=408, after=True)
    await server.fault(delay=400, drop=True)
    await server.fault(delay=400, after=True)
    names = ["cut-before", "cut-after", "refused-after", "held-and-cut", "held-after"]
    assert await server.create(*names) == []
    assert await server.has(*names) == ["cut-after", "refused-after", "held-after"]


async def test_a_request_that_hangs_is_done_in_the_end_though_nobody_waits_for_it(server: Server) -> None:
    await server.fault(delay=400)
    assert await server.create("late") == []
    assert await server.has("late") == []
    async with asyncio.timeout(5):
        while not await server.has("late"):
            pass


async def test_the_bytes_of_requests_and_answers_are_counted(server: Server) -> None:
    before = await server.faults.stats()
    await server.store.create(USERS, {**body("large"), "text": "x" * 10_000})
    after = await server.faults.stats()
    assert after["POST docs"] - before["POST docs"] == 1
    assert 10_000 < after["bytesIn"] - before["bytesIn"] < 13_000
    assert 10_000 < after["bytesOut"] - before["bytesOut"] < 13_000


def test_the_server_ends_with_the_process_that_started_it() -> None:
    node = shutil.which("node")
    if node is None or not (HERE / "node_modules").is_dir():
        pytest.skip(ABSENT)
    with subprocess.Popen([node, HERE / "server.cjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        assert run.stdout.readline().startswith(b"ready http://127.0.0.1:")
        run.stdin.close()
        assert run.wait(10) == 0
