"""The agent speaks first."""

import pytest

from agent_core import ChannelAccount, ConversationParameters, TurnContext, TurnState
from agent_core.errors import ChannelError
from agent_core.turn.middleware import Logic
from tests.proactive.setting import Setting


async def test_an_activity_is_sent_into_a_stored_conversation_as_a_new_message() -> None:
    setting = Setting()
    await setting.adapter.say(setting.agent, "hello")
    response = await setting.agent.proactive.send_activity("c1", "News!")
    assert response.id in setting.adapter.messages
    sent = setting.adapter.sent[-1]
    assert (sent.text, sent.reply_to_id) == ("News!", None)
    assert sent.recipient is not None
    assert sent.recipient.id == "user"


async def test_a_continued_conversation_has_its_state_its_value_and_the_middleware() -> None:
    setting = Setting()
    notes: list[str | None] = []

    class Note:
        async def on_turn(self, context: TurnContext, logic: Logic) -> None:
            notes.append(context.activity.name)
            await logic()

    setting.adapter.use(Note())

    @setting.agent.message()
    async def remember(context: TurnContext, state: TurnState) -> None:
        state.conversation["name"] = context.activity.text

    async def go_on(context: TurnContext, state: TurnState) -> None:
        state.conversation["told"] = True
        await context.send_activity(f"{state.conversation['name']}: {context.activity.value['n']}")

    await setting.adapter.say(setting.agent, "Ada")
    await setting.agent.proactive.continue_conversation("c1", go_on, value={"n": 7})
    assert setting.adapter.texts == ["Ada: 7"]
    assert notes == [None, "ContinueConversation"]
    conversation = await setting.agent.proactive.get_conversation("c1")
    assert conversation is not None
    assert conversation.state == {"name": "Ada", "told": True}


async def test_what_a_proactive_handler_raises_comes_out_after_the_error_handler_saw_it() -> None:
    setting = Setting()

    @setting.agent.error
    async def apologise(context: TurnContext, error: Exception) -> None:
        await context.send_activity("Sorry")

    async def fail(context: TurnContext, state: TurnState) -> None:
        state.conversation["half"] = True
        raise RuntimeError("secret")

    await setting.adapter.say(setting.agent, "hello")
    with pytest.raises(RuntimeError):
        await setting.agent.proactive.continue_conversation("c1", fail)
    assert setting.adapter.texts == ["Sorry"]
    conversation = await setting.agent.proactive.get_conversation("c1")
    assert conversation is not None
    assert conversation.state == {}


async def test_a_failed_send_says_what_it_calls_for() -> None:
    setting = Setting()
    await setting.adapter.say(setting.agent, "hello")
    setting.adapter.failures = [ChannelError("no", decision="blocked", status=403)]
    with pytest.raises(ChannelError) as failed:
        await setting.agent.proactive.send_activity("c1", "News!")
    assert failed.value.decision == "blocked"


async def test_a_created_conversation_is_stored_and_its_handler_runs_in_it() -> None:
    setting = Setting()

    async def greet(context: TurnContext, state: TurnState) -> None:
        await context.send_activity(f"Hello from {context.activity.name}")

    parameters = ConversationParameters(members=[ChannelAccount(id="29:ada")], tenant_id="t")
    conversation = await setting.agent.proactive.create_conversation(
        "msteams", "https://smba.trafficmanager.net/teams/", parameters, greet
    )
    assert setting.adapter.texts == ["Hello from CreateConversation"]
    assert conversation.reference.agent is not None
    assert conversation.reference.agent.id == "28:agent"
    stored = await setting.agent.proactive.get_conversation(conversation.id)
    assert stored is not None
    assert stored.reference == conversation.reference


async def test_a_conversation_from_elsewhere_can_be_stored_and_keeps_the_state_that_is_there() -> None:
    setting = Setting()

    @setting.agent.message()
    async def remember(context: TurnContext, state: TurnState) -> None:
        state.conversation["kept"] = True

    await setting.adapter.say(setting.agent, "hello")
    conversation = await setting.agent.proactive.get_conversation("c1")
    assert conversation is not None
    moved = conversation.reference.replace(service_url="https://smba.trafficmanager.net/new/")
    from dataclasses import replace

    assert await setting.agent.proactive.store_conversation(replace(conversation, reference=moved, state={})) == "c1"
    stored = await setting.agent.proactive.get_conversation("c1")
    assert stored is not None
    assert stored.reference.service_url == "https://smba.trafficmanager.net/new/"
    assert stored.state == {"kept": True}
