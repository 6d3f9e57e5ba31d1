"""Conversations are kept as they are seen, and what handlers remember in them."""

import asyncio

import pytest

from agent_core import ClaimsIdentity, ConversationAccount, ProductInfo, TurnContext, TurnState
from agent_core.errors import ConversationAmbiguous, ConversationNotFound
from agent_core.store.document_store import CONVERSATIONS, Where
from tests.proactive.setting import Setting


async def test_a_conversation_is_kept_at_its_first_turn_even_if_nobody_answers() -> None:
    setting = Setting()
    await setting.adapter.say(setting.agent, "hello")
    conversation = await setting.agent.proactive.get_conversation("c1")
    assert conversation is not None
    assert conversation.reference.service_url == "https://smba.trafficmanager.net/test/"
    assert conversation.reference.user is not None
    assert conversation.reference.user.id == "user"
    assert conversation.reference.activity_id is None
    assert conversation.identity.service_url_verified


async def test_a_failing_handler_loses_its_state_and_not_the_conversation() -> None:
    setting = Setting()

    @setting.agent.message("break")
    async def break_down(context: TurnContext, state: TurnState) -> None:
        state.conversation["half"] = True
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        await setting.adapter.say(setting.agent, "break")
    conversation = await setting.agent.proactive.get_conversation("c1")
    assert conversation is not None
    assert conversation.state == {}


async def test_state_is_kept_per_conversation_and_per_user() -> None:
    setting = Setting()

    @setting.agent.message("count")
    async def count(context: TurnContext, state: TurnState) -> None:
        state.conversation["n"] = state.conversation.get("n", 0) + 1
        state.user["n"] = state.user.get("n", 0) + 1
        state.temp["n"] = state.temp.get("n", 0) + 1
        await context.send_activity(f"{state.conversation['n']} {state.user['n']} {state.temp['n']}")

    assert await setting.adapter.say(setting.agent, "count") == ["1 1 1"]
    assert await setting.adapter.say(setting.agent, "count") == ["2 2 1"]
    elsewhere = setting.adapter.activity(text="count", conversation=ConversationAccount(id="c2"))
    await setting.adapter.process(setting.agent, elsewhere)
    assert setting.adapter.texts[-1] == "1 3 1"


async def test_a_hundred_turns_at_once_that_each_add_a_key_lose_none() -> None:
    setting = Setting()

    @setting.agent.message()
    async def add(context: TurnContext, state: TurnState) -> None:
        await asyncio.sleep(0)
        state.conversation[context.activity.text or ""] = 1

    # Each round of conflicts lets one writer through, so more at once than MAX_CONFLICTS need their own rounds.
    for start in range(0, 100, 10):
        await asyncio.gather(*(setting.adapter.say(setting.agent, f"k{n}") for n in range(start, start + 10)))
    conversation = await setting.agent.proactive.get_conversation("c1")
    assert conversation is not None
    assert len(conversation.state) == 100


async def test_a_turn_that_changes_nothing_writes_nothing() -> None:
    setting = Setting()
    await setting.adapter.say(setting.agent, "hello")
    before = await setting.store.query(CONVERSATIONS, where=[Where("kind", "=", "conversation")])
    await setting.adapter.say(setting.agent, "hello again")
    after = await setting.store.query(CONVERSATIONS, where=[Where("kind", "=", "conversation")])
    assert [document.etag for document in before.documents] == [document.etag for document in after.documents]


async def test_p4_6_a_conversation_that_moved_to_another_service_is_kept_before_its_handler_runs() -> None:
    setting = Setting()
    seen: list[str | None] = []

    @setting.agent.message()
    async def look(context: TurnContext, state: TurnState) -> None:
        stored = await setting.agent.proactive.get_conversation("c1")
        seen.append(stored.reference.service_url if stored else None)

    await setting.adapter.say(setting.agent, "a")
    moved = setting.adapter.activity(text="b", service_url="https://smba.trafficmanager.net/moved/")
    await setting.adapter.process(setting.agent, moved)
    assert seen == ["https://smba.trafficmanager.net/test/", "https://smba.trafficmanager.net/moved/"]


async def test_what_was_verified_is_not_replaced_by_what_nobody_vouched_for() -> None:
    setting = Setting()
    await setting.adapter.say(setting.agent, "a")
    unverified = setting.adapter.activity(text="b", service_url="https://elsewhere.botframework.com/")
    await setting.adapter.process(setting.agent, unverified, ClaimsIdentity(service_url_verified=False))
    conversation = await setting.agent.proactive.get_conversation("c1")
    assert conversation is not None
    assert conversation.reference.service_url == "https://smba.trafficmanager.net/test/"
    assert conversation.identity.service_url_verified


async def test_only_the_seven_claims_are_stored() -> None:
    setting = Setting()
    identity = ClaimsIdentity({"aud": "a", "tid": "t", "serviceurl": "s", "exp": "1", "name": "Ada"}, True)
    await setting.adapter.process(setting.agent, setting.adapter.activity(text="a"), identity)
    conversation = await setting.agent.proactive.get_conversation("c1")
    assert conversation is not None
    assert conversation.identity.claims == {"aud": "a", "tid": "t"}


async def test_one_id_on_two_channels_is_two_conversations() -> None:
    setting = Setting()
    await setting.adapter.say(setting.agent, "a")
    await setting.adapter.process(setting.agent, setting.adapter.activity(text="b", channel_id="slack"))
    with pytest.raises(ConversationAmbiguous, match="channelId"):
        await setting.agent.proactive.get_conversation("c1")
    conversation = await setting.agent.proactive.get_conversation("c1", "slack")
    assert conversation is not None
    assert conversation.reference.channel_id == "slack"


async def test_a_conversation_can_be_forgotten() -> None:
    setting = Setting()
    await setting.adapter.say(setting.agent, "a")
    await setting.agent.proactive.delete_conversation("c1")
    await setting.agent.proactive.delete_conversation("c1")
    assert await setting.agent.proactive.get_conversation("c1") is None
    with pytest.raises(ConversationNotFound, match="c1"):
        await setting.agent.proactive.send_activity("c1", "hello?")


async def test_p1_21_a_stored_conversation_keeps_its_sub_channel_and_is_found_by_its_channel() -> None:
    setting = Setting()
    product = ProductInfo(id="COPILOT")
    hello = setting.adapter.activity(text="hello", channel_id="msteams", entities=[product])
    await setting.adapter.process(setting.agent, hello)
    for channel_id in (None, "msteams", "msteams:COPILOT"):
        conversation = await setting.agent.proactive.get_conversation("c1", channel_id)
        assert conversation is not None
        assert conversation.reference.channel_id == "msteams:COPILOT"
    await setting.agent.proactive.send_activity("c1", "still here")
    sent = setting.adapter.sent[-1]
    assert (sent.text, sent.channel_id) == ("still here", "msteams")
    assert sent.product_info == product
