"""What the SQLite store promises beyond the contract: it outlives its process, several share it, it has indexes."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from agent_core.store.document_rules import Position
from agent_core.store.document_store import (
    CONTAINERS,
    CONVERSATIONS,
    SCHEDULES,
    USERS,
    Container,
    Create,
    Delete,
    Where,
)
from agent_core.store.sqlite_store import SqliteStore, selection
from agent_core.testing import ManualClock

ROOT = Path(__file__).parents[2]

# Writes pairs in batches and says the number of each when the store has acknowledged it, until it is killed.
WRITER = """
import asyncio, itertools, sys
from pathlib import Path
from agent_core.hosting import clock
from agent_core.store.document_store import USERS, Create
from agent_core.store.sqlite_store import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]), clock.now)
    for number in itertools.count():
        pair = [Create({"id": f"{number}-{half}", "user": "u", "pad": "x" * 20_000}) for half in "ab"]
        await store.batch(USERS, "u", pair)
        print(number, flush=True)

asyncio.run(main())
"""

# Adds one to the counter so many times, each time on the version it read.
COUNTER = """
import asyncio, sys
from pathlib import Path
from agent_core.errors import DocumentChanged, DocumentExists
from agent_core.hosting import clock
from agent_core.store.document_store import USERS
from agent_core.store.sqlite_store import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]), clock.now)
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        await store.create(USERS, {"id": "counter", "user": "u", "count": 0})
    except DocumentExists:
        pass
    done = conflicts = 0
    while done < int(sys.argv[2]):
        document = await store.read(USERS, "u", "counter")
        try:
            await store.replace(USERS, {**document.body, "count": document.body["count"] + 1}, document.etag)
            done += 1
        except DocumentChanged:
            conflicts += 1
    await store.close()
    print(conflicts)

asyncio.run(main())
"""


async def _start(script: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        *arguments,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def test_what_was_acknowledged_survives_a_kill_and_the_rest_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "documents.db"
    writer = await _start(WRITER, str(path))
    assert writer.stdout is not None
    acknowledged = -1
    while acknowledged < 25:
        acknowledged = int(await writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    # What it said before it died was acknowledged too.
    for line in (await writer.stdout.read()).splitlines():
        acknowledged = int(line)
    await writer.wait()

    store = SqliteStore(path, ManualClock().now)
    page = await store.query(USERS, partition="u", limit=1000)
    ids = {document.id for document in page.documents}
    await store.close()
    assert {f"{number}-{half}" for number in range(acknowledged + 1) for half in "ab"} <= ids
    halves = [{name.split("-")[0] for name in ids if name.endswith(half)} for half in "ab"]
    assert halves[0] == halves[1]


async def test_processes_that_count_on_one_document_lose_nothing(tmp_path: Path) -> None:
    """All start at once on a file that is not there yet, so that they meet when it is made as well."""
    path = tmp_path / "documents.db"
    counters = [await _start(COUNTER, str(path), "100") for _ in range(3)]
    for counter in counters:
        assert counter.stdout is not None
        await counter.stdout.readline()
    outputs = await asyncio.gather(*(counter.communicate(b"go\n") for counter in counters))
    assert [counter.returncode for counter in counters] == [0, 0, 0]
    assert sum(int(output) for output, _ in outputs) > 0, "they never met, so the test shows nothing"
    store = SqliteStore(path, ManualClock().now)
    document = await store.read(USERS, "u", "counter")
    await store.close()
    assert document is not None
    assert document.body["count"] == 300


DUE = [Where("kind", "=", "x"), Where("status", "=", "x"), Where("due", "<=", "x")]
KIND = [Where("kind", "=", "x")]

# The query, and what of the documents SQLite has to say it looks up.
PLANS: dict[str, tuple[Container, str | None, list[Where], str | None, str]] = {
    "what is due": (SCHEDULES, None, DUE, "due", "(<expr>=? AND <expr>=? AND <expr><?)"),
    "due in a shard": (SCHEDULES, "p", DUE, "due", "(partition=? AND <expr>=? AND <expr>=? AND <expr><?)"),
    "due of any kind": (SCHEDULES, None, DUE[2:], "due", "documents_schedules_due (<expr><?)"),
    "of a conversation": (SCHEDULES, None, [Where("conversation", "=", "x")], None, "schedules_conversation (<expr>=?"),
    "by kind": (CONVERSATIONS, None, [Where("kind", "=", "x")], None, "documents_conversations_kind (<expr>=?"),
    "kind in a partition": (CONVERSATIONS, "p", [Where("kind", "=", "x")], None, "(<expr>=? AND partition=?"),
    "by channel": (CONVERSATIONS, None, [Where("channel", "=", "x")], None, "conversations_channel (<expr>=?"),
    "of a user": (CONVERSATIONS, None, [Where("aadObjectId", "=", "x"), *KIND], None, "_aadObjectId (<expr>=?"),
    "of a team": (CONVERSATIONS, None, [Where("teamId", "=", "x")], None, "conversations_teamId (<expr>=?"),
    "of a channel": (CONVERSATIONS, None, [Where("teamsChannelId", "=", "x")], None, "_teamsChannelId (<expr>=?"),
    "user data": (USERS, None, [Where("aadObjectId", "=", "x")], None, "users_aadObjectId (<expr>=?"),
    "a partition": (CONVERSATIONS, "p", [], None, "(partition=?"),
    "by user": (USERS, None, [Where("user", "=", "x")], None, "(partition=?"),
    "newest since": (CONVERSATIONS, None, [Where("created", ">", "x")], "created", "conversations_created (<expr>>?"),
}


@pytest.mark.parametrize("later_page", [False, True], ids=["first page", "later page"])
@pytest.mark.parametrize("name", PLANS)
async def test_a_query_on_declared_fields_looks_up_what_it_asks_for(
    tmp_path: Path, name: str, later_page: bool
) -> None:
    path = tmp_path / "documents.db"
    store = SqliteStore(path, ManualClock().now)
    for container in CONTAINERS:
        await store.query(container)
    await store.close()

    container, partition, where, order_by, lookup = PLANS[name]
    after = Position("x" if order_by else None, "p", "i") if later_page else None
    sql, values = selection(container, partition, where, order_by, after)
    connection = sqlite3.connect(path)
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", {**values, "now": 0, "limit": 1})]
    connection.close()
    assert plan[0].startswith("SEARCH documents USING INDEX "), plan
    assert lookup in plan[0], plan


async def test_what_expired_leaves_the_file_a_few_with_each_write(tmp_path: Path) -> None:
    path = tmp_path / "documents.db"
    clock = ManualClock()
    store = SqliteStore(path, clock.now)
    await store.batch(USERS, "u", [Create({"id": str(number), "user": "u", "ttl": 60}) for number in range(50)])
    await clock.advance(timedelta(minutes=1))
    left = []
    for _ in range(4):
        await store.delete(USERS, "u", "nothing")
        connection = sqlite3.connect(path)
        left.append(connection.execute("SELECT count(*) FROM documents").fetchone()[0])
        connection.close()
    await store.close()
    assert left[-1] == 0
    assert left[0] > 0, "one write took all of them away, however many"


async def test_documents_outlive_the_store_that_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "documents.db"
    first = SqliteStore(path, ManualClock().now)
    created = await first.create(USERS, {"id": "a", "user": "u", "kind": "x"})
    await first.close()
    second = SqliteStore(path, ManualClock().now)
    assert await second.read(USERS, "u", "a") == created
    await second.batch(USERS, "u", [Delete("a", created.etag)])
    await second.close()


async def test_a_container_may_have_any_name(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "documents.db", ManualClock().now)
    odd = Container('it\'s "odd"', "place", ("kind",))
    created = await store.create(odd, {"id": "a", "place": "p", "kind": "x"})
    page = await store.query(odd, where=[Where("kind", "=", "x")])
    await store.close()
    assert list(page.documents) == [created]
