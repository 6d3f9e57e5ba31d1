"""Documents in Cosmos DB: one client per process, every wait short enough for a channel, every error a word of ours."""

from __future__ import annotations

import asyncio
import base64
import binascii
import random as machine_random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agent_core.errors import DocumentChanged, DocumentExists, SettingsError, StoreError, StoreUnavailable
from agent_core.hosting.cosmos_outcome import OWNER_NOT_FOUND, Answer, outcome
from agent_core.hosting.cosmos_query import indexing_policy, selection
from agent_core.store.document_rules import (
    MAX_LIMIT,
    CheckedBody,
    Position,
    checked_body,
    checked_operations,
    checked_order,
    checked_partition,
)
from agent_core.store.document_store import (
    Container,
    Create,
    Delete,
    Document,
    JsonObject,
    Operation,
    Page,
    Replace,
    Where,
    checked_id,
)

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy, CosmosClient

# How often an answer that says "again, at once" (449) is obeyed, and the longest first wait; it doubles.
_RETRIES = 4
_FIRST_WAIT = timedelta(milliseconds=50)

# Creating a database or a container takes an emulator far longer than any request.
_CREATION_TIMEOUT = timedelta(seconds=60)


_STRING_SHAPE = "it reads AccountEndpoint=https://…;AccountKey=…;"


@dataclass(frozen=True, slots=True)
class CosmosConnection:
    """Which account and database, and how to prove who we are: by a key, or by a credential.

    Attributes:
        endpoint: `https://<account>.documents.azure.com:443/`, or an emulator's.
        key: the account's key, base64.
        credential: an `AsyncTokenCredential` of azure-core, for a managed identity.
        create_containers: create what is missing on first use. For development; in Azure the deployment creates them,
            because an identity of the data plane cannot.
    """

    endpoint: str
    key: str | None = field(repr=False)
    credential: object | None = field(repr=False)
    database: str
    create_containers: bool

    def __post_init__(self) -> None:
        address = urlsplit(self.endpoint)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise SettingsError(
                "The Cosmos DB endpoint is no URL: it reads like https://<account>.documents.azure.com:443/"
            )
        if (self.key is None) == (self.credential is None):
            raise SettingsError("Cosmos DB takes either an account key or a credential: give exactly one")
        if self.key is not None and not _is_base64(self.key):
            raise SettingsError("The Cosmos DB account key is not base64: copy it again, whole, from the account")
        if not self.database:
            raise SettingsError("The name of the Cosmos DB database is empty: set COSMOS_DATABASE")

    @classmethod
    def from_connection_string(cls, text: str, *, database: str, create_containers: bool) -> CosmosConnection:
        """Reads `AccountEndpoint=…;AccountKey=…;`. SettingsError names what is missing or wrong, never the key."""
        parts = {}
        for part in filter(None, (part.strip() for part in text.split(";"))):
            name, separator, value = part.partition("=")
            if not separator:
                raise SettingsError(f"A part of the Cosmos DB connection string has no '=': {_STRING_SHAPE}")
            parts[name.strip().lower()] = value.strip()
        missing = [name for name in ("AccountEndpoint", "AccountKey") if not parts.get(name.lower())]
        if missing:
            raise SettingsError(f"The Cosmos DB connection string has no {' and no '.join(missing)}: {_STRING_SHAPE}")
        return cls(parts["accountendpoint"], parts["accountkey"], None, database, create_containers)


class CosmosStore:
    """A document store on Cosmos DB for NoSQL.

    Nothing is imported or connected before the first call. A request is sent again only where the service refused it
    (429, 449, 503), never where no answer came: a write of ours could have been done. A field that queries are ordered
    by holds text everywhere, or numbers everywhere. Numbers are JavaScript's: whole ones are exact up to 2**53.
    """

    def __init__(
        self,
        connection: CosmosConnection,
        *,
        timeout: timedelta = timedelta(seconds=4),
        read_timeout: timedelta = timedelta(seconds=3),
        connection_timeout: timedelta = timedelta(seconds=2),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = machine_random.random,
    ) -> None:
        """`timeout` bounds a whole call with its retries. A channel waits 15 seconds for its answer, and a turn that
        meets a store that hangs gives up after two such calls.

        Args:
            sleep: waits so many seconds between two tries.
            random: a number from 0 to 1, which spreads the tries of callers that met.
        """
        self._connection = connection
        self._timeout = timeout
        self._client_options = {
            # The SDK would repeat a create after a time-out and meet its own document: 409 for a write that was done.
            "retry_total": 0,
            "retry_throttle_total": 3,
            "retry_throttle_backoff_max": 5,
            "read_timeout": read_timeout.total_seconds(),
            "connection_timeout": connection_timeout.total_seconds(),
        }
        self._sleep = sleep
        self._random = random
        # A client belongs to the loop it was made in.
        self._sessions: dict[asyncio.AbstractEventLoop, _Session] = {}

    async def read(self, container: Container, partition: str, document_id: str) -> Document | None:
        checked_partition(partition)
        checked_id(document_id)
        answer = await self._ask(container, lambda proxy: proxy.read_item(document_id, partition), 404)
        return _document(answer.result) if answer.status == 200 else None

    async def create(self, container: Container, body: JsonObject) -> Document:
        checked = checked_body(container, body)
        answer = await self._ask(container, lambda proxy: proxy.create_item(checked.copy()), 409)
        return _written(container, checked, answer)

    async def replace(self, container: Container, body: JsonObject, etag: str) -> Document:
        checked = checked_body(container, body)
        answer = await self._ask(
            container, lambda proxy: proxy.replace_item(checked.id, checked.copy(), **_if_match(etag)), 404, 412
        )
        return _written(container, checked, answer)

    async def upsert(self, container: Container, body: JsonObject) -> Document:
        checked = checked_body(container, body)
        answer = await self._ask(container, lambda proxy: proxy.upsert_item(checked.copy()))
        return _written(container, checked, answer)

    async def delete(self, container: Container, partition: str, document_id: str, etag: str | None = None) -> None:
        checked_partition(partition)
        checked_id(document_id)
        condition = _if_match(etag) if etag is not None else {}
        answer = await self._ask(
            container, lambda proxy: proxy.delete_item(document_id, partition, **condition), 404, 412
        )
        if answer.status != 200 and etag is not None:
            raise _refusal(container, document_id, answer.status)

    async def batch(self, container: Container, partition: str, operations: Sequence[Operation]) -> None:
        subjects = checked_operations(container, partition, operations)
        steps = list(zip(operations, subjects, strict=True))
        while steps:
            items = [_batch_item(operation, subject) for operation, subject in steps]
            answer = await self._ask(container, partial(_execute, items=items, partition=partition), 404, 409, 412)
            if answer.status == 200:
                return
            operation, subject = steps.pop(answer.index)
            # To Cosmos DB deleting a missing document fails the batch; to us it is done, so the rest goes without it.
            if answer.status != 404 or not isinstance(operation, Delete) or operation.etag is not None:
                raise _refusal(container, subject if isinstance(subject, str) else subject.id, answer.status)

    async def query(
        self,
        container: Container,
        *,
        partition: str | None = None,
        where: Sequence[Where] = (),
        order_by: str | None = None,
        limit: int = 100,
        continuation: str | None = None,
    ) -> Page:
        order_by = checked_order(container, partition, where, order_by, limit)
        after = Position.from_continuation(continuation, order_by) if continuation is not None else None
        query, parameters = selection(container, partition, where, order_by, after, limit + 1)
        scope: dict[str, Any] = {} if partition is None else {"partition_key": partition}
        at_once = min(limit + 1, MAX_LIMIT)

        async def items(proxy: ContainerProxy) -> list[JsonObject]:
            found = proxy.query_items(query, parameters=parameters, max_item_count=at_once, **scope)
            return [item async for item in found]

        answer = await self._ask(container, items, 404)
        if answer.status != 200:
            raise StoreError(
                f"Cosmos DB refused a query on {container.name!r} with {answer.status}: is it there still?"
            )
        documents = [_document(item) for item in answer.result[:limit]]
        more = len(answer.result) > limit
        last = Position.of(container, order_by, documents[-1].body).continuation(order_by) if more else None
        return Page(documents, last)

    async def feed(self, name: str, limit: int, continuation: str | None) -> tuple[list[JsonObject], str | None]:
        """Some items of a container of any kind, and where the next ones begin, None at the end; whole and as they are.

        In Cosmos DB's own order and by its own continuation: a container need not have an index that a query could
        use, and those that the .NET SDK creates have none. One call of a store at a time.
        """
        after: list[str | None] = []

        async def page(proxy: ContainerProxy) -> list[JsonObject]:
            def note(headers: Mapping[str, str], _: object) -> None:
                after[:] = [headers.get("x-ms-continuation")]

            pages = proxy.read_all_items(max_item_count=limit, response_hook=note).by_page(continuation)
            first = await anext(pages, None)
            return [item async for item in first] if first is not None else []

        answer = await self._ask(Container(name, "id"), page)
        return answer.result, after[0] if after else None

    async def close(self) -> None:
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    async def _ask(self, container: Container, request: _Request, *refusals: int) -> Answer:
        """Send a request, again where the service did nothing and asks for that.

        The answer's status is 200 or one of the refusals, which the caller has a word for.
        """
        session = self._session_here()
        limit = self._timeout
        if self._connection.create_containers and not session.has_opened(container):
            limit += _CREATION_TIMEOUT
        try:
            async with asyncio.timeout(limit.total_seconds()):
                for number in range(_RETRIES + 1):
                    if number:
                        await self._sleep(_FIRST_WAIT.total_seconds() * 2 ** (number - 1) * (0.5 + self._random() / 2))
                    answer = await session.ask(container, request)
                    if answer.status in (200, *refusals):
                        return answer
                    if answer.status not in (429, 449):
                        break
        except TimeoutError as error:
            raise StoreUnavailable(f"Cosmos DB did not answer about {container.name!r} in time") from error
        raise StoreUnavailable(
            f"Cosmos DB answered a request to {container.name!r} with {answer.status}, again and again or where it "
            "means nothing; try again later"
        )

    def _session_here(self) -> _Session:
        here = asyncio.get_running_loop()
        if here not in self._sessions:
            self._sessions = {loop: session for loop, session in self._sessions.items() if not loop.is_closed()}
            self._sessions[here] = _Session(self._connection, self._client_options)
        return self._sessions[here]


_Request = Callable[["ContainerProxy"], Awaitable[Any]]


class _Session:
    """The one client of a loop, and the containers it has found."""

    def __init__(self, connection: CosmosConnection, options: Mapping[str, Any]) -> None:
        self._connection = connection
        self._options = options
        self._lock = asyncio.Lock()
        self._client: CosmosClient | None = None
        self._proxies: dict[str, ContainerProxy] = {}

    def has_opened(self, container: Container) -> bool:
        return container.name in self._proxies

    async def ask(self, container: Container, request: _Request) -> Answer:
        from azure.core.exceptions import AzureError

        try:
            proxy = self._proxies.get(container.name) or await self._open(container)
        except AzureError as error:
            answer = outcome(error, container)
            if answer.status == 404:
                raise self._missing(container) from error
            return answer
        try:
            return Answer(200, await request(proxy))
        except AzureError as error:
            if getattr(error, "sub_status", None) == OWNER_NOT_FOUND and getattr(error, "status_code", None) == 404:
                self._proxies.pop(container.name, None)
                raise self._missing(container) from error
            return outcome(error, container)

    async def _open(self, container: Container) -> ContainerProxy:
        """Make the client and the container ready, once however many ask."""
        async with self._lock:
            if container.name not in self._proxies:
                client = self._client = self._client or await self._connect()
                if self._connection.create_containers:
                    await self._create(client, container)
                proxy = client.get_database_client(self._connection.database).get_container_client(container.name)
                # A read of a document does not tell a missing document from a missing container; this does.
                await proxy.read()
                self._proxies[container.name] = proxy
            return self._proxies[container.name]

    async def _connect(self) -> CosmosClient:
        from azure.cosmos.aio import CosmosClient

        credential: Any = self._connection.key or self._connection.credential
        client = CosmosClient(self._connection.endpoint, credential, **self._options)
        try:
            return await client.__aenter__()
        except BaseException:
            await client.close()
            raise

    async def _create(self, client: CosmosClient, container: Container) -> None:
        from azure.cosmos import PartitionKey
        from azure.cosmos.exceptions import CosmosResourceExistsError

        wait = _CREATION_TIMEOUT.total_seconds()
        # Another process may create the same at the same time.
        with suppress(CosmosResourceExistsError):
            await client.create_database_if_not_exists(self._connection.database, read_timeout=wait)
        with suppress(CosmosResourceExistsError):
            await client.get_database_client(self._connection.database).create_container_if_not_exists(
                container.name,
                PartitionKey(f"/{container.partition_key}"),
                indexing_policy=indexing_policy(container),
                default_ttl=-1,  # nothing expires but what has a ttl of its own
                read_timeout=wait,
            )

    def _missing(self, container: Container) -> StoreError:
        return StoreError(
            f"Cosmos DB has no container {container.name!r} in a database {self._connection.database!r}. "
            "The agent's own are created by the deployment (Bicep, infra/), with the partition key "
            f"/{container.partition_key} and time to live on: deploy again, or check COSMOS_DATABASE."
        )

    async def close(self) -> None:
        async with self._lock:
            client, self._client = self._client, None
            self._proxies.clear()
            if client is not None:
                await client.close()


def _refusal(container: Container, document_id: str, status: int) -> StoreError:
    if status == 409:
        return DocumentExists(f"{container.name} has a document {document_id!r} already")
    return DocumentChanged(f"Document {document_id!r} of {container.name} has changed or is gone")


def _document(item: Mapping[str, Any]) -> Document:
    """Without what Cosmos DB adds: _rid, _self, _etag, _ts, _attachments."""
    return Document({name: value for name, value in item.items() if not name.startswith("_")}, item["_etag"])


def _written(container: Container, checked: CheckedBody, answer: Answer) -> Document:
    if answer.status != 200:
        raise _refusal(container, checked.id, answer.status)
    return Document(checked.copy(), answer.result["_etag"])


def _if_match(etag: str) -> dict[str, Any]:
    from azure.core import MatchConditions

    return {"etag": etag, "match_condition": MatchConditions.IfNotModified}


async def _execute(proxy: ContainerProxy, *, items: list[Any], partition: str) -> None:
    await proxy.execute_item_batch(items, partition)


def _batch_item(operation: Operation, subject: CheckedBody | str) -> tuple[Any, ...]:
    if isinstance(subject, str):
        etag = operation.etag if isinstance(operation, Delete) else None
        return ("delete", (subject,), {"if_match_etag": etag} if etag is not None else {})
    if isinstance(operation, Replace):
        return ("replace", (subject.id, subject.copy()), {"if_match_etag": operation.etag})
    return ("create" if isinstance(operation, Create) else "upsert", (subject.copy(),), {})


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except binascii.Error:
        return False
