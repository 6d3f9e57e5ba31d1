"""`deliveries show` says why a chosen delivery was sent, waits, was dropped or failed (6.9, issue 7)."""

import asyncio
import json
from pathlib import Path

import pytest

from agent_core import AgentApplication, QuietHours, TurnContext, TurnState
from agent_core.activity.conversation_reference import ConversationAccount
from agent_core.activity.json_text import dump
from agent_core.cli.main import main
from agent_core.errors import ChannelError
from agent_core.hosting import clock
from agent_core.proactive.queue import QueueMessage
from agent_core.store.sqlite_store import SqliteStore
from agent_core.testing import ManualClock, MemoryQueue, TestAdapter


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which an agent has one delivery of each sort."""
    for name in ("ServiceBusConnection", "ServiceBusConnection__fullyQualifiedNamespace", "CosmosConnection"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGENT_LOCAL_DATA", str(tmp_path))
    asyncio.run(_work(tmp_path))
    return tmp_path


async def _work(data: Path) -> None:
    frozen = ManualClock(clock.now())
    adapter, store = TestAdapter(frozen), SqliteStore(data / "documents.db", frozen.now)
    queue = MemoryQueue(frozen)
    agent = AgentApplication(adapter, store, queue)

    @agent.continuation("fails")
    async def fails(context: TurnContext, state: TurnState) -> None:
        raise RuntimeError("It broke")

    async def publish(key: str, conversation: str = "c1", **fields: object) -> None:
        body = {"id": key, "conversationId": conversation, "type": "agent.notification.v1", "text": "secret", **fields}
        await agent.receive_callback(QueueMessage(dump(body), key))

    await adapter.say(agent, "hello")
    await publish("sent")
    holiday = QuietHours("UTC", holidays={frozen.now().date()})
    await agent.notifications.set_quiet_hours("c1", holiday)
    await publish("held")
    await publish("urgent", urgent=True)
    await agent.notifications.mute("c1")
    await publish("dropped")
    await agent.notifications.unmute("c1")
    adapter.failures = [ChannelError("No answer", decision="ambiguous", status=None)]
    await publish("parked", urgent=True)
    await publish("again", type="agent.callback.result.v1", continuation="fails")
    await publish("unknown", type="agent.callback.result.v1", continuation="no such")
    for conversation in ("g1", "g2"):
        group = ConversationAccount(id=conversation, is_group=True)
        await adapter.process(agent, adapter.activity(text="hi", conversation=group))
        await publish("twice", conversation)
    await store.close()


def shown(capsys: pytest.CaptureFixture[str], key: str, *options: str) -> dict[str, object]:
    assert main(["deliveries", "show", key, "--json", *options]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_each_delivery_says_what_became_of_it_and_why(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its key alone."""
    for key, status, why in (
        ("sent", "sent", "sent: nothing was in its way"),
        ("held", "held", "is a holiday in UTC"),
        ("urgent", "sent", "sent because it is urgent, in spite of"),
        ("dropped", "dropped", "dropped because the recipient opted out"),
        ("parked", "parked", "It may have been sent"),
        ("again", "waiting", "failed (HandlerFailed)"),
        ("unknown", "dead", "no such"),
    ):
        found = shown(capsys, f"callback:{key}")
        assert (found["key"], found["status"]) == (f"callback:{key}", status)
        assert why in str(found["why"]), key
        assert (found["attempts"], "secret" in str(found)) == (1, False)
        assert (found["until"] is not None) == (status in ("held", "waiting"))
        assert (found["deadLetter"] is not None) == (status in ("parked", "dead"))
        assert len(found["messages"]) == (status == "sent")  # type: ignore[arg-type]  # a list


def test_it_is_written_for_people_too(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deliveries", "show", "callback:parked"]) == 0
    said = capsys.readouterr().out
    assert "status:       parked" in said
    assert "dead-letters show 'callback:parked'" in said
    assert main(["deliveries", "show", "callback:sent"]) == 0
    assert "dead letter" not in capsys.readouterr().out


def test_where_two_conversations_have_a_delivery_of_that_key_both_are_shown_or_the_one_that_is_named(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deliveries", "show", "callback:twice", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["conversation"] for line in lines] == ["g1", "g2"]
    assert shown(capsys, "callback:twice", "--conversation", "g2")["conversation"] == "g2"


def test_a_key_that_nobody_knows_is_no_error_of_the_program(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deliveries", "show", "callback:nobody"]) == 1
    assert "There is no delivery 'callback:nobody'" in capsys.readouterr().err
