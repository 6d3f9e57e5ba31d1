"""`conversations import` moves in what lies in a container or a file, and says what became of each document."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient, DatabaseProxy

from agent_core.cli.main import main
from agent_core.hosting import clock
from agent_core.hosting.cosmos_store import CosmosConnection, CosmosStore
from agent_core.hosting.settings import CLIENT_ID
from agent_core.proactive.conversation import Conversation
from agent_core.store.document_store import CONVERSATIONS, USERS, Container, Document, DocumentStore, Where
from agent_core.store.sqlite_store import SqliteStore

FOLDER = Path(__file__).parent.parent / "payloads" / "sdk_documents"
APP = "00000000-0000-0000-0000-00000000a9e7"
ODD_ID = "a:1/2?3#4*5\\6"


@pytest.fixture
def store_of_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], DocumentStore]:
    """The store that the command writes to: a file."""
    for name in ("CosmosConnection", "CosmosConnection__accountEndpoint"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGENT_LOCAL_DATA", str(tmp_path))
    monkeypatch.setenv(CLIENT_ID, APP)
    return lambda: SqliteStore(tmp_path / "documents.db", clock.now)


def documents(store: Callable[[], DocumentStore], container: Container = CONVERSATIONS) -> list[Document]:
    async def read() -> list[Document]:
        opened = store()
        kind = "state" if container is USERS else "conversation"
        page = await opened.query(container, where=[Where("kind", "=", kind)])
        await opened.close()
        return list(page.documents)

    return asyncio.run(read())


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def imported(*options: str) -> int:
    return main(["conversations", "import", *options])


# --- from a file


@pytest.mark.parametrize("sdk", ["dotnet", "javascript", "python"])
def test_a_file_is_imported_with_the_state_in_it(
    sdk: str, store_of_tests: Callable[[], DocumentStore], capsys: pytest.CaptureFixture[str]
) -> None:
    file = FOLDER / f"{sdk}.jsonl"
    assert imported("--from-file", str(file), "--page-size", "2") == 0
    out, err = capsys.readouterr()
    assert "imported      conversation " in out
    assert "2 are unverified" in out
    assert "2 documents read" in err
    found = {document.body["conversation"]: document.body for document in documents(store_of_tests)}
    assert len(found) == 2
    assert found[ODD_ID]["state"] == {"order": {"item": "laptop", "count": 2}}
    assert found[ODD_ID]["claims"] == {"aud": APP, "iss": "https://api.botframework.com"}
    assert [each.body["state"] for each in documents(store_of_tests, USERS)] == [{"city": "Zürich"}]

    assert imported("--from-file", str(file), "--json") == 0
    *each, last = lines(capsys)
    assert {moved["outcome"] for moved in each} == {"there"}
    assert (last["summary"]["imported"], last["summary"]["there"]) == (0, len(each))


def test_a_dry_run_writes_nothing_not_even_how_far_it_came(
    store_of_tests: Callable[[], DocumentStore], capsys: pytest.CaptureFixture[str]
) -> None:
    assert imported("--from-file", str(FOLDER / "dotnet.jsonl"), "--dry-run", "--json") == 0
    *each, last = lines(capsys)
    assert {moved["outcome"] for moved in each} == {"imported"}
    assert last["summary"]["dryRun"]
    assert documents(store_of_tests) + documents(store_of_tests, USERS) == []
    assert imported("--from-file", str(FOLDER / "dotnet.jsonl"), "--dry-run") == 0
    assert "5 would be imported" in capsys.readouterr().out


def test_a_line_that_is_no_json_is_skipped_and_said_where_it_is(
    store_of_tests: Callable[[], DocumentStore], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "export.jsonl"
    first, *_ = (FOLDER / "python.jsonl").read_text("utf-8").splitlines()
    file.write_text(f'{{"cut": \n\n{{"flow": 1}}\n{first}\n', "utf-8")
    assert imported("--from-file", str(file)) == 0
    out = capsys.readouterr().out
    assert "'export.jsonl, byte 0'  no-json" in out
    assert "1 imported, 0 there already, 2 skipped (no-json 1, unknown-shape 1)" in out


def test_trusted_urls_are_verified_where_they_are_the_connectors(
    store_of_tests: Callable[[], DocumentStore], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An operator may vouch for what is stored; not for any host."""
    file = tmp_path / "export.jsonl"
    text = (FOLDER / "python.jsonl").read_text("utf-8").splitlines()[0]
    elsewhere = text.replace("smba.trafficmanager.net", "connector.example").replace("a:1/2", "other")
    file.write_text(f"{text}\n{elsewhere}\n", "utf-8")
    assert imported("--from-file", str(file), "--trust-service-urls") == 0
    assert "1 are unverified" in capsys.readouterr().out
    found = [Conversation.from_document(document) for document in documents(store_of_tests)]
    assert {each.reference.service_url: each.identity.service_url_verified for each in found} == {
        "https://smba.trafficmanager.net/emea/": True,
        "https://connector.example/emea/": False,
    }


def test_an_import_that_was_interrupted_goes_on_where_it_was(
    store_of_tests: Callable[[], DocumentStore],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "export.jsonl"
    file.write_bytes((FOLDER / "javascript.jsonl").read_bytes())
    options = ("--from-file", str(file), "--page-size", "2", "--json")
    replace, calls = SqliteStore.upsert, []

    async def upsert(self: SqliteStore, container: Container, body: dict[str, Any]) -> Document:
        calls.append(body)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return await replace(self, container, body)

    monkeypatch.setattr(SqliteStore, "upsert", upsert)
    with pytest.raises(KeyboardInterrupt):
        imported(*options)
    before = lines(capsys)
    monkeypatch.undo()
    monkeypatch.setenv("AGENT_LOCAL_DATA", str(tmp_path))
    monkeypatch.setenv(CLIENT_ID, APP)
    assert imported(*options, "--resume") == 0
    *after, last = lines(capsys)
    keys = [each["key"] for each in (*before, *after)]
    assert "proactive/conversations/a:1/2?3#4*5\\6" not in [each["key"] for each in after], "it was in the first page"
    assert len(set(keys)) == 7, "and none is left out"
    assert last["summary"]["read"] == 7

    assert imported(*options, "--resume") == 0
    assert lines(capsys)[-1]["summary"]["read"] == 7, "after the end it begins anew"


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--from-file", "missing.jsonl"], "cannot be read"), (["--from-container", "x"], "CosmosConnection")],
)
def test_a_source_that_is_not_there_is_named(
    options: list[str],
    said: str,
    store_of_tests: Callable[[], DocumentStore],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert imported(*options) == 1
    assert said in capsys.readouterr().err


def test_without_an_app_id_nothing_is_imported(
    store_of_tests: Callable[[], DocumentStore],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nobody could say which conversations are the agent's own."""
    monkeypatch.delenv(CLIENT_ID)
    assert imported("--from-file", str(FOLDER / "python.jsonl")) == 1
    assert CLIENT_ID in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["", "--from-file a --from-container b", "--from-file a --page-size 0"])
def test_wrong_use_is_answered_with_the_right_one(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        imported(*wrong.split())
    assert "usage: python -m agent_core conversations import" in capsys.readouterr().err


# --- from a container


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[CosmosConnection]:
    """An account whose connection is the agent's, and a database of this test's own."""
    text = os.environ.get("COSMOS_TEST_CONNECTION")
    if not text:
        pytest.skip("COSMOS_TEST_CONNECTION names no Cosmos DB account or emulator")
    connection = CosmosConnection.from_connection_string(text, database=f"test-{uuid4().hex}", create_containers=True)
    monkeypatch.setenv("CosmosConnection", text)
    monkeypatch.setenv("COSMOS_DATABASE", connection.database)
    monkeypatch.setenv(CLIENT_ID, APP)
    yield connection
    assert connection.key is not None

    async def remove() -> None:
        assert connection.key is not None
        async with CosmosClient(connection.endpoint, connection.key) as client:
            await client.delete_database(connection.database)

    asyncio.run(remove())


def in_database(connection: CosmosConnection, work: Callable[[DatabaseProxy], Awaitable[None]]) -> None:
    async def run() -> None:
        assert connection.key is not None
        async with CosmosClient(connection.endpoint, connection.key) as client:
            await work(await client.create_database_if_not_exists(connection.database))

    asyncio.run(run())


# .NET gives its containers no index; the SDKs' predecessor gave its own a partition key that no document has.
@pytest.mark.parametrize(("sdk", "path"), [("dotnet", "/id"), ("javascript", "/_partitionKey"), ("python", "/id")])
def test_a_container_is_imported_page_by_page_and_only_read(
    sdk: str, path: str, account: CosmosConnection, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [json.loads(line) for line in (FOLDER / f"{sdk}.jsonl").read_text("utf-8").splitlines()]
    left: list[dict[str, Any]] = []

    async def fill(database: DatabaseProxy) -> None:
        policy: Any = {"indexingMode": "none", "automatic": False} if sdk == "dotnet" else None
        container = await database.create_container("botstate", PartitionKey(path), indexing_policy=policy)
        for item in items:
            await container.create_item({name: value for name, value in item.items() if not name.startswith("_")})

    async def look(database: DatabaseProxy) -> None:
        left.extend([item async for item in database.get_container_client("botstate").read_all_items()])

    in_database(account, fill)
    in_database(account, look)
    before, left = left, []
    assert imported("--from-container", "botstate", "--page-size", "2", "--json") == 0
    *each, last = lines(capsys)
    assert len(each) == len({moved["key"] for moved in each}) == last["summary"]["read"] == len(items)
    in_database(account, look)
    assert left == before
    found = {document.body["conversation"]: document.body for document in documents(lambda: CosmosStore(account))}
    assert len(found) == 2
    assert found[ODD_ID]["state"] == {"order": {"item": "laptop", "count": 2}}
    assert [each.body["state"] for each in documents(lambda: CosmosStore(account), USERS)] == [{"city": "Zürich"}]


def test_a_container_that_is_not_there_is_not_created(
    account: CosmosConnection, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[str] = []

    async def look(database: DatabaseProxy) -> None:
        found.extend([each["id"] async for each in database.list_containers()])

    in_database(account, look)
    assert imported("--from-container", "botstat") == 1
    assert "'botstat'" in capsys.readouterr().err
    in_database(account, look)
    assert found == []


def test_when_the_store_fails_it_is_said_how_to_go_on(
    account: CosmosConnection, capsys: pytest.CaptureFixture[str]
) -> None:
    """Faults of the store: what was imported stays, and a second run does the rest."""

    async def fill(database: DatabaseProxy) -> None:
        container = await database.create_container("botstate", PartitionKey("/id"))
        for line in (FOLDER / "python.jsonl").read_text("utf-8").splitlines():
            await container.create_item({name: value for name, value in json.loads(line).items() if name[0] != "_"})

    in_database(account, fill)
    with httpx.Client(base_url=account.endpoint, trust_env=False) as control:
        if control.get("/_stats").status_code != 200:
            pytest.skip("the server of COSMOS_TEST_CONNECTION has no /_fault and /_stats: it cannot make faults")
        control.post("/_fault", json={"match": "/conversations/docs", "method": "POST", "count": 100, "status": 503})
        try:
            assert imported("--from-container", "botstate") == 1
        finally:
            control.delete("/_fault")
    assert "--resume" in capsys.readouterr().err
    assert imported("--from-container", "botstate", "--resume", "--json") == 0
    assert lines(capsys)[-1]["summary"]["skipped"] == {}
    assert len(documents(lambda: CosmosStore(account))) == 2
