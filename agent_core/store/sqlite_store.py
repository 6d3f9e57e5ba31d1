"""Documents in a SQLite file, so that the agent keeps what it knows on a machine that has nothing but Python."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

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
from agent_core.store.sqlite_file import SqliteFile

# `expires` is in seconds since 1970; `etag` is drawn anew for each version, so that no deleted one comes back.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    container TEXT NOT NULL,
    partition TEXT NOT NULL,
    id TEXT NOT NULL,
    etag TEXT NOT NULL,
    expires REAL,
    body TEXT NOT NULL,
    -- With the container first, SQLite would take this index, and go through the whole container, where it should take
    -- the index of a field.
    PRIMARY KEY (partition, id, container)
);
CREATE INDEX IF NOT EXISTS documents_expires ON documents (expires) WHERE expires IS NOT NULL;
"""
_NEW_ETAG = "lower(hex(randomblob(12)))"
_ALIVE = "(expires IS NULL OR expires > :now)"

# How many expired documents one write takes away: enough to keep up, too few to be felt.
_SWEEP = 20
_TOGETHER = 3


class SqliteStore:
    """A document store in one file, which several processes may use at once.

    The declared fields of a container are indexed when it is first used. A field that queries are ordered by holds
    text everywhere, or numbers everywhere.
    """

    def __init__(self, path: Path, now: Callable[[], datetime]) -> None:
        self._file = SqliteFile(path, _SCHEMA)
        self._now = now
        self._indexed: set[Container] = set()

    async def read(self, container: Container, partition: str, document_id: str) -> Document | None:
        place = {
            "container": container.name,
            "partition": checked_partition(partition),
            "id": checked_id(document_id),
            "now": self._seconds(),
        }
        sql = f"""SELECT body, etag FROM documents
                  WHERE container = :container AND partition = :partition AND id = :id AND {_ALIVE}"""

        def work(connection: sqlite3.Connection) -> Document | None:
            row = connection.execute(sql, place).fetchone()
            return Document(json.loads(row[0]), row[1]) if row is not None else None

        return await self._file.run(work, writes=False)

    async def create(self, container: Container, body: JsonObject) -> Document:
        return await self._write(container, Create(body))

    async def replace(self, container: Container, body: JsonObject, etag: str) -> Document:
        return await self._write(container, Replace(body, etag))

    async def upsert(self, container: Container, body: JsonObject) -> Document:
        return await self._write(container, Upsert(body))

    async def delete(self, container: Container, partition: str, document_id: str, etag: str | None = None) -> None:
        await self.batch(container, partition, [Delete(document_id, etag)])

    async def batch(self, container: Container, partition: str, operations: Sequence[Operation]) -> list[str]:
        subjects = checked_operations(container, partition, operations)
        now = self._seconds()

        def work(connection: sqlite3.Connection) -> list[str]:
            _sweep(connection, now)
            etags = []
            for operation, subject in zip(operations, subjects, strict=True):
                if isinstance(operation, Delete):
                    _delete(connection, container, partition, operation, now)
                    etags.append("")
                elif not isinstance(subject, str):
                    etags.append(_store(connection, container, operation, subject, now))
            return etags

        await self._index(container)
        return await self._file.run(work)

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
        sql, values = selection(container, partition, where, order_by, after)
        values |= {"now": self._seconds(), "limit": limit + 1}

        def work(connection: sqlite3.Connection) -> list[Document]:
            return [Document(json.loads(body), etag) for body, etag in connection.execute(sql, values)]

        await self._index(container)
        found = await self._file.run(work, writes=False)
        documents = found[:limit]
        more = len(found) > limit
        last = Position.of(container, order_by, documents[-1].body).continuation(order_by) if more else None
        return Page(documents, last)

    async def close(self) -> None:
        self._indexed.clear()
        await self._file.close()

    async def _write(self, container: Container, operation: Create | Replace | Upsert) -> Document:
        body = checked_body(container, operation.body)
        now = self._seconds()

        def work(connection: sqlite3.Connection) -> str:
            _sweep(connection, now)
            return _store(connection, container, operation, body, now)

        await self._index(container)
        return Document(body.copy(), await self._file.run(work))

    async def _index(self, container: Container) -> None:
        if container in self._indexed:
            return

        def work(connection: sqlite3.Connection) -> None:
            for statement in _indexes(container):
                connection.execute(statement)

        await self._file.run(work)
        self._indexed.add(container)

    def _seconds(self) -> float:
        return self._now().timestamp()


def selection(
    container: Container,
    partition: str | None,
    where: Sequence[Where],
    order_by: str | None,
    after: Position | None,
) -> tuple[str, dict[str, str | int | float]]:
    """The SQL of a query and its values but `:now` and `:limit`; rows are (body, etag)."""
    # The container's name is written out, not a parameter: only so does SQLite take the container's partial indexes.
    conditions = [f"container = {_quoted(container.name)}", _ALIVE]
    values: dict[str, str | int | float] = {}
    if partition is not None:
        conditions.append("partition = :partition")
        values["partition"] = partition
    for number, condition in enumerate(where):
        name = f"value{number}"
        column = "partition" if condition.field == container.partition_key else _field(condition.field)
        conditions.append(f"{column} {condition.operator} :{name}")
        # json_extract gives true as 1 and an object as its text, which would match numbers and texts.
        conditions.append(f"json_type(body, '$.{condition.field}') IN {_json_types(condition.value)}")
        values[name] = condition.value
    order = {"partition": "after_partition", "id": "after_id"}
    if partition is not None:
        del order["partition"]
    if order_by is not None:
        order = {_field(order_by): "after_value"} | order
        conditions.append(f"{_field(order_by)} IS NOT NULL")
    if after is not None:
        values |= {"after_partition": after.partition, "after_id": after.id}
        if after.value is not None:
            values["after_value"] = after.value
        conditions.append(f"({', '.join(order)}) > ({', '.join(f':{mark}' for mark in order.values())})")
    sql = f"SELECT body, etag FROM documents WHERE {' AND '.join(conditions)} ORDER BY {', '.join(order)} LIMIT :limit"
    return sql, values


def _indexes(container: Container) -> list[str]:
    """What makes queries on a container quick, in a partition and across them.

    Over its first declared fields together, which say what kind of document is meant and in what state; and over each
    field alone, for the documents that have it: most have few of them, and every index is paid for by each write.
    """
    name = container.name
    fields = {field: _field(field) for field in container.indexed}
    first = dict(list(fields.items())[:_TOGETHER])
    groups = {"": ["partition", "id"]}
    if first:
        together = "_".join(first)
        groups |= {
            f"partition_{together}": ["partition", *first.values(), "id"],
            together: [*first.values(), "partition", "id"],
        }
    return [_index(name, group, columns) for group, columns in groups.items()] + [
        _index(name, field, [column, "partition", "id"], f" AND {column} IS NOT NULL")
        for field, column in fields.items()
    ]


def _index(container: str, group: str, columns: list[str], also: str = "") -> str:
    return (
        f"CREATE INDEX IF NOT EXISTS {_quoted_name(f'documents_{container}_{group}')} ON documents "
        f"({', '.join(columns)}) WHERE container = {_quoted(container)}{also}"
    )


def _field(name: str) -> str:
    return f"json_extract(body, '$.{name}')"


def _json_types(value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return "('true', 'false')"
    return "('text')" if isinstance(value, str) else "('integer', 'real')"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quoted_name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _store(
    connection: sqlite3.Connection,
    container: Container,
    operation: Create | Replace | Upsert,
    body: CheckedBody,
    now: float,
) -> str:
    """Write one document; returns its ETag."""
    values: dict[str, str | float | None] = {
        "container": container.name,
        "partition": body.partition,
        "id": body.id,
        "body": body.text,
        "expires": now + body.ttl if body.ttl is not None else None,
        "now": now,
    }
    place = "container = :container AND partition = :partition AND id = :id"
    if isinstance(operation, Replace):
        sql = f"""UPDATE documents SET body = :body, expires = :expires, etag = {_NEW_ETAG}
                  WHERE {place} AND etag = :etag AND {_ALIVE} RETURNING etag"""
        written = connection.execute(sql, values | {"etag": operation.etag}).fetchall()
        if not written:
            raise DocumentChanged(f"Document {body.id!r} of {container.name} has changed or is gone")
    else:
        # A create writes over an expired document, whose id is free again.
        condition = f"WHERE NOT {_ALIVE}" if isinstance(operation, Create) else ""
        sql = f"""INSERT INTO documents (container, partition, id, etag, expires, body)
                  VALUES (:container, :partition, :id, {_NEW_ETAG}, :expires, :body)
                  ON CONFLICT (partition, id, container) DO UPDATE
                  SET body = excluded.body, expires = excluded.expires, etag = excluded.etag {condition}
                  RETURNING etag"""
        written = connection.execute(sql, values).fetchall()
        if not written:
            raise DocumentExists(f"{container.name} has a document {body.id!r} already")
    return str(written[0][0])


def _delete(
    connection: sqlite3.Connection, container: Container, partition: str, operation: Delete, now: float
) -> None:
    sql = "DELETE FROM documents WHERE container = :container AND partition = :partition AND id = :id"
    values = {"container": container.name, "partition": partition, "id": operation.id}
    if operation.etag is None:
        connection.execute(sql, values)
        return
    deleted = connection.execute(f"{sql} AND etag = :etag AND {_ALIVE}", {**values, "etag": operation.etag, "now": now})
    if deleted.rowcount == 0:
        raise DocumentChanged(f"Document {operation.id!r} of {container.name} has changed or is gone")


def _sweep(connection: sqlite3.Connection, now: float) -> None:
    connection.execute(
        "DELETE FROM documents WHERE rowid IN (SELECT rowid FROM documents WHERE expires <= ? LIMIT ?)", (now, _SWEEP)
    )
