"""The streaming agent of the samples does what it says."""

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agent_core import TurnContext
from agent_core.testing import ManualClock, TestAdapter
from agent_core.turn.channel_adapter import Answer

SAMPLE = Path(__file__).parent.parent.parent / "samples" / "streaming_agent" / "function_app.py"


@pytest.fixture
async def streaming_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ModuleType]:
    monkeypatch.chdir(tmp_path)  # its documents are kept there
    monkeypatch.setenv("AZURE_FUNCTIONS_ENVIRONMENT", "Development")
    spec = importlib.util.spec_from_file_location("streaming_agent_under_test", SAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PAUSE", 0)
    yield module
    await module.services.close()


async def answered(sample: ModuleType, **fields: Any) -> tuple[TestAdapter, TurnContext]:
    clock = ManualClock()
    adapter = TestAdapter(clock)
    adapter.sleep = clock.advance  # nobody else moves the time
    context = TurnContext(adapter, adapter.activity(**{"id": None, **fields}), now=clock.now(), runtime=adapter)

    async def turn() -> Answer:
        await adapter.run_turn(context, sample.agent.on_turn, sample.agent.on_turn_error)
        return Answer(202)

    # At once, where a channel's would come from the work queue.
    await sample.agent.answer_once(context, turn)
    return adapter, context


async def test_the_streaming_agent_streams_with_its_sources(streaming_agent: ModuleType) -> None:
    adapter, _ = await answered(streaming_agent, text="stream")
    assert [activity.type for activity in adapter.sent[:2]] == ["typing", "typing"]
    (message,) = adapter.messages.values()
    assert "within five days** [1]" in (message.text or "")
    (about,) = [each.to_dict() for each in message.entities if each.type == "https://schema.org/Message"]
    assert [claim["appearance"]["name"] for claim in about["citation"]] == ["Terms of delivery", "IT handbook"]
    assert about["additionalType"] == ["AIGeneratedContent"]


async def test_the_streaming_agent_edits_and_offers(streaming_agent: ModuleType) -> None:
    adapter, _ = await answered(streaming_agent, text="edit")
    assert adapter.texts == ["Your laptop is packed."]
    adapter, _ = await answered(streaming_agent, text="what?")
    assert adapter.sent[0].suggested_actions is not None


async def test_the_cards_of_the_streaming_agent_answer(streaming_agent: ModuleType) -> None:
    adapter, _ = await answered(streaming_agent, text="card")
    card = adapter.sent[0].attachments[0].content
    execute, submit = card["actions"]
    assert (execute["type"], submit["type"]) == ("Action.Execute", "Action.Submit")
    value = {"action": {"type": "Action.Execute", "verb": "order", "data": execute["data"]}, "trigger": "manual"}
    _, context = await answered(streaming_agent, activity_type="invoke", name="adaptiveCard/action", value=value)
    assert context.invoke_response is not None
    assert context.invoke_response.body["value"]["body"][0]["text"] == "Laptops ordered: 1"
    adapter, _ = await answered(streaming_agent, value={"note": "hurry"})
    assert adapter.texts == ["Noted: hurry."]
