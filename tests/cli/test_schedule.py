"""Operators make, list, change and stop schedules, and see what is to come before they do."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent_core import AgentApplication, ConversationAccount
from agent_core.cli.main import main
from agent_core.store.document_store import SCHEDULES
from agent_core.store.sqlite_store import SqliteStore
from agent_core.testing import ManualClock, MemoryQueue, TestAdapter

AT = (datetime.now(UTC) + timedelta(days=30)).replace(microsecond=0).isoformat().replace("+00:00", "Z")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which an agent has talked in the conversation c1, with a user in Paris."""
    for name in ("ServiceBusConnection", "CosmosConnection", "CosmosConnection__accountEndpoint"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGENT_LOCAL_DATA", str(tmp_path))
    clock = ManualClock(datetime.now(UTC).replace(microsecond=0))  # the command line has the real one

    async def talk() -> None:
        store = SqliteStore(tmp_path / "documents.db", clock.now)
        adapter = TestAdapter(clock, "msteams")
        agent = AgentApplication(adapter, store, MemoryQueue(clock))
        there = ConversationAccount(id="c1")
        await adapter.process(agent, adapter.activity(text="hi", conversation=there, local_timezone="Europe/Paris"))
        await store.close()

    asyncio.run(talk())
    return tmp_path


def stored(data: Path) -> int:
    async def count() -> int:
        store = SqliteStore(data / "documents.db", lambda: datetime.now(UTC))
        page = await store.query(SCHEDULES)
        await store.close()
        return len(page.documents)

    return asyncio.run(count())


def lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Any]:
    """What a command says to programs."""
    assert main(["schedule", *arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_schedule_is_added_listed_changed_and_stopped(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    what = [
        "--text",
        "Standup!",
        "--misfire",
        "skip",
        "--grace",
        "PT10M",
        "--expires",
        "PT2H",
        "--urgent",
        "--tag",
        "t",
    ]
    when = ["--every", "0 9 * * MON-FRI", "--start", "2026-01-01T00:00", "--excluding", "2030-12-25, 2030-12-26"]
    (made,) = lines(capsys, "add", "--conversation", "c1", *when, *what)
    assert made["to"] == {"conversation": "c1", "channel": "msteams"}
    assert (made["every"], made["zone"], made["excluding"]) == (
        "0 9 * * MON-FRI",
        "Europe/Paris",
        ["2030-12-25", "2030-12-26"],
    )
    assert (made["misfire"], made["grace"], made["expires"], made["urgent"]) == ("skip", "PT10M", "PT2H", True)
    assert made["nextLocal"][11:16] == "09:00"

    (other,) = lines(capsys, "add", "--user", "ADA", "--at", AT, "--continuation", "look", "--value", '{"n": 1}')
    assert (other["continuation"], other["value"]) == ("look", {"n": 1})

    for filters in (["--tag", "t"], ["--conversation", "c1"], ["--channel", "msteams"]):
        assert [each["id"] for each in lines(capsys, "list", *filters)] == [made["id"]]
    assert [each["id"] for each in lines(capsys, "list", "--user", "ada", "--status", "scheduled")] == [other["id"]]

    (changed,) = lines(
        capsys, "update", made["id"], "--text", "Sit down.", "--no-urgent", "--clear", "tag", "--clear", "excluding"
    )
    assert (changed["activity"]["text"], changed["urgent"], changed["generation"]) == ("Sit down.", False, 2)
    assert not changed.keys() & {"tag", "excluding"}
    assert lines(capsys, "show", made["id"]) == [changed]

    for action, status in (("pause", "paused"), ("resume", "scheduled"), ("cancel", "cancelled")):
        (stopped,) = lines(capsys, action, made["id"])
        assert stopped["status"] == status
    assert main(["schedule", "list", "--status", "cancelled"]) == 0
    assert made["id"] in capsys.readouterr().out
    assert main(["schedule", "list", "--tag", "none"]) == 0
    assert capsys.readouterr().out == "No schedules.\n"
    assert main(["schedule", "show", made["id"]]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "cancelled"


def test_the_json_form_comes_from_a_file_with_options_over_it(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = {"to": "c1", "at": AT, "activity": {"text": "Tea!", "speak": "Tea"}, "id": "tea"}
    file = tmp_path / "schedule.json"
    file.write_text(json.dumps(said))
    (first,) = lines(capsys, "add", "--file", str(file))
    assert first["activity"]["speak"] == "Tea"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(json.dumps(said).encode())))
    (again,) = lines(capsys, "add", "--file", "-")
    assert again == first, "it has an id, so it is there once"
    (other,) = lines(capsys, "add", "--file", str(file), "--id", "tea-2", "--tag", "t")
    assert (other["tag"], stored(data)) == ("t", 2)
    assert main(["schedule", "add", "--file", str(file), "--tag", "t"]) == 1
    assert "other content" in capsys.readouterr().err


def test_what_is_to_come_is_shown_of_a_stored_one_and_of_one_that_is_not(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = ["--every", "0 8 * * *", "--zone", "America/New_York"]
    preview = lines(capsys, "preview", *rule, "--limit", "3")
    assert [each["local"][11:16] for each in preview] == ["08:00"] * 3
    assert stored(data) == 0
    (made,) = lines(capsys, "add", "--conversation", "c1", *rule, "--text", "x")
    assert lines(capsys, "preview", made["id"], "--limit", "3") == preview
    assert len(lines(capsys, "preview", made["id"])) == 10
    assert main(["schedule", "preview", "--conversation", "c1", "--every", "0 8 * * *", "--limit", "1"]) == 0
    at, local = capsys.readouterr().out.split()
    assert (at[-1], local[11:16]) == ("Z", "08:00")
    lines(capsys, "pause", made["id"])
    assert main(["schedule", "preview", made["id"]]) == 0
    assert capsys.readouterr().out == "No occurrences.\n"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--every", "0 0 30 2 *", "--zone", "UTC"], "every"),
        (["--every", "0 8 * * *", "--zone", "Mars/Olympus"], "zone"),
        (["--at", "2026-02-30T08:00"], "at"),
        (["--user", "nobody", "--at", "2030-01-01T08:00"], "at"),
        (["--every", "PT6H", "--count", "10001"], "count"),
        (["--every", "PT6H", "--until", "2020-01-01T00:00Z"], "until"),
        (["--every", "PT6H", "--excluding", "Christmas"], "excluding"),
        (["--at", AT, "--misfire", "often"], "misfire"),
        (["--at", AT, "--grace", "soon"], "grace"),
        (["--at", AT, "--value", "7"], "value"),
        (["--at", AT, "--id", "a b"], "id"),
        ([], "at"),
    ],
)
def test_bad_input_is_said_with_its_field_and_nothing_is_stored(
    data: Path, capsys: pytest.CaptureFixture[str], options: list[str], field: str
) -> None:
    """Issue 7, bad input."""
    to = [] if "--user" in options else ["--conversation", "c1"]
    assert main(["schedule", "add", *to, "--text", "x", *options]) == 1
    assert capsys.readouterr().err.startswith(f"Not done ({field}): ")
    assert stored(data) == 0


def test_what_is_not_there_is_said(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("show", "pause", "resume", "cancel", "preview"):
        assert main(["schedule", action, "00-unknown"]) == 1
        assert "No schedule '00-unknown'" in capsys.readouterr().err
    assert main(["schedule", "add", "--conversation", "unknown", "--at", AT, "--text", "x"]) == 1
    assert "No conversation 'unknown'" in capsys.readouterr().err
    assert main(["schedule", "preview", "--every", "PT1H", "--limit", "10001"]) == 1
    assert capsys.readouterr().err.startswith("Not done (limit): ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["add"],
        ["update", "00-x"],
        ["preview"],
        ["preview", "00-x", "--every", "PT1H"],
        ["add", "--count", "many"],
        ["add", "--conversation", "c1", "--value", "no quotes"],
        ["add", "--file", "/nowhere/at/all.json"],
        ["update", "00-x", "--clear", "at"],
    ],
)
def test_wrong_use_is_told_from_what_could_not_be_done(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["schedule", *arguments])
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err
