"""Operators see which conversations there are, and delete one, or everything about a user."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent_core import AgentApplication, ConversationAccount, TurnContext, TurnState
from agent_core.activity.conversation_reference import ChannelAccount
from agent_core.cli.main import main
from agent_core.store.sqlite_store import SqliteStore
from agent_core.testing import ManualClock, MemoryQueue, TestAdapter

ADA = "5B0F3C1E-7a2d-4f6b-9c8e-1d2e3f4a5b6c"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which an agent has talked with Ada, in Teams, and with Bob, on Slack, who removed it."""
    for name in ("ServiceBusConnection", "CosmosConnection", "CosmosConnection__accountEndpoint"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGENT_LOCAL_DATA", str(tmp_path))
    clock = ManualClock(datetime.now(UTC).replace(microsecond=0))  # the command line has the real one

    async def talk() -> None:
        store = SqliteStore(tmp_path / "documents.db", clock.now)
        adapter = TestAdapter(clock, "msteams")
        agent = AgentApplication(adapter, store, MemoryQueue(clock))

        @agent.message()
        async def remember(context: TurnContext, state: TurnState) -> None:
            state.user["said"] = context.activity.text

        personal = ConversationAccount(id="a:1", conversation_type="personal", tenant_id="t1")
        ada = ChannelAccount(id="29:ada", aad_object_id=ADA)
        await adapter.process(agent, adapter.activity(text="hi", from_property=ada, conversation=personal))
        slack: dict[str, Any] = {"channel_id": "slack", "conversation": ConversationAccount(id="c2")}
        await adapter.process(agent, adapter.activity(text="hi", **slack))
        await adapter.process(agent, adapter.activity("installationUpdate", action="remove", **slack))
        await store.close()

    asyncio.run(talk())
    return tmp_path


def lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Any]:
    """What a command says to programs."""
    assert main([*arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_conversations_are_listed_by_what_is_known_of_them(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = lines(capsys, "conversations", "list")
    assert sorted(each["id"] for each in every) == ["a:1", "c2"]
    (ada,) = lines(capsys, "conversations", "list", "--user", ADA, "--tenant", "t1", "--channel", "msteams")
    assert (ada["id"], ada["status"], ada["aadObjectId"], ada["tenantId"]) == ("a:1", "active", ADA, "t1")
    (bob,) = lines(capsys, "conversations", "list", "--status", "suspended")
    assert (bob["id"], bob["reason"]) == ("c2", "uninstalled")
    assert bob["since"]
    assert main(["conversations", "list"]) == 0
    people = capsys.readouterr().out
    assert "suspended (uninstalled)" in people
    assert ADA in people
    assert main(["conversations", "list", "--team", "none"]) == 0
    assert capsys.readouterr().out == "No conversations.\n"


def test_the_next_page_is_asked_for_with_what_the_one_before_said(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, more = lines(capsys, "conversations", "list", "--page-size", "1")
    (second,) = lines(capsys, "conversations", "list", "--page-size", "1", "--continuation", more["continuation"])
    assert {first["id"], second["id"]} == {"a:1", "c2"}
    assert main(["conversations", "list", "--page-size", "1"]) == 0
    assert f"--continuation {more['continuation']}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["conversations", "list", "--page-size", "0"])


def test_conversations_are_counted(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(capsys, "conversations", "count") == [{"count": 2}]
    assert main(["conversations", "count", "--channel", "slack"]) == 0
    assert capsys.readouterr().out == "1\n"


def test_one_conversation_is_shown_with_its_state(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = lines(capsys, "conversations", "show", "a:1")
    assert shown["reference"]["user"]["id"] == "29:ada"
    assert shown["state"] == {}
    assert main(["conversations", "show", "unknown"]) == 1
    assert "unknown" in capsys.readouterr().err


def test_a_conversation_is_deleted_only_on_a_second_word(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conversations", "delete", "c2"]) == 0
    assert "--yes" in capsys.readouterr().out
    assert lines(capsys, "conversations", "count") == [{"count": 2}]
    (deleted,) = lines(capsys, "conversations", "delete", "c2", "--channel", "slack", "--yes")
    assert deleted["deleted"] is True
    assert lines(capsys, "conversations", "count") == [{"count": 1}]
    assert main(["conversations", "delete", "c2", "--yes"]) == 1


def test_a_user_is_deleted_only_on_a_second_word_and_with_a_report(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["users", "delete", ADA]) == 0
    counted = capsys.readouterr().out
    assert "1  conversation" in counted
    assert "--yes" in counted
    (report,) = lines(capsys, "users", "delete", ADA.lower(), "--yes")
    assert report["conversations"] == ["a:1"]
    assert report["deleted"]["state"] == 1
    assert report["dryRun"] is False
    assert [each["id"] for each in lines(capsys, "conversations", "list")] == ["c2"]
    (report,) = lines(capsys, "users", "delete", "--channel", "slack", "--user-id", "user", "--yes")
    assert report["conversations"] == ["c2"]
    assert main(["users", "delete"]) == 1
    assert "Name the user" in capsys.readouterr().err
