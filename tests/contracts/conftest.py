"""The three document stores, each as its users get it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from azure.cosmos.aio import CosmosClient
from azure.cosmos.exceptions import CosmosResourceNotFoundError

from agent_core.hosting.cosmos_store import CosmosConnection, CosmosStore
from agent_core.store.document_store import DocumentStore
from agent_core.store.memory_store import MemoryStore
from agent_core.store.sqlite_store import SqliteStore
from agent_core.testing import ManualClock
from tests.cosmos_server.running import ABSENT

STORES = ("memory", "sqlite", "cosmos")


@dataclass(frozen=True)
class StoreUnderTest:
    """A store, and what a test may know of it.

    Attributes:
        clock: what it takes the time from; Cosmos DB has a clock of its own, which cannot be moved.
    """

    name: str
    store: DocumentStore
    clock: ManualClock


@pytest.fixture(scope="session")
async def cosmos_connection() -> AsyncIterator[CosmosConnection | None]:
    """A database of this session's own in the account of COSMOS_TEST_CONNECTION; removed at the end."""
    text = os.environ.get("COSMOS_TEST_CONNECTION")
    if not text:
        yield None
        return
    connection = CosmosConnection.from_connection_string(
        text, database=f"test-{uuid4().hex[:12]}", create_containers=True
    )
    yield connection
    assert connection.key is not None
    async with CosmosClient(connection.endpoint, connection.key) as client:
        # If no test came as far as to create it, it is missing.
        with suppress(CosmosResourceNotFoundError):
            await client.delete_database(connection.database)


@pytest.fixture(params=STORES)
async def under_test(
    request: pytest.FixtureRequest, tmp_path: Path, cosmos_connection: CosmosConnection | None
) -> AsyncIterator[StoreUnderTest]:
    clock = ManualClock(datetime(2026, 1, 5, 12, 0, tzinfo=UTC))
    store: DocumentStore
    if request.param == "memory":
        store = MemoryStore(clock.now)
    elif request.param == "sqlite":
        store = SqliteStore(tmp_path / "documents.db", clock.now)
    elif cosmos_connection is not None:
        # What the store does is tested here, not how soon on a machine that has other things to do.
        patience = timedelta(seconds=60)
        store = CosmosStore(cosmos_connection, timeout=patience, read_timeout=patience)
    else:
        pytest.skip(ABSENT)
    yield StoreUnderTest(request.param, store, clock)
    await store.close()


@pytest.fixture
def store(under_test: StoreUnderTest) -> DocumentStore:
    return under_test.store


@pytest.fixture
def partition() -> str:
    """A partition that no other test and no other run uses."""
    return f"partition-{uuid4().hex}"


@pytest.fixture
def body(partition: str) -> Callable[..., dict[str, object]]:
    """Builds documents of the container `things` in this test's partition."""

    def build(document_id: str = "a", **fields: object) -> dict[str, object]:
        return {"id": document_id, "place": partition, **fields}

    return build
