"""What a store must do to keep the agent's documents: the protocol that memory, SQLite and Cosmos DB all meet."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

JsonObject = dict[str, Any]
Operator = Literal["=", "<", "<=", ">", ">="]

# https://learn.microsoft.com/rest/api/cosmos-db/documents: an id has at most 255 characters, none of them / \ ? #.
# We allow less, so that one id is good in every store. An id is the end of a URL's path, where "." and ".." mean
# another resource: a delete of ".." would ask for the container.
_GOOD_ID = re.compile(r"(?!\.\.?\Z)[A-Za-z0-9._:|~@=+-]{1,255}")


# The longest name from outside, such as a conversation's id, that becomes a partition.
MAX_NAME = 1000


@dataclass(frozen=True, slots=True)
class Container:
    """A named set of documents, divided into partitions.

    Attributes:
        partition_key: the field of each document (a string) that names its partition.
        indexed: the fields, besides the partition key, that a query may name. Each holds a string, number or boolean,
            or is absent; times are written so that text order is time order (UTC, fixed width).
    """

    name: str
    partition_key: str
    indexed: tuple[str, ...] = ()

    def partition_of(self, body: Mapping[str, Any]) -> str:
        """The partition a document belongs to; ValueError if it has none, or no usable id."""
        partition = body.get(self.partition_key)
        if not isinstance(partition, str) or not partition:
            raise ValueError(f"A document of {self.name!r} needs a string in {self.partition_key!r}")
        checked_id(body.get("id"))
        return partition


def checked_id(document_id: object) -> str:
    """The id, if every store accepts it; ValueError otherwise. Hash ids that come from outside."""
    if not isinstance(document_id, str) or not is_good_id(document_id):
        raise ValueError(f"A document id has 1 to 255 characters of A-Z a-z 0-9 . _ : | ~ @ = + -, not {document_id!r}")
    return document_id


def is_good_id(text: str) -> bool:
    """Whether every store accepts this as an id."""
    return _GOOD_ID.fullmatch(text) is not None


def is_storable(partition: str) -> bool:
    """Whether every store takes this as a partition: up to 1000 characters and 2 KB, in UTF-8."""
    try:
        return 0 < len(partition) <= MAX_NAME and len(partition.encode()) <= 2048
    except UnicodeEncodeError:  # a lone surrogate, which JSON can say and UTF-8 cannot
        return False


def time_text(time: datetime) -> str:
    """An aware time as stored: UTC with microseconds, so that text order is time order; ValueError for a naive one."""
    if time.tzinfo is None:
        raise ValueError("A stored time needs a time zone: datetime.now(UTC), not datetime.now()")
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """The aware time that `time_text` wrote; ValueError for other text."""
    time = datetime.fromisoformat(text)
    if time.utcoffset() is None or time_text(time) != text:
        raise ValueError(f"{text!r:.80} is no stored time")
    return time


def id_for(kind: str, *parts: str) -> str:
    """A document id that every store accepts, for names that come from outside: the same for the same parts."""
    # Each part with its length, so that ("a", "bc") and ("ab", "c") differ.
    named = "".join(f"{len(part)}:{part}" for part in parts)
    return f"{kind}|{hashlib.sha256(named.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


CONVERSATIONS = Container(
    "conversations",
    "conversation",
    (
        *("kind", "status", "channel", "continuation", "created", "key"),
        *("aadObjectId", "userId", "tenantId", "teamId", "teamsChannelId"),
    ),
)
USERS = Container("users", "user", ("kind", "aadObjectId"))
SCHEDULES = Container("schedules", "shard", ("kind", "status", "due", "conversation", "recipient", "tag"))
CONTAINERS = (CONVERSATIONS, USERS, SCHEDULES)


@dataclass(frozen=True, slots=True)
class Document:
    """A stored document: its JSON object (with `id` and the partition key in it) and the ETag of this version."""

    body: JsonObject
    etag: str

    @property
    def id(self) -> str:
        """The document's id, unique in its partition."""
        return str(self.body["id"])


@dataclass(frozen=True, slots=True)
class Create:
    """Write a new document; the batch fails with DocumentExists if there is one of that id."""

    body: JsonObject


@dataclass(frozen=True, slots=True)
class Replace:
    """Write over the version with this ETag; the batch fails with DocumentChanged if it is another or gone."""

    body: JsonObject
    etag: str


@dataclass(frozen=True, slots=True)
class Upsert:
    """Write, whatever is there."""

    body: JsonObject


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete; with an ETag only that version (else DocumentChanged), without one a missing document is fine."""

    id: str
    etag: str | None = None


Operation = Create | Replace | Upsert | Delete


@dataclass(frozen=True, slots=True)
class Where:
    """One condition of a query. A document without the field never matches."""

    field: str
    operator: Operator
    value: str | int | float | bool


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a query's documents; `continuation` asks for the rest and is None at the end."""

    documents: Sequence[Document] = field(default_factory=list)
    continuation: str | None = None


class DocumentStore(Protocol):
    """Documents in partitions, with an ETag on each.

    A body with a positive integer in `ttl` is gone that many seconds after its last write: not read, not found, and
    its id is free again. What is handed in is copied and what comes out is a copy: nobody shares a dict with the store.
    Fields that begin with an underscore belong to the store and are dropped on write.

    ValueError is for what no store keeps: a body that is not JSON (NaN is not), a `ttl` that is no positive integer, a
    partition longer than 2048 bytes.

    Every method raises StoreUnavailable if the store cannot be reached or does not answer in time; a write may then
    have happened or not.
    """

    async def read(self, container: Container, partition: str, document_id: str) -> Document | None:
        """The newest version, or None."""

    async def create(self, container: Container, body: JsonObject) -> Document:
        """Write a new document. Of two callers at once one succeeds and the other gets DocumentExists."""

    async def replace(self, container: Container, body: JsonObject, etag: str) -> Document:
        """Write over exactly that version. Of two callers with one ETag one succeeds, the other gets DocumentChanged;
        so does a caller whose document is gone."""

    async def upsert(self, container: Container, body: JsonObject) -> Document:
        """Write whatever is there. Of two callers at once the later one's document stays."""

    async def delete(self, container: Container, partition: str, document_id: str, etag: str | None = None) -> None:
        """Delete. With an ETag only that version, else DocumentChanged; without one, a missing document is fine."""

    async def batch(self, container: Container, partition: str, operations: Sequence[Operation]) -> list[str]:
        """Do all of 1 to 100 operations in one partition, or none; the first that cannot be done decides the error.

        Returns the ETags of what was written, in the order of the operations; "" for a document that was deleted.
        """

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
        """Documents that meet every condition, in one partition or in all (None), at most `limit` (1 to 1000).

        `where` and `order_by` name the partition key or declared fields (ValueError otherwise). Ordered ascending by
        `order_by`, a field that holds one type throughout; documents without it are left out. Without `order_by` in no
        promised order. A page may hold fewer than `limit` and still have a continuation; what is
        written while one pages may or may not be seen, but what stays is seen exactly once.
        """

    async def close(self) -> None:
        """Let go of connections and files. The store opens them again if it is used again."""
