"""What every document store does, asked of each of them in the same words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol
from uuid import uuid4

import pytest
from azure.cosmos.aio import CosmosClient

from agent_core.errors import DocumentChanged, DocumentExists, StoreError
from agent_core.hosting.cosmos_store import CosmosConnection, CosmosStore
from agent_core.store.document_store import (
    Container,
    Create,
    Delete,
    Document,
    DocumentStore,
    JsonObject,
    Operation,
    Operator,
    Replace,
    Upsert,
    Where,
)
from agent_core.testing import ManualClock
from tests.cosmos_server.running import ABSENT

THINGS = Container("things", "place", ("kind", "count", "done", "due"))
Build = Callable[..., JsonObject]


class StoreUnderTest(Protocol):
    """What the fixture of that name gives."""

    @property
    def name(self) -> str: ...
    @property
    def store(self) -> DocumentStore: ...
    @property
    def clock(self) -> ManualClock: ...


async def all_of(store: DocumentStore, limit: int = 100, container: Container = THINGS, **query: Any) -> list[Document]:
    """Every page of a query, in order."""
    found: list[Document] = []
    continuation = None
    while True:
        page = await store.query(container, limit=limit, continuation=continuation, **query)
        assert len(page.documents) <= limit
        found += page.documents
        continuation = page.continuation
        if continuation is None:
            return found


async def ids_of(store: DocumentStore, partition: str) -> set[str]:
    return {document.id for document in await all_of(store, partition=partition)}


# --- one document


async def test_a_document_that_was_never_written_is_none(store: DocumentStore, partition: str) -> None:
    assert await store.read(THINGS, partition, "nothing") is None


async def test_what_was_created_is_read_with_the_same_etag(store: DocumentStore, partition: str, body: Build) -> None:
    created = await store.create(THINGS, body(kind="cup"))
    read = await store.read(THINGS, partition, "a")
    assert read == created
    assert created.body == body(kind="cup")
    assert created.etag


async def test_an_id_is_taken_once_in_a_partition_and_free_in_another(store: DocumentStore, body: Build) -> None:
    await store.create(THINGS, body(kind="first"))
    with pytest.raises(DocumentExists, match="'a'"):
        await store.create(THINGS, body(kind="second"))
    elsewhere = uuid4().hex
    await store.create(THINGS, {"id": "a", "place": elsewhere, "kind": "third"})
    here = await store.read(THINGS, body()["place"], "a")
    there = await store.read(THINGS, elsewhere, "a")
    assert here is not None
    assert there is not None
    assert (here.body["kind"], there.body["kind"]) == ("first", "third")


async def test_the_same_place_and_id_in_two_containers_are_two_documents(store: DocumentStore, body: Build) -> None:
    await store.create(THINGS, body(kind="thing"))
    await store.create(Container("others", "place"), body(kind="other"))
    read = await store.read(THINGS, body()["place"], "a")
    assert read is not None
    assert read.body["kind"] == "thing"


async def test_of_many_creates_at_once_exactly_one_wins(store: DocumentStore, partition: str, body: Build) -> None:
    results = await asyncio.gather(
        *(store.create(THINGS, body(by=number)) for number in range(20)), return_exceptions=True
    )
    winners = [result for result in results if isinstance(result, Document)]
    assert len(winners) == 1
    assert [type(result) for result in results if not isinstance(result, Document)] == [DocumentExists] * 19
    assert await store.read(THINGS, partition, "a") == winners[0]


async def test_a_replace_gives_a_new_etag_and_makes_the_old_one_stale(store: DocumentStore, body: Build) -> None:
    first = await store.create(THINGS, body(version=1))
    second = await store.replace(THINGS, body(version=2), first.etag)
    assert second.etag != first.etag
    with pytest.raises(DocumentChanged, match="'a'"):
        await store.replace(THINGS, body(version=3), first.etag)
    assert await store.read(THINGS, body()["place"], "a") == second
    assert second.body["version"] == 2


async def test_a_replace_of_a_document_that_is_gone_is_refused(
    store: DocumentStore, partition: str, body: Build
) -> None:
    first = await store.create(THINGS, body())
    await store.delete(THINGS, partition, "a")
    with pytest.raises(DocumentChanged):
        await store.replace(THINGS, body(), first.etag)
    assert await store.read(THINGS, partition, "a") is None


async def test_an_etag_does_not_come_back_with_a_new_document_of_the_id(
    store: DocumentStore, partition: str, body: Build
) -> None:
    first = await store.create(THINGS, body())
    await store.delete(THINGS, partition, "a")
    await store.create(THINGS, body())
    with pytest.raises(DocumentChanged):
        await store.replace(THINGS, body(late=True), first.etag)


async def test_an_unchanged_write_makes_a_new_version_too(store: DocumentStore, body: Build) -> None:
    first = await store.create(THINGS, body())
    await store.upsert(THINGS, body())
    with pytest.raises(DocumentChanged):
        await store.replace(THINGS, body(), first.etag)


async def test_thirty_increments_at_once_that_check_the_etag_lose_none(
    store: DocumentStore, partition: str, body: Build
) -> None:
    await store.create(THINGS, body(count=0))

    async def increment() -> None:
        while True:
            document = await store.read(THINGS, partition, "a")
            assert document is not None
            try:
                await store.replace(THINGS, {**document.body, "count": document.body["count"] + 1}, document.etag)
            except DocumentChanged:
                continue
            return

    await asyncio.gather(*(increment() for _ in range(30)))
    document = await store.read(THINGS, partition, "a")
    assert document is not None
    assert document.body["count"] == 30


async def test_an_upsert_writes_whatever_is_there(store: DocumentStore, partition: str, body: Build) -> None:
    first = await store.upsert(THINGS, body(old=1))
    second = await store.upsert(THINGS, body(new=2))
    assert second.etag != first.etag
    assert second.body == body(new=2)
    assert await store.read(THINGS, partition, "a") == second


async def test_a_delete_without_an_etag_may_find_nothing(store: DocumentStore, partition: str, body: Build) -> None:
    await store.create(THINGS, body())
    await store.delete(THINGS, partition, "a")
    await store.delete(THINGS, partition, "a")
    assert await store.read(THINGS, partition, "a") is None


async def test_a_delete_with_an_etag_takes_only_that_version(store: DocumentStore, partition: str, body: Build) -> None:
    first = await store.create(THINGS, body())
    second = await store.replace(THINGS, body(), first.etag)
    with pytest.raises(DocumentChanged):
        await store.delete(THINGS, partition, "a", first.etag)
    assert await store.read(THINGS, partition, "a") == second
    await store.delete(THINGS, partition, "a", second.etag)
    assert await store.read(THINGS, partition, "a") is None
    with pytest.raises(DocumentChanged):
        await store.delete(THINGS, partition, "a", second.etag)


async def test_a_closed_store_opens_again(under_test: StoreUnderTest, partition: str, body: Build) -> None:
    await under_test.store.create(THINGS, body())
    await under_test.store.close()
    await under_test.store.close()
    assert await under_test.store.read(THINGS, partition, "a") is not None


# --- what a document may be


async def test_nobody_shares_a_dict_with_the_store(store: DocumentStore, partition: str, body: Build) -> None:
    mine = body(list=[1, {"deep": "before"}])
    created = await store.create(THINGS, mine)
    mine["list"][1]["deep"] = "changed by the writer"
    created.body["list"][1]["deep"] = "changed in what create gave"
    read = await store.read(THINGS, partition, "a")
    assert read is not None
    assert read.body["list"] == [1, {"deep": "before"}]
    read.body["list"].append("changed by a reader")
    page = await store.query(THINGS, partition=partition)
    assert page.documents[0].body["list"] == [1, {"deep": "before"}]
    page.documents[0].body["list"].append("changed in a page")
    again = await store.read(THINGS, partition, "a")
    assert again is not None
    assert again.body["list"] == [1, {"deep": "before"}]


VALUES: JsonObject = {
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "int": -(2**53),
    "float": 0.1,
    "tiny": 5e-324,
    "empty": ["", [], {}],
    "nested": {"a": [{"b": [[None, 1, "x"]]}], "_inner": "is not the store's", "": "empty name"},
    "text": "é ✓ 😀 \u2028 \u0000 \\ \" ' % ${x} </script>",
    "名前": "値",
    "with space and 'quotes'": 1,
}


async def test_values_come_back_as_they_were(store: DocumentStore, partition: str, body: Build) -> None:
    created = await store.create(THINGS, body(**VALUES))
    read = await store.read(THINGS, partition, "a")
    assert read is not None
    assert read.body == created.body == body(**VALUES)
    for name, value in VALUES.items():
        assert type(read.body[name]) is type(value), name


async def test_whole_floats_stay_equal_and_keep_their_type_where_the_store_can(
    under_test: StoreUnderTest, partition: str, body: Build
) -> None:
    """Cosmos DB keeps numbers as JavaScript does: 1.0 is 1, and integers are exact up to 2**53."""
    await under_test.store.create(THINGS, body(whole=1.0, big=2**53))
    read = await under_test.store.read(THINGS, partition, "a")
    assert read is not None
    assert (read.body["whole"], read.body["big"]) == (1.0, 2**53)
    if under_test.name != "cosmos":
        assert isinstance(read.body["whole"], float)


async def test_underscored_fields_are_the_stores(store: DocumentStore, partition: str, body: Build) -> None:
    created = await store.create(THINGS, body(_etag="mine", _ts=1, _rid="x", _other=True, kind="cup"))
    assert created.body == body(kind="cup")
    assert created.etag != "mine"
    read = await store.read(THINGS, partition, "a")
    assert read == created
    page = await store.query(THINGS, partition=partition)
    assert list(page.documents) == [created]


async def test_a_document_of_half_a_megabyte_comes_back_whole(
    store: DocumentStore, partition: str, body: Build
) -> None:
    text = "0123456789abcdé✓" * 30_000
    assert len(text.encode()) > 500_000
    await store.create(THINGS, body(text=text))
    read = await store.read(THINGS, partition, "a")
    assert read is not None
    assert read.body["text"] == text
    await store.batch(THINGS, partition, [Replace(body(text=text[::-1]), read.etag), Create(body("b"))])
    again = await store.read(THINGS, partition, "a")
    assert again is not None
    assert again.body["text"] == text[::-1]


@pytest.mark.parametrize(
    "name",
    [
        "19:abc@thread.tacv2;messageid=1",
        "Grüße, 世界 😀",
        " a b ",
        'it\'s "quoted" \\ `so`',
        "/slashes\\?and#marks%20",
        "[1]",
        "null",
        "line\nbreak\u0001",
        "x" * 900,
    ],
    ids=["teams", "unicode", "spaces", "quotes", "slashes", "json", "null", "control", "long"],
)
async def test_a_partition_may_be_any_text(store: DocumentStore, name: str) -> None:
    odd = name + uuid4().hex
    near = odd + " "
    created = await store.create(THINGS, {"id": "a", "place": odd, "kind": "odd"})
    await store.create(THINGS, {"id": "a", "place": near})
    assert await store.read(THINGS, odd, "a") == created
    page = await store.query(THINGS, partition=odd, where=[Where("kind", "=", "odd")])
    assert list(page.documents) == [created]
    replaced = await store.replace(THINGS, {"id": "a", "place": odd}, created.etag)
    await store.batch(THINGS, odd, [Delete("a", replaced.etag), Create({"id": "b", "place": odd})])
    assert await ids_of(store, odd) == {"b"}
    assert await ids_of(store, near) == {"a"}


@pytest.mark.parametrize(
    "good", ["a", "claim|19:x@thread.tacv2", "a+b=c~d", "x" * 255, "...", "..a", "-", "a.", "2026-01-05T12:00"]
)
async def test_a_good_id_works_in_every_call(store: DocumentStore, partition: str, good: str) -> None:
    created = await store.create(THINGS, {"id": good, "place": partition})
    assert created.id == good
    assert await store.read(THINGS, partition, good) == created
    replaced = await store.replace(THINGS, {"id": good, "place": partition, "new": 1}, created.etag)
    await store.batch(THINGS, partition, [Replace({"id": good, "place": partition, "new": 2}, replaced.etag)])
    document = (await store.query(THINGS, partition=partition)).documents[0]
    assert (document.id, document.body["new"]) == (good, 2)
    await store.delete(THINGS, partition, good, document.etag)
    assert await store.read(THINGS, partition, good) is None


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "a\\b", "a?b", "a#b", "a b", "é", "x" * 256, "a\n", None, 7])
async def test_a_bad_id_is_a_value_error_in_every_call(store: DocumentStore, partition: str, bad: Any) -> None:
    body = {"id": bad, "place": partition}
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.read(THINGS, partition, bad),
        lambda: store.create(THINGS, body),
        lambda: store.replace(THINGS, body, "etag"),
        lambda: store.upsert(THINGS, body),
        lambda: store.delete(THINGS, partition, bad),
        lambda: store.batch(THINGS, partition, [Create(body)]),
        lambda: store.batch(THINGS, partition, [Delete(bad)]),
    ]
    for call in calls:
        with pytest.raises(ValueError):
            await call()


@pytest.mark.parametrize(
    "fields",
    [
        {"place": None},
        {"place": ""},
        {"place": 7},
        {"place": "x" * 2049},
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": 1.5},
        {"ttl": True},
        {"ttl": "60"},
        {"ttl": None},
        {"value": ...},
        {"value": float("nan")},
        {"value": {1, 2}},
    ],
    ids=repr,
)
async def test_a_document_that_some_store_could_not_keep_is_refused_by_all(
    store: DocumentStore, partition: str, fields: JsonObject
) -> None:
    with pytest.raises(ValueError):
        await store.create(THINGS, {"id": "a", "place": partition, **fields})
    assert await store.read(THINGS, partition, "a") is None


# --- batches


async def test_a_batch_does_all_its_operations(store: DocumentStore, partition: str, body: Build) -> None:
    changed = await store.create(THINGS, body("changed"))
    deleted = await store.create(THINGS, body("deleted"))
    await store.create(THINGS, body("deleted-too"))
    await store.batch(
        THINGS,
        partition,
        [
            Create(body("new")),
            Replace(body("changed", done=True), changed.etag),
            Upsert(body("put")),
            Delete("deleted", deleted.etag),
            Delete("deleted-too"),
        ],
    )
    assert await ids_of(store, partition) == {"changed", "new", "put"}
    document = await store.read(THINGS, partition, "changed")
    assert document is not None
    assert document.body["done"] is True
    assert document.etag != changed.etag


def _failing(body: Build) -> dict[str, tuple[Operation, type[StoreError]]]:
    return {
        "create": (Create(body("there")), DocumentExists),
        "stale replace": (Replace(body("there", kind="new"), '"stale"'), DocumentChanged),
        "replace of nothing": (Replace(body("nothing"), '"stale"'), DocumentChanged),
        "stale delete": (Delete("there", '"stale"'), DocumentChanged),
        "delete of nothing": (Delete("nothing", '"stale"'), DocumentChanged),
    }


@pytest.mark.parametrize(
    "failing", ["create", "stale replace", "replace of nothing", "stale delete", "delete of nothing"]
)
@pytest.mark.parametrize("place", [0, 2, 4], ids=["first", "middle", "last"])
async def test_one_failing_operation_undoes_the_batch(
    store: DocumentStore, partition: str, body: Build, failing: str, place: int
) -> None:
    there = await store.create(THINGS, body("there", kind="old"))
    other = await store.create(THINGS, body("other"))
    operation, error = _failing(body)[failing]
    operations: list[Operation] = [
        Create(body("new")),
        Replace(body("other", kind="new"), other.etag),
        Upsert(body("put")),
        Delete("missing"),
    ]
    operations.insert(place, operation)
    with pytest.raises(error):
        await store.batch(THINGS, partition, operations)
    assert await ids_of(store, partition) == {"there", "other"}
    assert await store.read(THINGS, partition, "there") == there
    assert await store.read(THINGS, partition, "other") == other


async def test_the_first_operation_that_cannot_be_done_decides_the_error(
    store: DocumentStore, partition: str, body: Build
) -> None:
    await store.create(THINGS, body("there"))
    exists, changed = Create(body("there")), Replace(body("there"), '"stale"')
    with pytest.raises(DocumentExists):
        await store.batch(THINGS, partition, [Upsert(body("x")), exists, changed])
    with pytest.raises(DocumentChanged):
        await store.batch(THINGS, partition, [Upsert(body("x")), changed, exists])
    with pytest.raises(DocumentChanged):
        await store.batch(THINGS, partition, [Delete("missing"), changed, exists])


async def test_the_operations_of_a_batch_see_the_ones_before_them(
    store: DocumentStore, partition: str, body: Build
) -> None:
    await store.batch(THINGS, partition, [Delete("a"), Create(body("a")), Upsert(body("a", count=2))])
    document = await store.read(THINGS, partition, "a")
    assert document is not None
    assert document.body["count"] == 2
    await store.batch(THINGS, partition, [Delete("a"), Create(body("a", count=3))])
    with pytest.raises(DocumentExists):
        await store.batch(THINGS, partition, [Create(body("b")), Create(body("b"))])
    assert await ids_of(store, partition) == {"a"}


async def test_a_batch_may_delete_only_what_is_missing(store: DocumentStore, partition: str) -> None:
    await store.batch(THINGS, partition, [Delete("x"), Delete("y")])


async def test_a_batch_tells_the_etags_of_what_it_wrote(store: DocumentStore, partition: str, body: Build) -> None:
    there = await store.create(THINGS, body("there"))
    gone = await store.create(THINGS, body("gone"))
    operations: list[Operation] = [
        Delete("never", None),
        Create(body("a")),
        Delete("gone", gone.etag),
        Replace(body("there"), there.etag),
    ]
    etags = await store.batch(THINGS, partition, operations)
    assert [bool(etag) for etag in etags] == [False, True, False, True]
    await store.batch(THINGS, partition, [Replace(body("a"), etags[1]), Replace(body("there"), etags[3])])


async def test_of_two_batches_with_one_etag_one_succeeds(store: DocumentStore, partition: str, body: Build) -> None:
    first = await store.create(THINGS, body())
    results = await asyncio.gather(
        *(
            store.batch(THINGS, partition, [Create(body(f"by-{number}")), Replace(body(by=number), first.etag)])
            for number in range(8)
        ),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["DocumentChanged"] * 7 + ["list"]
    assert len(await ids_of(store, partition)) == 2


async def test_a_batch_has_one_to_a_hundred_operations_in_one_partition(
    store: DocumentStore, partition: str, body: Build
) -> None:
    with pytest.raises(ValueError):
        await store.batch(THINGS, partition, [])
    with pytest.raises(ValueError):
        await store.batch(THINGS, partition, [Create(body(str(number))) for number in range(101)])
    with pytest.raises(ValueError):
        await store.batch(THINGS, partition, [Create(body("a")), Create({"id": "b", "place": "elsewhere"})])
    assert await ids_of(store, partition) == set()
    await store.batch(THINGS, partition, [Create(body(str(number))) for number in range(100)])
    assert len(await ids_of(store, partition)) == 100


# --- queries

ROWS: Sequence[JsonObject] = (
    {"id": "cup", "kind": "cup", "count": 1, "done": True, "due": "2026-01-05T12:00:00Z"},
    {"id": "jar", "kind": "jar", "count": 2.5, "done": False, "due": "2026-01-06T12:00:00Z"},
    {"id": "pot", "kind": "pot", "count": -3, "done": True, "due": "2026-01-07T12:00:00Z"},
    {"id": "text-count", "kind": "1", "count": "1", "done": "true"},
    {"id": "bool-count", "count": True, "done": 1},
    {"id": "null", "kind": None, "count": None, "done": None, "due": None},
    {"id": "bare"},
)


@pytest.mark.parametrize(
    ("field", "operator", "value", "expected"),
    [
        ("kind", "=", "cup", {"cup"}),
        ("kind", "=", "1", {"text-count"}),
        ("kind", "<", "jar", {"cup", "text-count"}),
        ("kind", "<=", "jar", {"cup", "jar", "text-count"}),
        ("kind", ">", "jar", {"pot"}),
        ("kind", ">=", "jar", {"jar", "pot"}),
        ("kind", "=", "'; DROP TABLE documents --", set()),
        ("count", "=", 1, {"cup"}),
        ("count", "=", 1.0, {"cup"}),
        ("count", "=", 2.5, {"jar"}),
        ("count", "<", 1, {"pot"}),
        ("count", "<=", 1, {"cup", "pot"}),
        ("count", ">", -3, {"cup", "jar"}),
        ("count", ">=", 0, {"cup", "jar"}),
        ("count", "=", True, {"bool-count"}),
        ("count", "=", "1", {"text-count"}),
        ("done", "=", True, {"cup", "pot"}),
        ("done", "=", False, {"jar"}),
        ("done", "=", 1, {"bool-count"}),
        ("done", "=", "true", {"text-count"}),
        ("due", "<=", "2026-01-06T12:00:00Z", {"cup", "jar"}),
        ("place", "=", "nowhere", set()),
    ],
)
async def test_a_query_compares_like_with_like(
    store: DocumentStore, partition: str, field: str, operator: Operator, value: Any, expected: set[str]
) -> None:
    await store.batch(THINGS, partition, [Create({**row, "place": partition}) for row in ROWS])
    page = await store.query(THINGS, partition=partition, where=[Where(field, operator, value)])
    assert {document.id for document in page.documents} == expected
    assert page.continuation is None
    for document in page.documents:
        assert await store.read(THINGS, partition, document.id) == document


async def test_a_document_has_to_meet_every_condition(store: DocumentStore, partition: str) -> None:
    await store.batch(THINGS, partition, [Create({**row, "place": partition}) for row in ROWS])
    where = [Where("done", "=", True), Where("count", ">", -5), Where("count", "<", 1), Where("place", "=", partition)]
    assert [document.id for document in await all_of(store, partition=partition, where=where)] == ["pot"]


async def test_a_query_without_conditions_finds_the_partition_and_no_other(
    store: DocumentStore, partition: str, body: Build
) -> None:
    await store.create(THINGS, body("mine"))
    await store.create(THINGS, {"id": "theirs", "place": partition + "x"})
    assert await ids_of(store, partition) == {"mine"}
    assert await ids_of(store, "no such place") == set()


async def test_a_query_without_a_partition_finds_all_of_them_in_order(store: DocumentStore) -> None:
    kind = uuid4().hex
    for number in range(6):
        row = {"id": "a", "place": f"{kind}-{number % 3}-{number}", "kind": kind, "count": 10 - number}
        await store.create(THINGS, row)
    await store.create(Container("others", "place", ("kind",)), {"id": "a", "place": kind, "kind": kind})
    where = [Where("kind", "=", kind)]
    everywhere = await all_of(store, limit=4, where=where)
    assert len({document.body["place"] for document in everywhere}) == len(everywhere) == 6
    ordered = await all_of(store, limit=4, where=where, order_by="count")
    assert [document.body["count"] for document in ordered] == [5, 6, 7, 8, 9, 10]
    by_place = await all_of(store, limit=4, where=where, order_by="place")
    assert [document.body["place"] for document in by_place] == sorted(d.body["place"] for d in everywhere)


@pytest.mark.parametrize("order_by", [None, "due", "count", "place"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 23, 24, 1000])
async def test_pages_of_any_size_hold_each_document_once(
    store: DocumentStore, partition: str, body: Build, order_by: str | None, limit: int
) -> None:
    """Many have one due time, so that pages end among equals."""
    rows = [body(f"row-{number:02}", due=f"2026-01-0{number % 3 + 1}", count=number % 4 / 2) for number in range(23)]
    await store.batch(THINGS, partition, [Create(row) for row in rows])
    found = await all_of(store, limit=limit, partition=partition, order_by=order_by)
    assert sorted(document.id for document in found) == [row["id"] for row in rows]
    if order_by is not None:
        values = [document.body[order_by] for document in found]
        assert values == sorted(values)


async def test_an_ordered_query_leaves_out_what_has_nothing_to_order_by(store: DocumentStore, partition: str) -> None:
    await store.batch(THINGS, partition, [Create({**row, "place": partition}) for row in ROWS])
    found = await all_of(store, limit=2, partition=partition, order_by="due")
    assert [document.id for document in found] == ["cup", "jar", "pot"]


@pytest.mark.parametrize("order_by", [None, "due"])
async def test_what_stays_is_seen_once_while_others_write(
    store: DocumentStore, partition: str, body: Build, order_by: str | None
) -> None:
    stay = [f"stay-{number:02}" for number in range(12)]
    leave = [f"leave-{number:02}" for number in range(12)]
    await store.batch(THINGS, partition, [Create(body(name, due=f"2026-01-{int(name[-2:]):02}")) for name in stay])
    await store.batch(THINGS, partition, [Create(body(name, due=f"2026-01-{int(name[-2:]):02}")) for name in leave])
    seen: list[str] = []
    continuation = None
    for number in range(100):
        page = await store.query(THINGS, partition=partition, order_by=order_by, limit=3, continuation=continuation)
        seen += [document.id for document in page.documents]
        continuation = page.continuation
        if continuation is None:
            break
        if number < len(leave):
            await store.delete(THINGS, partition, leave[number])
            await store.upsert(THINGS, body(f"new-{number:02}", due=f"2026-01-{number:02}"))
            await store.upsert(THINGS, body(stay[number], due=f"2026-01-{number:02}", touched=True))
    assert [name for name in sorted(seen) if name.startswith("stay")] == stay
    assert len(seen) == len(set(seen))


async def test_a_query_names_declared_fields_only(store: DocumentStore, partition: str) -> None:
    for field in ("colour", "id", "ttl", "kind') OR 1=1 --", "_etag"):
        with pytest.raises(ValueError, match="declared"):
            await store.query(THINGS, partition=partition, where=[Where(field, "=", 1)])
        with pytest.raises(ValueError, match="declared"):
            await store.query(THINGS, partition=partition, order_by=field)


async def test_a_query_refuses_what_it_cannot_mean(store: DocumentStore, partition: str, body: Build) -> None:
    odd: Any = "!="
    with pytest.raises(ValueError, match="operator"):
        await store.query(THINGS, where=[Where("kind", odd, 1)])
    nothing: Any = None
    with pytest.raises(ValueError, match="compared"):
        await store.query(THINGS, where=[Where("kind", "=", nothing)])
    for limit in (0, -1, 1001):
        with pytest.raises(ValueError, match="limit"):
            await store.query(THINGS, limit=limit)
    for continuation in ("", "nonsense", "e30=", "WzFd", "é"):
        with pytest.raises(ValueError, match="continuation"):
            await store.query(THINGS, continuation=continuation)
    await store.batch(THINGS, partition, [Create(body(name, due="2026")) for name in "abc"])
    page = await store.query(THINGS, partition=partition, order_by="due", limit=1)
    with pytest.raises(ValueError, match="continuation"):
        await store.query(THINGS, partition=partition, limit=1, continuation=page.continuation)


# --- time to live


async def test_a_document_is_gone_when_its_time_is_over(
    under_test: StoreUnderTest, partition: str, body: Build
) -> None:
    store, clock = under_test.store, under_test.clock
    if under_test.name == "cosmos":
        pytest.skip("the clock of Cosmos DB cannot be moved; see the test of what it is told")
    short = await store.create(THINGS, body("short", ttl=60, kind="cup"))
    await store.create(THINGS, body("long", ttl=61, kind="cup"))
    await store.create(THINGS, body("ever", kind="cup"))
    await clock.advance(timedelta(seconds=59.9))
    assert await ids_of(store, partition) == {"short", "long", "ever"}
    with pytest.raises(DocumentExists):
        await store.create(THINGS, body("short"))
    await clock.advance(timedelta(seconds=0.1))
    assert await store.read(THINGS, partition, "short") is None
    assert await ids_of(store, partition) == {"long", "ever"}
    with pytest.raises(DocumentChanged):
        await store.replace(THINGS, body("short"), short.etag)
    with pytest.raises(DocumentChanged):
        await store.delete(THINGS, partition, "short", short.etag)
    with pytest.raises(DocumentChanged):
        await store.batch(THINGS, partition, [Replace(body("short"), short.etag)])
    await store.delete(THINGS, partition, "short")


@pytest.mark.parametrize("way", ["create", "upsert", "batch"])
async def test_the_id_of_an_expired_document_is_free(
    under_test: StoreUnderTest, partition: str, body: Build, way: str
) -> None:
    store, clock = under_test.store, under_test.clock
    if under_test.name == "cosmos":
        pytest.skip("the clock of Cosmos DB cannot be moved; see the test of what it is told")
    await store.create(THINGS, body(ttl=60, old=True))
    await clock.advance(timedelta(minutes=1))
    if way == "batch":
        await store.batch(THINGS, partition, [Create(body(new=True))])
    elif way == "create":
        await store.create(THINGS, body(new=True))
    else:
        await store.upsert(THINGS, body(new=True))
    await clock.advance(timedelta(days=1))
    document = await store.read(THINGS, partition, "a")
    assert document is not None
    assert document.body == body(new=True)


async def test_the_time_counts_from_the_last_write(under_test: StoreUnderTest, partition: str, body: Build) -> None:
    store, clock = under_test.store, under_test.clock
    if under_test.name == "cosmos":
        pytest.skip("the clock of Cosmos DB cannot be moved; see the test of what it is told")
    document = await store.create(THINGS, body(ttl=60))
    await clock.advance(timedelta(seconds=50))
    document = await store.replace(THINGS, document.body, document.etag)
    await clock.advance(timedelta(seconds=50))
    assert await store.read(THINGS, partition, "a") == document
    await store.upsert(THINGS, body())
    await clock.advance(timedelta(days=1000))
    assert await store.read(THINGS, partition, "a") is not None


async def test_cosmos_is_told_the_time_to_live(
    cosmos_connection: CosmosConnection | None, partition: str, body: Build
) -> None:
    """What can be seen without moving its clock: the container honours `ttl`, and documents carry it."""
    if cosmos_connection is None or cosmos_connection.key is None:
        pytest.skip(ABSENT)
    store = CosmosStore(cosmos_connection)
    created = await store.create(THINGS, body(ttl=60))
    await store.close()
    assert created.body["ttl"] == 60
    async with CosmosClient(cosmos_connection.endpoint, cosmos_connection.key) as client:
        container = client.get_database_client(cosmos_connection.database).get_container_client(THINGS.name)
        assert (await container.read())["defaultTtl"] == -1
        assert (await container.read_item("a", partition))["ttl"] == 60
