"""The sample adapter for Slack, against a service that speaks Slack's Web API."""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from agent_core import AgentApplication, ChannelAccount, ConversationParameters, TurnContext, TurnState
from agent_core.channel.http_client import HttpClient
from agent_core.errors import ChannelError, NotAuthenticated
from agent_core.proactive.queue import QueueMessage
from agent_core.store.memory_store import MemoryStore
from agent_core.testing import ManualClock, MemoryQueue
from samples.slack_adapter.slack_adapter import SlackAdapter
from tests.serving import FakeChannel, anywhere, serve

SECRET = "signing-secret"


class Setting:
    """An agent on Slack."""

    def __init__(self, url: str, slack: FakeChannel, http: HttpClient) -> None:
        self.clock = ManualClock()
        self.slack = slack
        self.adapter = SlackAdapter(
            http, bot_token="xoxb-1", signing_secret=SECRET, now=self.clock.now, api=f"{url}/api/"
        )
        self.agent = AgentApplication(self.adapter, MemoryStore(self.clock.now), MemoryQueue(self.clock))

        @self.agent.message("order")
        async def order(context: TurnContext, state: TurnState) -> None:
            placeholder = await context.send_activity("Working on it")
            await context.expect_callback("done", replaces=placeholder)

        @self.agent.continuation("done")
        async def done(context: TurnContext, state: TurnState) -> None:
            await context.send_activity("Done")

    def answer(self, **fields: Any) -> None:
        self.slack.answers.append(lambda: JSONResponse({"ok": True, **fields}))

    async def receive(self, body: dict[str, Any], secret: str = SECRET) -> dict[str, Any]:
        raw = json.dumps(body).encode()
        sent_at = str(int(self.clock.now().timestamp()))
        signature = "v0=" + hmac.new(secret.encode(), f"v0:{sent_at}:".encode() + raw, hashlib.sha256).hexdigest()
        headers = {"x-slack-request-timestamp": sent_at, "x-slack-signature": signature}
        return await self.adapter.process_event(headers, raw, self.agent)

    def event(self, text: str, **fields: Any) -> dict[str, Any]:
        event = {"type": "message", "channel": "D1", "user": "U1", "text": text, "channel_type": "im", **fields}
        return {"type": "event_callback", "event_id": "Ev1", "api_app_id": "A1", "event": event}


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    slack = FakeChannel()
    http = HttpClient(allow_address=anywhere, connect_timeout=1, read_timeout=1)
    async with serve(slack.app()) as url:
        yield Setting(url, slack, http)
        await http.close()


async def test_slack_is_answered_in_its_own_words(setting: Setting) -> None:
    assert await setting.receive({"type": "url_verification", "challenge": "c"}) == {"challenge": "c"}
    setting.answer(ts="17.1")
    assert await setting.receive(setting.event("order")) == {}
    (call,) = setting.slack.calls
    assert (call.path, call.body) == ("/api/chat.postMessage", {"channel": "D1", "text": "Working on it"})
    assert call.headers["authorization"] == "Bearer xoxb-1"


async def test_a_callback_edits_the_placeholder_on_slack_too(setting: Setting) -> None:
    setting.answer(ts="17.1")
    await setting.receive(setting.event("order"))
    setting.answer(ts="17.1")
    body = {"conversationId": "D1", "continuation": "done"}
    await setting.agent.receive_callback(QueueMessage(json.dumps(body).encode(), "m1"))
    assert (setting.slack.calls[1].path, setting.slack.calls[1].body) == (
        "/api/chat.update",
        {"channel": "D1", "ts": "17.1", "text": "Done"},
    )


async def test_an_answer_stays_in_its_thread(setting: Setting) -> None:
    setting.answer(ts="17.2")
    await setting.receive(setting.event("order", channel="C1", thread_ts="16.0", channel_type="channel"))
    assert setting.slack.calls[0].body["thread_ts"] == "16.0"


async def test_the_agent_does_not_answer_itself(setting: Setting) -> None:
    for event in (setting.event("order", bot_id="B1"), setting.event("order", subtype="message_changed")):
        await setting.receive(event)
    assert setting.slack.calls == []


async def test_only_slack_is_heard(setting: Setting) -> None:
    with pytest.raises(NotAuthenticated):
        await setting.receive(setting.event("order"), secret="another")
    raw = json.dumps(setting.event("order")).encode()
    old = str(int((setting.clock.now() - timedelta(minutes=6)).timestamp()))
    signature = "v0=" + hmac.new(SECRET.encode(), f"v0:{old}:".encode() + raw, hashlib.sha256).hexdigest()
    headers = {"x-slack-request-timestamp": old, "x-slack-signature": signature}
    with pytest.raises(NotAuthenticated, match="old"):
        await setting.adapter.process_event(headers, raw, setting.agent)


@pytest.mark.parametrize(
    ("status", "body", "decision"),
    [
        (200, {"ok": False, "error": "channel_not_found"}, "gone"),
        (200, {"ok": False, "error": "invalid_auth"}, "rejected"),
        (429, {}, "throttled"),
        (503, {}, "ambiguous"),
    ],
)
async def test_slacks_refusals_call_for_the_same_decisions(
    setting: Setting, status: int, body: dict[str, Any], decision: str
) -> None:
    setting.slack.answers = [lambda: Response(json.dumps(body), status, media_type="application/json")]
    with pytest.raises(ChannelError) as failed:
        await setting.receive(setting.event("order"))
    assert failed.value.decision == decision


async def test_a_conversation_can_be_opened_and_spoken_in(setting: Setting) -> None:
    setting.answer(channel={"id": "D9"})
    setting.answer(ts="17.3")

    async def greet(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("Hello")

    parameters = ConversationParameters(members=[ChannelAccount(id="U9")])
    conversation = await setting.agent.proactive.create_conversation(
        "slack", "https://slack.com/api/", parameters, greet
    )
    assert conversation.id == "D9"
    assert [call.path for call in setting.slack.calls] == ["/api/conversations.open", "/api/chat.postMessage"]
