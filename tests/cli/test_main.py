"""The command line plays an external system's part, and says clearly what it could not do."""

import asyncio
import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent_core.cli.main import main
from agent_core.hosting import clock
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.proactive.dead_letters import DeadLetters
from agent_core.proactive.tickets import Ticket, Tickets
from agent_core.proactive.work import WorkItem
from agent_core.store.sqlite_store import SqliteStore


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a local engine has run."""
    for name in ("ServiceBusConnection", "ServiceBusConnection__fullyQualifiedNamespace", "CosmosConnection"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGENT_LOCAL_DATA", str(tmp_path))

    async def touch() -> None:
        queue = SqliteQueue(tmp_path / "queues.db", "agent-callbacks", now=clock.now)
        assert await queue.receive() == []
        await queue.close()

    asyncio.run(touch())
    return tmp_path


def received(data: Path) -> list[tuple[str, dict[str, object]]]:
    async def receive() -> list[tuple[str, dict[str, object]]]:
        queue = SqliteQueue(data / "queues.db", "agent-callbacks", now=clock.now)
        messages = await queue.receive(10)
        await queue.close()
        return [(each.message.message_id, json.loads(each.message.body)) for each in messages]

    return asyncio.run(receive())


def test_a_callback_is_published_with_everything_that_was_given(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--conversation", "c", "--channel", "msteams", "--ticket", "t", "--id", "i"]
    assert main(["publish", "order_placed", "--value", '{"number": 1292}', *options]) == 0
    assert received(data) == [
        (
            "i",
            {
                "id": "i",
                "conversationId": "c",
                "channelId": "msteams",
                "continuation": "order_placed",
                "ticket": "t",
                "value": {"number": 1292},
            },
        )
    ]
    assert "agent-callbacks" in capsys.readouterr().out


def test_without_an_id_each_callback_has_its_own(data: Path) -> None:
    for _ in range(2):
        assert main(["publish", "order_placed", "--conversation", "c"]) == 0
    messages = received(data)
    assert len({message_id for message_id, _ in messages}) == 2
    assert all("value" not in body for _, body in messages)


def test_a_value_that_is_not_json_is_explained(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["publish", "x", "--conversation", "c", "--value", "text"])
    assert ended.value.code == 2
    assert "not JSON" in capsys.readouterr().err
    assert received(data) == []


def test_publishing_where_nobody_reads_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In another folder the message would lie in a queue of its own for ever."""
    monkeypatch.setenv("AGENT_LOCAL_DATA", str(tmp_path / "elsewhere"))
    monkeypatch.delenv("ServiceBusConnection", raising=False)
    assert main(["publish", "x", "--conversation", "c"]) == 1
    assert "make run" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()


def test_outside_of_development_a_missing_connection_is_named(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AZURE_FUNCTIONS_ENVIRONMENT", "Production")
    assert main(["publish", "x", "--conversation", "c"]) == 1
    assert main(["dead-letters"]) == 1
    errors = capsys.readouterr().err
    assert "ServiceBusConnection" in errors
    assert "CosmosConnection" in errors


def test_a_ticket_as_json_names_everything_but_the_value(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ticket = {"conversationId": "c", "channelId": "msteams", "continuation": "order_placed", "ticket": "t1.x.y"}
    (tmp_path / "ticket.json").write_text(json.dumps(ticket))
    assert main(["publish", "--ticket-file", str(tmp_path / "ticket.json"), "--value", "1", "--id", "1"]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(ticket)))
    failed = ["--type", "failed", "--error", '{"code": "OutOfStock"}', "--id", "2"]
    assert main(["publish", "--ticket-file", "-", *failed]) == 0
    error = {"code": "OutOfStock"}
    assert received(data) == [
        ("1", {**ticket, "id": "1", "value": 1}),
        ("2", {**ticket, "id": "2", "type": "agent.callback.failed.v1", "error": error}),
    ]
    assert "'order_placed'" in capsys.readouterr().out


def test_a_notification_is_published_with_its_text(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "--conversation", "c", "--type", "notification", "--text", "Hi", "--id", "1"]) == 0
    body = {"id": "1", "type": "agent.notification.v1", "conversationId": "c", "text": "Hi"}
    assert received(data) == [("1", body)]
    assert "a notification" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--conversation", "c"], "'continuation' is missing"),
        (["x", "--conversation", "c", "--type", "progress"], "nothing to show"),
        (["x", "--conversation", "c", "--type", "failed"], "'error' is missing"),
    ],
)
def test_what_would_become_a_dead_letter_is_not_published(
    data: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", *arguments]) == 1
    assert words in capsys.readouterr().err
    assert received(data) == []


@pytest.mark.parametrize("text", ["[]", "no json", None])
def test_a_ticket_file_that_is_none_is_wrong_use(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "ticket.json").write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["publish", "--ticket-file", str(tmp_path / "ticket.json")])
    assert ended.value.code == 2
    assert "--ticket-file" in capsys.readouterr().err


def test_dead_letters_are_listed_for_people_and_for_programs(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dead-letters"]) == 0
    assert capsys.readouterr().out == "No dead letters.\n"
    assert main(["dead-letters", "--json"]) == 0
    assert capsys.readouterr().out == ""

    async def add() -> None:
        store = SqliteStore(data / "documents.db", clock.now)
        letters = DeadLetters(store, clock.now)
        await letters.add(key="k1", what="callback", reason="InvalidJson", explanation="Why", payload=b"\xff")
        await letters.add(
            key="k2", what="callback", reason="Unsure", explanation="Look", payload=b"{}", conversation="c", attempts=3
        )
        await store.close()

    asyncio.run(add())
    assert main(["dead-letters", "list"]) == 0
    people = capsys.readouterr().out
    assert "InvalidJson" in people
    assert "Look" in people
    assert main(["dead-letters", "--json"]) == 0
    programs = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["key"], each["reason"], each["payload"]) for each in programs] == [
        ("k1", "InvalidJson", "base64:/w=="),
        ("k2", "Unsure", "{}"),
    ]
    assert programs[1]["attempts"] == 3


def test_listed_dead_letters_show_no_ticket_and_the_stored_ones_keep_it(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who reads the list may not continue conversations by it; replaying needs the message whole."""
    signed = Tickets([b"k" * 32]).sign(Ticket("c", "msteams", "n", "opaque", frozenset(), clock.now())).text
    plain = json.dumps({"conversationId": "c", "ticket": "opaque", "value": 1})
    payloads = [
        plain.encode(),
        json.dumps({"kind": "callback", "payload": {"body": {"ticket": signed}}}).encode(),
        json.dumps({"data": plain}).encode(),
        json.dumps({"data_base64": base64.b64encode(plain.encode()).decode()}).encode(),
        f"not JSON at all: {signed}".encode(),
        plain.encode("utf-16"),
    ]

    async def add() -> list[str]:
        store = SqliteStore(data / "documents.db", clock.now)
        letters = DeadLetters(store, clock.now)
        for number, payload in enumerate(payloads):
            await letters.add(key=f"k{number}", what="callback", reason="R", explanation="Why", payload=payload)
        kept = [letter.payload async for letter in letters.list()]
        await store.close()
        return kept

    kept = asyncio.run(add())
    assert kept[:5] == [payload.decode() for payload in payloads[:5]]
    assert base64.b64decode(kept[5].removeprefix("base64:")) == payloads[5]
    assert main(["dead-letters"]) == 0
    assert main(["dead-letters", "--json"]) == 0
    shown = capsys.readouterr().out
    assert '\\"value\\": 1' in shown, "the rest is there"
    for secret in ("opaque", signed, base64.b64encode(plain.encode()).decode(), kept[5]):
        assert secret not in shown


@pytest.mark.parametrize("arguments", [[], ["publish"], ["publish", "x"], ["unknown"], ["dead-letters", "burn"]])
def test_wrong_use_is_answered_with_the_right_one(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m agent_core" in capsys.readouterr().err


def _with_dead_letters(data: Path) -> None:
    work = WorkItem("callback", "callback:a", {"body": {"conversationId": "c", "ticket": "s3cret"}}, scope="c")

    async def add() -> None:
        store = SqliteStore(data / "documents.db", clock.now)
        letters = DeadLetters(store, clock.now)
        for key, reason in (("callback:a", "Unsure"), ("callback:b", "Blocked"), ("work:x", "NotWork")):
            body = replace(work, key=key).to_message().body if key != "work:x" else b"{}"
            await letters.add(
                key=key, what="callback 'x'", reason=reason, explanation="Why", payload=body, conversation="c"
            )
        await store.close()

    asyncio.run(add())


def _queued(data: Path) -> list[WorkItem]:
    async def receive() -> list[WorkItem]:
        queue = SqliteQueue(data / "queues.db", "agent-work", now=clock.now)
        messages = await queue.receive(10)
        await queue.close()
        return [WorkItem.from_message(each.message) for each in messages]

    return asyncio.run(receive())


def _keys(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["dead-letters", *arguments, "--json"]) == 0
    return [json.loads(line)["key"] for line in capsys.readouterr().out.splitlines()]


def test_dead_letters_are_filtered_and_shown_without_their_tickets(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """P6.12"""
    _with_dead_letters(data)
    assert _keys(capsys, "list") == _keys(capsys) == ["callback:a", "callback:b", "work:x"]
    assert _keys(capsys, "list", "--reason", "Blocked") == _keys(capsys, "--reason", "Blocked") == ["callback:b"]
    assert _keys(capsys, "list", "--limit", "1", "--since", "1h", "--what", "callback") == ["callback:a"]
    assert _keys(capsys, "list", "--since", "2999-01-01") == []
    assert _keys(capsys, "list", "--conversation", "d") == []
    for options in ([], ["--json"], ["--conversation", "c"]):
        assert main(["dead-letters", "show", "callback:a", *options]) == 0
        shown = capsys.readouterr().out
        assert "Unsure" in shown
        assert "(redacted)" in shown
        assert "s3cret" not in shown
    assert main(["dead-letters", "show", "callback:z"]) == 1
    assert "callback:z" in capsys.readouterr().err


def test_dead_letters_are_replayed_and_discarded_by_key(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """P6.12: the replay has the ticket that is not shown."""
    _with_dead_letters(data)
    assert main(["dead-letters", "replay", "callback:a"]) == 0
    assert capsys.readouterr().out == "replayed 'callback:a'\n"
    (item,) = _queued(data)
    assert (item.key, item.attempt, item.payload["body"]["ticket"]) == ("callback:a", 1, "s3cret")
    assert main(["dead-letters", "discard", "callback:b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "discarded"
    assert main(["dead-letters", "replay", "work:x"]) == 1
    assert "refused 'work:x'" in capsys.readouterr().out
    assert _keys(capsys) == ["work:x"]


def test_many_are_decided_about_after_a_confirmation(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """P6.12"""
    _with_dead_letters(data)
    for answer in ("", "n\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        assert main(["dead-letters", "discard", "--all-matching", "--reason", "Unsure"]) == 1
        assert "Discard 1 dead letters?" in capsys.readouterr().err
    assert len(_keys(capsys)) == 3
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(["dead-letters", "replay", "--all-matching", "--reason", "Unsure"]) == 0
    capsys.readouterr()
    assert main(["dead-letters", "discard", "--all-matching", "--yes"]) == 0
    assert main(["dead-letters", "discard", "--all-matching", "--yes"]) == 0
    assert capsys.readouterr().out.endswith("No dead letters.\n")
    assert [item.key for item in _queued(data)] == ["callback:a"]


@pytest.mark.parametrize(
    "arguments",
    [["replay"], ["discard", "k", "--all-matching"], ["list", "--since", "soon"], ["list", "--limit", "0"], ["show"]],
)
def test_a_decision_needs_to_be_clear(data: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["dead-letters", *arguments])
    assert ended.value.code == 2
