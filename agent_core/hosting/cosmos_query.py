"""How a query is put in Cosmos DB's SQL, and the indexes it needs: the two must fit, so they stand side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent_core.store.document_rules import Position
from agent_core.store.document_store import Container, JsonObject, Where


def indexing_policy(container: Container) -> JsonObject:
    """The indexing policy of a container: its declared fields and nothing else, and each order a query can ask for.

    A deployment that creates the container has to give it this policy: without the composite indexes Cosmos DB
    refuses to order by two fields.
    """
    partition_key = container.partition_key
    orders = [_order(container, None), *(_order(container, name) for name in container.indexed)]
    return {
        "indexingMode": "consistent",
        "automatic": True,
        "includedPaths": [{"path": f"/{name}/?"} for name in (partition_key, *container.indexed)],
        "excludedPaths": [{"path": "/*"}],
        "compositeIndexes": [[{"path": f"/{name}", "order": "ascending"} for name in order] for order in orders],
    }


def selection(
    container: Container,
    partition: str | None,
    where: Sequence[Where],
    order_by: str | None,
    after: Position | None,
    limit: int,
) -> tuple[str, list[dict[str, Any]]]:
    """The SQL that finds up to `limit` documents after a position, and its parameters.

    We page by position because the SDK has no continuation for an order across partitions, and takes the token of a
    page from headers that every call of the client writes to.
    """
    conditions = []
    values: dict[str, str | int | float] = {}
    if partition is not None:
        conditions.append(f"{_field(container.partition_key)} = @partition")
        values["@partition"] = partition
    for number, condition in enumerate(where):
        conditions.append(f"{_field(condition.field)} {condition.operator} @value{number}")
        values[f"@value{number}"] = condition.value
    order = _order(container, order_by)
    if order_by is not None:
        conditions.append(f"IS_DEFINED({_field(order_by)}) AND NOT IS_NULL({_field(order_by)})")
    if after is not None:
        conditions.append(_beyond(order))
        values |= {f"@after_{container.partition_key}": after.partition, "@after_id": after.id}
        if order_by is not None and after.value is not None:
            values[f"@after_{order_by}"] = after.value
    filters = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    sql = f"SELECT TOP {limit} * FROM c{filters} ORDER BY {', '.join(f'{_field(name)} ASC' for name in order)}"
    return sql, [{"name": name, "value": value} for name, value in values.items()]


def _order(container: Container, order_by: str | None) -> list[str]:
    first = [order_by] if order_by is not None else []
    return [*first, container.partition_key, "id"]


def _beyond(order: Sequence[str]) -> str:
    """The condition (a, b, c) > (@after_a, @after_b, @after_c), which this SQL cannot say in one."""
    name, *others = order
    further = f"{_field(name)} > @after_{name}"
    return f"({further} OR ({_field(name)} = @after_{name} AND {_beyond(others)}))" if others else further


def _field(name: str) -> str:
    return f'c["{name}"]'
