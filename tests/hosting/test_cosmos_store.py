"""What the Cosmos DB store makes of faults, of what is missing, and of a wrong connection."""

from __future__ import annotations

import asyncio
import base64
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    ServiceRequestError,
    ServiceResponseTimeoutError,
)
from azure.cosmos.aio import CosmosClient
from azure.cosmos.exceptions import CosmosBatchOperationError, CosmosHttpResponseError

from agent_core.errors import DocumentExists, SettingsError, StoreError, StoreUnavailable
from agent_core.hosting.cosmos_outcome import outcome
from agent_core.hosting.cosmos_query import indexing_policy, selection
from agent_core.hosting.cosmos_store import CosmosConnection, CosmosStore
from agent_core.store.document_rules import Position
from agent_core.store.document_store import SCHEDULES, USERS, Container, Create, Delete, Where
from tests.cosmos_server.database import Faults, own_database

ROOT = Path(__file__).parents[2]
KEY = base64.b64encode(b"not a key of anybody's account").decode()


class Peer:
    """A Cosmos DB server that makes faults when it is asked to, and counts requests.

    Attributes:
        connection: to a database of this test's own.
    """

    def __init__(self, connection: CosmosConnection, faults: Faults) -> None:
        self.connection = connection
        self._faults = faults
        self.heal = faults.heal

    async def fault(self, method: str, **fault: Any) -> None:
        """What happens to the next requests for documents; see `Faults.make`."""
        await self._faults.make(match="/docs", method=method, **fault)

    async def sent(self, kind: str) -> int:
        """How many requests of a kind, such as `POST docs`, there were so far."""
        return (await self._faults.stats()).get(kind, 0)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with own_database() as (connection, faults):
        yield Peer(connection, faults)


class Waits:
    """A `sleep` that only keeps what it was asked for, in seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
async def store(peer: Peer, waits: Waits) -> AsyncIterator[CosmosStore]:
    """A store that has its client and its container, so that a fault meets a document's request and nothing else."""
    store = CosmosStore(peer.connection, read_timeout=timedelta(milliseconds=300), sleep=waits, random=lambda: 1.0)
    await store.create(USERS, {"id": "there", "user": "u"})
    yield store
    await peer.heal()
    await store.close()


def body(document_id: str = "a") -> dict[str, Any]:
    return {"id": document_id, "user": "u"}


# --- faults


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("POST", lambda store: store.create(USERS, body())),
        ("POST", lambda store: store.upsert(USERS, body())),
        ("POST", lambda store: store.batch(USERS, "u", [Create(body())])),
        ("POST", lambda store: store.query(USERS, partition="u")),
        ("GET", lambda store: store.read(USERS, "u", "there")),
        ("DELETE", lambda store: store.delete(USERS, "u", "there")),
    ],
    ids=["create", "upsert", "batch", "query", "read", "delete"],
)
async def test_a_449_is_sent_again_after_a_short_wait(
    store: CosmosStore, peer: Peer, waits: Waits, method: str, call: Callable[[CosmosStore], Awaitable[object]]
) -> None:
    before = await peer.sent(f"{method} docs")
    await peer.fault(method, status=449, count=3)
    await call(store)
    assert await peer.sent(f"{method} docs") - before == 4
    assert waits.seconds == [0.05, 0.1, 0.2]


async def test_a_449_that_does_not_end_makes_the_store_unavailable(
    store: CosmosStore, peer: Peer, waits: Waits
) -> None:
    await peer.fault("POST", status=449, count=100)
    with pytest.raises(StoreUnavailable, match="449"):
        await store.create(USERS, body())
    await peer.heal()
    assert len(waits.seconds) == 4
    assert await store.read(USERS, "u", "a") is None


async def test_throttling_is_waited_for_as_long_as_the_service_says(store: CosmosStore, peer: Peer) -> None:
    await peer.fault("POST", status=429, count=2, headers={"x-ms-retry-after-ms": "20"})
    started = time.monotonic()
    await store.create(USERS, body())
    assert time.monotonic() - started >= 0.04


async def test_throttling_that_does_not_end_makes_the_store_unavailable(store: CosmosStore, peer: Peer) -> None:
    before = await peer.sent("POST docs")
    await peer.fault("POST", status=429, count=100, headers={"x-ms-retry-after-ms": "5"})
    with pytest.raises(StoreUnavailable, match="429"):
        await store.create(USERS, body())
    assert await peer.sent("POST docs") - before == 4


@pytest.mark.parametrize("status", [408, 410, 500, 503])
async def test_a_service_that_cannot_answer_is_unavailable(store: CosmosStore, peer: Peer, status: int) -> None:
    await peer.fault("GET", status=status, count=100)
    with pytest.raises(StoreUnavailable, match=str(status)):
        await store.read(USERS, "u", "there")
    await peer.heal()
    assert await store.read(USERS, "u", "there") is not None


@pytest.mark.parametrize(
    ("method", "status", "call"),
    [
        ("GET", 412, lambda store: store.read(USERS, "u", "there")),
        ("GET", 409, lambda store: store.read(USERS, "u", "there")),
        ("POST", 412, lambda store: store.create(USERS, body())),
        ("POST", 412, lambda store: store.upsert(USERS, body("there"))),
        ("POST", 412, lambda store: store.query(USERS, partition="u")),
    ],
    ids=["read 412", "read 409", "create 412", "upsert 412", "query 412"],
)
async def test_a_refusal_that_fits_no_such_request_is_not_taken_for_a_missing_document(
    store: CosmosStore, peer: Peer, method: str, status: int, call: Callable[[CosmosStore], Awaitable[object]]
) -> None:
    """Taken for one, a turn would begin with an empty state, and overwrite the real one."""
    await peer.fault(method, status=status)
    with pytest.raises(StoreUnavailable, match=str(status)):
        await call(store)


async def test_a_create_whose_answer_is_lost_is_not_sent_again(store: CosmosStore, peer: Peer) -> None:
    """Sent again it would meet our own document and say that somebody else's is there."""
    before = await peer.sent("POST docs")
    await peer.fault("POST", drop=True, after=True, count=100)
    with pytest.raises(StoreUnavailable):
        await store.create(USERS, body())
    assert await peer.sent("POST docs") - before == 1
    await peer.heal()
    assert await store.read(USERS, "u", "a") is not None
    with pytest.raises(DocumentExists):
        await store.create(USERS, body())


async def test_a_batch_whose_answer_is_lost_is_not_sent_again(store: CosmosStore, peer: Peer) -> None:
    await peer.fault("POST", drop=True, after=True, count=100)
    with pytest.raises(StoreUnavailable):
        await store.batch(USERS, "u", [Create(body()), Delete("there")])
    await peer.heal()
    assert [document.id for document in (await store.query(USERS, partition="u")).documents] == ["a"]


async def test_a_service_that_hangs_is_given_up_after_the_read_timeout(store: CosmosStore, peer: Peer) -> None:
    calls: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        ("POST", lambda: store.create(USERS, body())),
        ("GET", lambda: store.read(USERS, "u", "there")),
        ("POST", lambda: store.query(USERS)),
    ]
    for method, call in calls:
        await peer.fault(method, delay=3000, status=500, count=1)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await call()
        assert time.monotonic() - started < 1.5


async def test_a_call_with_all_its_waits_ends_in_time(peer: Peer) -> None:
    store = CosmosStore(peer.connection, timeout=timedelta(milliseconds=300))
    await store.create(USERS, body("there"))
    await peer.fault("GET", delay=3000, status=500, count=1)
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="in time"):
        await store.read(USERS, "u", "there")
    assert time.monotonic() - started < 1.5
    await peer.heal()
    assert await store.read(USERS, "u", "there") is not None
    await store.close()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        store = CosmosStore(
            CosmosConnection(endpoint, KEY, None, "agent", create_containers=False), timeout=timedelta(seconds=0.3)
        )
        with pytest.raises(StoreUnavailable):
            await store.read(USERS, "u", "a")
        await store.close()


# --- clients and containers


async def test_many_first_calls_at_once_make_one_client(peer: Peer) -> None:
    async def connecting(calls: int) -> int:
        store = CosmosStore(peer.connection)
        before = await peer.sent("GET account") + await peer.sent("POST colls") + await peer.sent("GET colls")
        await asyncio.gather(*(store.upsert(USERS, body(str(number))) for number in range(calls)))
        await store.close()
        return await peer.sent("GET account") + await peer.sent("POST colls") + await peer.sent("GET colls") - before

    await connecting(1)  # makes the container
    assert await connecting(20) == await connecting(1)


async def test_stores_that_create_the_same_container_at_once_all_work(peer: Peer) -> None:
    stores = [CosmosStore(peer.connection) for _ in range(5)]
    await asyncio.gather(*(store.create(USERS, body(str(number))) for number, store in enumerate(stores)))
    page = await stores[0].query(USERS, partition="u")
    assert len(page.documents) == 5
    for store in stores:
        await store.close()


async def test_a_store_has_a_client_for_each_event_loop(peer: Peer) -> None:
    store = CosmosStore(peer.connection)
    await store.create(USERS, body())

    async def elsewhere() -> None:
        assert await store.read(USERS, "u", "a") is not None
        await store.close()

    await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
    assert await store.read(USERS, "u", "a") is not None
    await store.close()


async def test_a_missing_container_is_named_and_never_created_in_azure(peer: Peer, store: CosmosStore) -> None:
    deployed = CosmosStore(replace(peer.connection, create_containers=False))
    assert await deployed.read(USERS, "u", "nothing") is None
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: deployed.read(SCHEDULES, "s", "a"),
        lambda: deployed.create(SCHEDULES, {"id": "a", "shard": "s"}),
        lambda: deployed.delete(SCHEDULES, "s", "a"),
        lambda: deployed.query(SCHEDULES),
    ]
    for call in calls:
        with pytest.raises(StoreError, match=r"'schedules'.*deployment.*/shard") as caught:
            await call()
        assert type(caught.value) is StoreError
    await deployed.close()


async def test_a_missing_database_is_named(peer: Peer) -> None:
    store = CosmosStore(replace(peer.connection, database="nobody-made-it", create_containers=False))
    with pytest.raises(StoreError, match="'nobody-made-it'"):
        await store.read(USERS, "u", "a")
    await store.close()


async def test_a_wrong_key_is_refused_with_what_to_check(peer: Peer) -> None:
    store = CosmosStore(replace(peer.connection, key=KEY, create_containers=False))
    with pytest.raises(StoreError, match="account key") as caught:
        await store.read(USERS, "u", "a")
    assert KEY not in str(caught.value)
    await store.close()


async def test_a_container_is_created_with_the_indexes_its_queries_need(peer: Peer, store: CosmosStore) -> None:
    assert peer.connection.key is not None
    async with CosmosClient(peer.connection.endpoint, peer.connection.key) as client:
        container = client.get_database_client(peer.connection.database).get_container_client(USERS.name)
        properties = await container.read()
    assert properties["partitionKey"]["paths"] == ["/user"]
    assert properties["indexingPolicy"] == indexing_policy(USERS)


# --- without a server


def _error(status: int, sub_status: int | None = None) -> CosmosHttpResponseError:
    error = CosmosHttpResponseError(status, "from the service")  # type: ignore[no-untyped-call]  # the SDK has no types here
    error.sub_status = sub_status
    return error


def _batch_error(status: int, index: int) -> CosmosBatchOperationError:
    return CosmosBatchOperationError(index, {}, status, "")  # type: ignore[no-untyped-call]  # the SDK has no types here


@pytest.mark.parametrize("status", [404, 409, 412, 449])
def test_what_the_caller_decides_on_is_an_answer(status: int) -> None:
    assert outcome(_error(status), USERS).status == status
    answer = outcome(_batch_error(status, 7), USERS)
    assert (answer.status, answer.index) == (status, 7)


@pytest.mark.parametrize(
    "error",
    [
        _error(408),
        _error(410, 1002),
        _error(429),
        _error(500),
        _error(503),
        _error(404, 1002),
        _error(404, 1013),
        _error(403, 3),
        _batch_error(503, 0),
        _batch_error(0, 0),
        ServiceRequestError("not connected"),
        ServiceResponseTimeoutError("no answer"),
    ],
    ids=repr,
)
def test_what_may_pass_is_unavailable(error: AzureError) -> None:
    with pytest.raises(StoreUnavailable, match="'users'"):
        outcome(error, USERS)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (_error(400), "400"),
        (_error(401), "account key"),
        (_error(403, 5300), "Data Contributor"),
        (_error(413), "2 MB"),
        (_batch_error(413, 1), "2 MB"),
        (ClientAuthenticationError("no token"), "managed identity"),
    ],
    ids=repr,
)
def test_what_stays_is_no_reason_to_try_again(error: AzureError, says: str) -> None:
    with pytest.raises(StoreError, match=says) as caught:
        outcome(error, USERS)
    assert type(caught.value) is StoreError
    assert caught.value.__cause__ is error


def test_importing_the_store_imports_no_sdk() -> None:
    script = (
        "import sys; from agent_core.hosting.cosmos_store import CosmosConnection, CosmosStore\n"
        f"CosmosStore(CosmosConnection.from_connection_string('AccountEndpoint=http://localhost/;AccountKey={KEY}',"
        " database='d', create_containers=False))\n"
        "print([name for name in sys.modules if name.startswith(('azure.cosmos', 'azure.core', 'aiohttp'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_key_is_in_no_representation() -> None:
    text = f"AccountEndpoint=https://localhost:8081/;AccountKey={KEY};"
    connection = CosmosConnection.from_connection_string(text, database="d", create_containers=True)
    assert connection.key == KEY
    assert connection.endpoint == "https://localhost:8081/"
    assert KEY not in repr(connection)
    assert KEY not in repr(CosmosStore(connection))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no AccountEndpoint and no AccountKey"),
        (f"AccountKey={KEY}", "no AccountEndpoint"),
        ("AccountEndpoint=https://localhost:8081/;", "no AccountKey"),
        ("AccountEndpoint=https://localhost:8081/;AccountKey=;", "no AccountKey"),
        (f"AccountEndpoint=localhost;AccountKey={KEY}", "URL"),
        (f"AccountEndpoint=ftp://localhost;AccountKey={KEY}", "URL"),
        ("AccountEndpoint=https://localhost:8081/;AccountKey=not base64!", "base64"),
        (f"https://localhost:8081/;{KEY[:-1]}", "'='"),
    ],
)
def test_a_wrong_connection_string_is_told_what_is_wrong_with_it(text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        CosmosConnection.from_connection_string(text, database="d", create_containers=False)
    assert KEY not in str(caught.value)
    assert "not base64!" not in str(caught.value)


def test_a_connection_has_a_key_or_a_credential_and_a_database() -> None:
    with pytest.raises(SettingsError, match="exactly one"):
        CosmosConnection("https://localhost/", None, None, "d", create_containers=False)
    with pytest.raises(SettingsError, match="exactly one"):
        CosmosConnection("https://localhost/", KEY, object(), "d", create_containers=False)
    with pytest.raises(SettingsError, match="COSMOS_DATABASE"):
        CosmosConnection("https://localhost/", KEY, None, "", create_containers=False)


def test_values_are_parameters_and_every_order_has_its_index() -> None:
    things = Container("things", "place", ("kind", "due"))
    after = Position("2026'", "p'", "i'")
    sql, parameters = selection(things, "p'", [Where("kind", "=", "k'")], "due", after, 11)
    assert "'" not in sql
    assert {parameter["name"]: parameter["value"] for parameter in parameters} == {
        "@partition": "p'",
        "@value0": "k'",
        "@after_due": "2026'",
        "@after_place": "p'",
        "@after_id": "i'",
    }
    assert sql.startswith("SELECT TOP 11 * FROM c WHERE ")
    assert sql.endswith(' ORDER BY c["due"] ASC, c["place"] ASC, c["id"] ASC')
    orders = [[part["path"] for part in index] for index in indexing_policy(things)["compositeIndexes"]]
    assert orders == [["/place", "/id"], ["/kind", "/place", "/id"], ["/due", "/place", "/id"]]
