"""Documents in memory: the store for tests and samples, with the semantics of the real ones."""

from __future__ import annotations

import asyncio
import itertools
import json
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from agent_core.errors import DocumentChanged, DocumentExists
from agent_core.store.document_rules import (
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
    Upsert,
    Where,
    checked_id,
)

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class _Row:
    fields: JsonObject  # what a query may name, of the document in `text`
    text: str
    etag: str
    expires: datetime | None

    def document(self) -> Document:
        return Document(json.loads(self.text), self.etag)


_Rows = dict[str, _Row]


class MemoryStore:
    """A document store that forgets everything with the process."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._partitions: dict[tuple[str, str], _Rows] = {}
        self._versions = itertools.count(1)

    async def read(self, container: Container, partition: str, document_id: str) -> Document | None:
        await _let_others_run()
        row = self._rows(container, checked_partition(partition)).get(checked_id(document_id))
        return row.document() if row is not None else None

    async def create(self, container: Container, body: JsonObject) -> Document:
        return await self._write(container, Create(body))

    async def replace(self, container: Container, body: JsonObject, etag: str) -> Document:
        return await self._write(container, Replace(body, etag))

    async def upsert(self, container: Container, body: JsonObject) -> Document:
        return await self._write(container, Upsert(body))

    async def delete(self, container: Container, partition: str, document_id: str, etag: str | None = None) -> None:
        await self.batch(container, partition, [Delete(document_id, etag)])

    async def batch(self, container: Container, partition: str, operations: Sequence[Operation]) -> None:
        subjects = checked_operations(container, partition, operations)
        await _let_others_run()
        rows = dict(self._rows(container, partition))
        for operation, subject in zip(operations, subjects, strict=True):
            self._apply(container, rows, operation, subject)
        self._keep(container, partition, rows)

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
        await _let_others_run()
        if partition is not None:
            partitions = [partition]
        else:
            partitions = [key for name, key in self._partitions if name == container.name]
        found = [
            (_sort_key(Position.of(container, order_by, row.fields)), row)
            for key in partitions
            for row in self._rows(container, key).values()
            if all(_matches(row.fields, condition) for condition in where)
            and (order_by is None or row.fields.get(order_by) is not None)
        ]
        found.sort(key=operator.itemgetter(0))
        rest = [row for key, row in found if after is None or key > _sort_key(after)]
        rows = rest[:limit]
        more = len(rest) > limit
        last = Position.of(container, order_by, rows[-1].fields).continuation(order_by) if more else None
        return Page([row.document() for row in rows], last)

    async def close(self) -> None:
        """Nothing to let go of: the documents stay."""

    async def _write(self, container: Container, operation: Create | Replace | Upsert) -> Document:
        body = checked_body(container, operation.body)
        await _let_others_run()
        rows = self._rows(container, body.partition)
        self._apply(container, rows, operation, body)
        self._keep(container, body.partition, rows)
        return rows[body.id].document()

    def _rows(self, container: Container, partition: str) -> _Rows:
        """The living documents of a partition."""
        rows = self._partitions.get((container.name, partition), {})
        now = self._now()
        for gone in [key for key, row in rows.items() if row.expires is not None and row.expires <= now]:
            del rows[gone]
        return rows

    def _keep(self, container: Container, partition: str, rows: _Rows) -> None:
        if rows:
            self._partitions[container.name, partition] = rows
        else:
            self._partitions.pop((container.name, partition), None)

    def _apply(self, container: Container, rows: _Rows, operation: Operation, subject: CheckedBody | str) -> None:
        document_id = subject if isinstance(subject, str) else subject.id
        row = rows.get(document_id)
        if isinstance(operation, Create) and row is not None:
            raise DocumentExists(f"{container.name} has a document {document_id!r} already")
        expected = operation.etag if isinstance(operation, (Replace, Delete)) else None
        if expected is not None and (row is None or row.etag != expected):
            raise DocumentChanged(f"Document {document_id!r} of {container.name} has changed or is gone")
        if isinstance(subject, str):
            rows.pop(document_id, None)
            return
        expires = self._now() + timedelta(seconds=subject.ttl) if subject.ttl is not None else None
        body = subject.copy()
        fields = {name: body[name] for name in ("id", container.partition_key, *container.indexed) if name in body}
        rows[document_id] = _Row(fields, subject.text, str(next(self._versions)), expires)


async def _let_others_run() -> None:
    """Every call to a real store lets others run; a caller that cannot bear it shall fail here too."""
    await asyncio.sleep(0)


def _matches(fields: JsonObject, condition: Where) -> bool:
    value = fields.get(condition.field)
    return _kind(value) == _kind(condition.value) and _COMPARE[condition.operator](value, condition.value)


def _kind(value: object) -> type | None:
    """What a value can be compared with: in JSON, unlike in Python, `true` is no number."""
    if isinstance(value, bool):
        return bool
    if isinstance(value, (int, float)):
        return float
    return str if isinstance(value, str) else None


def _sort_key(position: Position) -> tuple[bool, Any, str, str]:
    value = position.value
    # Numbers before text, so that a field with both does not fail the comparison.
    return isinstance(value, str), value if value is not None else 0, position.partition, position.id
