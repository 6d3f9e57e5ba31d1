"""What one caller began stays with it, whatever conversation another caller names; with real keys."""

from collections.abc import AsyncIterator

import pytest

from agent_core.errors import NotAllowed
from tests.channel.token_issuers import (
    PARENT,
    PARENT_URL,
    SERVICE_URLS,
    STRANGER,
    Issuers,
    Setting,
    refusal,
    running_issuers,
)


@pytest.fixture
async def issuers() -> AsyncIterator[Issuers]:
    async with running_issuers() as opened:
        yield opened


@pytest.fixture
def setting(issuers: Issuers) -> Setting:
    return issuers.setting(callers={PARENT: ("contoso.com",), STRANGER: ("contoso.com",)})


async def where(setting: Setting, channel: str) -> str | None:
    conversation = await setting.agent.proactive.get_conversation("c1", channel)
    assert conversation is not None
    return conversation.reference.service_url


async def test_p8_7_a_calling_agent_cannot_take_over_a_conversation_of_a_channel(setting: Setting) -> None:
    """It would read the state, and be sent what the user is to be told later."""
    assert (await setting.post(setting.bot_token(), id="1")).status == 202
    taking = {"channelId": "msteams", "serviceUrl": PARENT_URL}
    for mode in (None, "expectReplies"):
        answer = await setting.post(setting.entra_token(), id="2", deliveryMode=mode, **taking)
        assert refusal(answer) == (403, "ConversationNotAllowed")
    assert len(setting.handled) == 1
    assert await where(setting, "msteams") == SERVICE_URLS["public"]
    # Nor does its attempt stand in the way of the activity with that id.
    assert (await setting.post(setting.bot_token(), id="2")).status == 202
    assert len(setting.handled) == 2


async def test_p8_7_nor_one_that_another_agent_began_and_the_first_goes_on(setting: Setting) -> None:
    assert (await setting.post_as_agent(setting.entra_token(), id="1")).status == 202
    other = await setting.post_as_agent(setting.entra_token(appid=STRANGER), id="2", serviceUrl=f"{PARENT_URL}2/")
    assert refusal(other) == (403, "ConversationNotAllowed")
    assert await where(setting, "agents") == PARENT_URL
    # In either version of its token.
    assert (await setting.post_as_agent(setting.entra_token(version=2), id="3")).status == 202
    assert len(setting.handled) == 2


async def test_p9_6_an_agent_that_may_no_longer_call_is_sent_nothing_later(setting: Setting, issuers: Issuers) -> None:
    """The conversation is as it was verified once; who may be answered where is asked again before each send."""
    assert (await setting.post_as_agent(setting.entra_token(), id="1")).status == 202
    conversation = await setting.agent.proactive.get_conversation("c1", "agents")
    assert conversation is not None
    without = issuers.setting(callers={})
    with pytest.raises(NotAllowed) as refused:
        await without.agent.proactive.send_activity(conversation, "late")
    assert refused.value.code == "ServiceUrlNotAllowed"
