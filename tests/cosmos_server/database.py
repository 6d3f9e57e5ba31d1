"""A database for the length of a test, in a server that makes faults when it is asked to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from azure.cosmos.aio import CosmosClient

from agent_core.hosting.cosmos_store import CosmosConnection
from tests.cosmos_server.running import ABSENT


class Faults:
    """Makes faults in the server, and says what they met: see `faults.cjs`."""

    def __init__(self, control: httpx.AsyncClient) -> None:
        self._control = control

    async def make(self, **fault: Any) -> None:
        """The `count` requests after the next `skip` of the `method` with `match` in their path meet it."""
        await self._control.post("/_fault", json=fault)

    async def heal(self) -> None:
        """No more faults."""
        await self._control.delete("/_fault")

    async def met(self) -> int:
        """How many requests have met one that was made since the last `heal`."""
        return sum(fault["met"] for fault in (await self._control.get("/_fault")).json())

    async def over(self) -> bool:
        """Whether the server is done with every request that met one: a hanging request may be done late."""
        return all(fault["met"] == fault["over"] for fault in (await self._control.get("/_fault")).json())

    async def stats(self) -> dict[str, int]:
        """How many requests of each kind there were, such as `POST docs`, and `bytesIn` and `bytesOut`."""
        stats: dict[str, int] = (await self._control.get("/_stats")).json()
        return stats


@asynccontextmanager
async def own_database() -> AsyncIterator[tuple[CosmosConnection, Faults]]:
    """A database of a test's own, and the faults of its server; skips the test where the server can make none."""
    text = os.environ.get("COSMOS_TEST_CONNECTION")
    if not text:
        pytest.skip(ABSENT)
    connection = CosmosConnection.from_connection_string(text, database=f"test-{uuid4().hex}", create_containers=True)
    async with httpx.AsyncClient(base_url=connection.endpoint, trust_env=False) as control:
        if (await control.get("/_stats")).status_code != 200:
            pytest.skip("the server of COSMOS_TEST_CONNECTION has no /_fault and /_stats: it cannot make faults")
        faults = Faults(control)
        try:
            yield connection, faults
        finally:
            await faults.heal()
    assert connection.key is not None
    async with CosmosClient(connection.endpoint, connection.key) as client:
        await client.create_database_if_not_exists(connection.database)
        await client.delete_database(connection.database)
