"""What every store checks before it touches a document or a query, so that all of them refuse the same things."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from agent_core.store.document_store import Container, Delete, JsonObject, Operation, Operator, Where, checked_id

MAX_BATCH = 100
MAX_LIMIT = 1000
# https://learn.microsoft.com/azure/cosmos-db/concepts-limits#per-item-limits
_MAX_PARTITION_BYTES = 2048
_MAX_TTL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class CheckedBody:
    """A body that every store can keep: its place, its time to live in seconds and its JSON text."""

    partition: str
    id: str
    ttl: int | None
    text: str

    def copy(self) -> JsonObject:
        """The body as it is stored: a fresh dict, without the store's own fields."""
        body: JsonObject = json.loads(self.text)
        return body


def checked_body(container: Container, body: JsonObject) -> CheckedBody:
    """The body without its underscored fields; ValueError if it is no JSON, or has no usable id, partition or ttl."""
    partition = checked_partition(container.partition_of(body))
    ttl = body.get("ttl")
    if "ttl" in body and not (type(ttl) is int and 0 < ttl <= _MAX_TTL):
        raise ValueError(f"The ttl of document {body['id']!r} is a positive number of whole seconds, not {ttl!r}")
    own = {name: value for name, value in body.items() if not name.startswith("_")}
    try:
        text = json.dumps(own, allow_nan=False, separators=(",", ":"))
    except TypeError as error:
        raise ValueError(f"Document {body['id']!r} is not JSON: {error}") from error
    return CheckedBody(partition, str(body["id"]), ttl, text)


def checked_partition(partition: str) -> str:
    """The partition, if every store accepts it; ValueError otherwise."""
    if not partition or len(partition.encode()) > _MAX_PARTITION_BYTES:
        raise ValueError(f"A partition is 1 to {_MAX_PARTITION_BYTES} bytes of text: hash a longer one")
    return partition


def checked_operations(
    container: Container, partition: str, operations: Sequence[Operation]
) -> list[CheckedBody | str]:
    """Each operation's body, or the id it deletes; ValueError if one is bad, in another partition, or too many."""
    if not 1 <= len(operations) <= MAX_BATCH:
        raise ValueError(f"A batch has 1 to {MAX_BATCH} operations, not {len(operations)}")
    checked_partition(partition)
    subjects: list[CheckedBody | str] = []
    for operation in operations:
        if isinstance(operation, Delete):
            subjects.append(checked_id(operation.id))
            continue
        body = checked_body(container, operation.body)
        if body.partition != partition:
            raise ValueError(f"Document {body.id!r} is in another partition than the batch")
        subjects.append(body)
    return subjects


def checked_order(
    container: Container, partition: str | None, where: Sequence[Where], order_by: str | None, limit: int
) -> str | None:
    """The field that comes before (partition, id) in the order of a query's documents, None if none does.

    Raises:
        ValueError: a field is not declared, an operator or a value is none, or the limit is out of bounds.
    """
    if partition is not None:
        checked_partition(partition)
    declared = (container.partition_key, *container.indexed)
    for name in (*(condition.field for condition in where), *((order_by,) if order_by is not None else ())):
        if name not in declared:
            raise ValueError(f"{name!r} is no declared field of {container.name!r}; declared are {', '.join(declared)}")
    for condition in where:
        if condition.operator not in get_args(Operator):
            raise ValueError(f"{condition.operator!r} is no operator; there are {' '.join(get_args(Operator))}")
        if not isinstance(condition.value, (str, int, float)):
            raise ValueError(f"{condition.field!r} is compared with text, a number or a boolean")
    if not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"The limit of a query is 1 to {MAX_LIMIT}, not {limit}")
    return None if order_by == container.partition_key else order_by


@dataclass(frozen=True, slots=True)
class Position:
    """The document after which a query's next page begins, in the order (ordering value, partition, id).

    A position survives what is written meanwhile, the process, and a change of the store's physical layout.
    """

    value: str | int | float | None
    partition: str
    id: str

    @classmethod
    def of(cls, container: Container, order_by: str | None, body: JsonObject) -> Position:
        """Where this document stands."""
        return cls(body[order_by] if order_by is not None else None, body[container.partition_key], body["id"])

    @classmethod
    def from_continuation(cls, continuation: str, order_by: str | None) -> Position:
        """Raises ValueError if the text is no continuation of a query with this order."""
        try:
            name, value, partition, document_id = json.loads(base64.urlsafe_b64decode(continuation.encode("ascii")))
        except (ValueError, TypeError, binascii.Error) as error:
            raise ValueError("The continuation is none that a query gave") from error
        if name != order_by or (value is None) != (order_by is None):
            raise ValueError("The continuation belongs to a query with another order")
        if not (isinstance(value, (str, int, float, type(None))) and type(partition) is type(document_id) is str):
            raise ValueError("The continuation is none that a query gave")
        return cls(value, partition, document_id)

    def continuation(self, order_by: str | None) -> str:
        """The position as text that a caller may keep or send."""
        place = json.dumps([order_by, self.value, self.partition, self.id], separators=(",", ":"))
        return base64.urlsafe_b64encode(place.encode()).decode()
