"""A request comes in: what is refused and how, what is answered, and where the agent's words go."""

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.responses import Response

from agent_core import Activity, AgentApplication, ClaimsIdentity, InvokeResponse, TurnContext, TurnState
from agent_core.channel.cloud_adapter import AgentIdentity, CloudAdapter, HttpRequest, HttpResponse
from agent_core.channel.connector_client import ConnectorClient
from agent_core.channel.http_client import HttpClient
from agent_core.channel.token_validator import TokenValidator
from agent_core.channel.url_guard import UrlGuard
from agent_core.errors import BadActivity, NotAllowed, QueueUnavailable, SettingsError, StoreUnavailable
from agent_core.proactive.queue import QueueMessage
from agent_core.store.memory_store import MemoryStore
from agent_core.testing import ManualClock, MemoryQueue
from tests.serving import FakeChannel, anywhere, serve

JSON = {"content-type": "application/json; charset=utf-8"}
URL = "http://127.0.0.1:7071/api/messages"


class Setting:
    """An agent behind a CloudAdapter, and the channel service it answers to."""

    def __init__(self, service_url: str, http: HttpClient, channel: FakeChannel, app_id: str | None = None) -> None:
        self.clock = ManualClock()
        self.channel = channel
        self.service_url = service_url
        validator = None
        if app_id is not None:
            validator = TokenValidator(app_id, http, self.clock.now)
        self.adapter = CloudAdapter(
            identity=lambda: AgentIdentity(app_id, validator),
            connector=lambda: ConnectorClient(http, None, self.clock.now),
            guard=lambda: UrlGuard(development=app_id is None),
            now=self.clock.now,
        )
        self.store = MemoryStore(self.clock.now)
        self.queue = MemoryQueue(self.clock)
        self.agent = AgentApplication(self.adapter, self.store, self.queue)

    def activity(self, **changes: Any) -> dict[str, Any]:
        body = {
            "type": "message",
            "id": "in/1",
            "channelId": "emulator",
            "serviceUrl": self.service_url,
            "conversation": {"id": "c1"},
            "from": {"id": "user"},
            "recipient": {"id": "agent"},
            "text": "hello",
        }
        return {name: value for name, value in {**body, **changes}.items() if value is not None}

    async def post(
        self, body: bytes | dict[str, Any], headers: dict[str, str] | None = None, method: str = "POST", url: str = URL
    ) -> HttpResponse:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.adapter.process_activity(
            HttpRequest(method, url, JSON if headers is None else headers, raw), self.agent
        )


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    client = HttpClient(allow_address=anywhere, connect_timeout=1, read_timeout=1)
    yield client
    await client.close()


@pytest.fixture
async def setting(http: HttpClient) -> AsyncIterator[Setting]:
    channel = FakeChannel()
    async with serve(channel.app()) as url:
        setting = Setting(url, http, channel)

        @setting.agent.message("hello")
        async def hello(context: TurnContext, state: TurnState) -> None:
            state.conversation["seen"] = True
            await context.send_activity("Hello!")

        yield setting


def error_of(answer: HttpResponse) -> tuple[int, str]:
    body = json.loads(answer.body)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    assert answer.headers["content-type"].startswith("application/json")
    return answer.status, body["error"]["code"]


async def test_a_message_is_answered_to_its_service(setting: Setting) -> None:
    """P1.5, P4.1: what a sender leaves to the channel is left out; an answer goes to the reply route."""
    answer = await setting.post(setting.activity())
    assert (answer.status, answer.body) == (202, b"")
    (call,) = setting.channel.calls
    assert (call.method, call.path) == ("POST", "/v3/conversations/c1/activities/in%2F1")
    assert call.body == {
        "type": "message",
        "text": "Hello!",
        "textFormat": "markdown",
        "channelId": "emulator",
        "from": {"id": "agent"},
        "recipient": {"id": "user"},
        "conversation": {"id": "c1"},
        "replyToId": "in/1",
    }
    assert "authorization" not in call.headers


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"method": "GET"}, (405, "MethodNotAllowed")),
        ({"method": "PUT"}, (405, "MethodNotAllowed")),
        ({"headers": {}}, (415, "NotJson")),
        ({"headers": {"content-type": "text/plain"}}, (415, "NotJson")),
        ({"body": b""}, (400, "InvalidJson")),
        ({"body": b"{'type': 1}"}, (400, "InvalidJson")),
        ({"body": b"[1]"}, (400, "NotAnObject")),
        ({"body": b'{"type": "message", "value": ' + b"[" * 64 + b"]" * 64 + b"}"}, (400, "TooDeep")),
        ({"body": b'{"type": "message", "text": "' + b"x" * 1024 * 1024 + b'"}'}, (413, "TooLarge")),
        ({"body": {"type": None}}, (400, "MissingType")),
        ({"body": {"type": ""}}, (400, "MissingType")),
        ({"body": {"conversation": None}}, (400, "MissingConversation")),
        ({"body": {"conversation": {}}}, (400, "MissingConversation")),
        ({"body": {"channelId": None}}, (400, "MissingChannel")),
        ({"body": {"from": None}}, (400, "MissingFrom")),
        ({"body": {"from": {"id": ""}}}, (400, "MissingFrom")),
        ({"body": {"type": "invoke"}}, (400, "MissingName")),
        ({"body": {"type": "event", "name": ""}}, (400, "MissingName")),
        ({"body": {"conversation": {"id": "x" * 1001}}}, (400, "BadId")),
        ({"body": {"conversation": {"id": "\ud800"}}}, (400, "BadId")),
        ({"body": {"from": {"id": "\udfff"}}}, (400, "BadId")),
        ({"body": {"channelId": "x" * 1001}}, (400, "BadId")),
        ({"body": {"id": "\ud800"}}, (400, "BadId")),
        ({"body": {"text": 7}}, (400, "BadSyntax")),
        ({"body": {"deliveryMode": "stream"}}, (400, "StreamNotSupported")),
        ({"body": {"serviceUrl": "http://198.51.100.7/"}}, (403, "ServiceUrlNotAllowed")),
        ({"body": {"serviceUrl": None}}, (403, "ServiceUrlNotAllowed")),
        ({"url": "http://rebound.example:7071/api/messages"}, (401, "NotLoopback")),
        ({"headers": {**JSON, "x-forwarded-for": "198.51.100.7"}}, (401, "NotLoopback")),
    ],
)
async def test_bad_input_gets_a_clear_error_and_nothing_else_happens(
    setting: Setting, change: dict[str, Any], expected: tuple[int, str]
) -> None:
    """P1.2, P1.9, section 1.2: required fields, wrong JSON types, size and depth."""
    body = change.pop("body", {})
    change["body"] = setting.activity(**body) if isinstance(body, dict) else body
    answer = await setting.post(**change)
    assert error_of(answer) == expected
    assert setting.channel.calls == []
    assert await setting.agent.proactive.get_conversation("c1") is None


async def test_a_wrong_method_names_the_right_one(setting: Setting) -> None:
    assert (await setting.post(b"", method="GET")).headers["allow"] == "POST"


async def test_a_handlers_exception_is_logged_once_and_never_shown(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    @setting.agent.message("fail")
    async def fail(context: TurnContext, state: TurnState) -> None:
        state.conversation["seen"] = "overwritten"
        raise RuntimeError("a detail that is nobody's business")

    @setting.agent.error
    async def apologise(context: TurnContext, error: Exception) -> None:
        await context.send_activity("Sorry")

    await setting.post(setting.activity())
    answer = await setting.post(setting.activity(id="in/2", text="fail"))
    assert (answer.status, answer.body) == (202, b"")
    assert setting.channel.texts == ["Hello!", "Sorry"]
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1
    assert "a detail that is nobody's business" in caplog.text
    conversation = await setting.agent.proactive.get_conversation("c1")
    assert conversation is not None
    assert conversation.state == {"seen": True}


async def test_an_invoke_is_answered_in_the_http_response(setting: Setting) -> None:
    """P1.30, P1.31, P1.34: what the handler returns is the answer; 501 unhandled, 400 a bad value, 500 a failure."""

    @setting.agent.invoke("task/fetch")
    async def fetch(context: TurnContext, state: TurnState) -> dict[str, object]:
        return {"task": {"type": "message", "value": "ü"}}

    @setting.agent.invoke("nothing")
    async def nothing(context: TurnContext, state: TurnState) -> None: ...

    @setting.agent.invoke("refused")
    async def refused(context: TurnContext, state: TurnState) -> InvokeResponse:
        return InvokeResponse(status=412, body={"why": "not now"})

    @setting.agent.invoke("fails")
    async def fails(context: TurnContext, state: TurnState) -> None:
        raise RuntimeError

    @setting.agent.invoke("picky")
    async def picky(context: TurnContext, state: TurnState) -> None:
        raise BadActivity("'value.number' must be a number", code="BadValue")

    @setting.agent.error
    async def apologise(context: TurnContext, error: Exception) -> None:
        assert not isinstance(error, BadActivity), "what the caller did wrong is told to the caller only"

    async def invoke(name: str) -> HttpResponse:
        return await setting.post(setting.activity(type="invoke", id=f"in/{name}", name=name, text=None))

    answer = await invoke("task/fetch")
    assert (answer.status, json.loads(answer.body)) == (200, {"task": {"type": "message", "value": "ü"}})
    answer = await invoke("nothing")
    assert (answer.status, answer.body) == (200, b"")
    answer = await invoke("refused")
    assert (answer.status, json.loads(answer.body)) == (412, {"why": "not now"})
    assert error_of(await invoke("unknown")) == (501, "NotImplemented")
    assert error_of(await invoke("fails")) == (500, "TurnFailed")
    assert error_of(await invoke("picky")) == (400, "BadValue")


async def test_expected_replies_are_the_body_and_no_call_is_made(setting: Setting) -> None:
    """Section 1.7, A3113: the replies, and an invoke's body beside them."""

    @setting.agent.invoke("ask")
    async def ask(context: TurnContext, state: TurnState) -> dict[str, int]:
        await context.send_activities(["one", Activity(type="trace", name="t"), "two"])
        return {"answer": 42}

    answer = await setting.post(setting.activity(deliveryMode="expectReplies", serviceUrl=None))
    body = json.loads(answer.body)
    assert (answer.status, [each["text"] for each in body["activities"]]) == (200, ["Hello!"])
    answer = await setting.post(setting.activity(type="invoke", name="ask", deliveryMode="expectReplies"))
    body = json.loads(answer.body)
    assert (answer.status, body["body"]) == (200, {"answer": 42})
    assert [each.get("text") for each in body["activities"] if each["type"] == "message"] == ["one", "two"]
    assert setting.channel.calls == []


async def test_a_long_running_message_is_acknowledged_before_it_runs(setting: Setting) -> None:
    @setting.agent.message("report", long_running=True)
    async def report(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("Here it is")

    answer = await setting.post(setting.activity(text="report"))
    assert (answer.status, setting.channel.calls) == (202, [])
    for message in setting.queue.take_due():
        await setting.agent.do_work(message)
    assert setting.channel.texts == ["Here it is"]


async def test_traces_go_to_the_emulator_only(setting: Setting) -> None:
    """Section 1.3, P4.4."""

    @setting.agent.message("trace")
    async def trace(context: TurnContext, state: TurnState) -> None:
        await context.send_activities([Activity(type="trace", name="t"), "seen"])

    await setting.post(setting.activity(text="trace"))
    await setting.post(setting.activity(text="trace", channelId="webchat"))
    assert [call.body["type"] for call in setting.channel.calls] == ["trace", "message", "message"]


async def test_a_caller_cannot_say_who_it_is(setting: Setting) -> None:
    """P1.6, A2251: what the wire says of the caller is discarded."""
    seen: list[str | None] = []

    @setting.agent.message("who")
    async def who(context: TurnContext, state: TurnState) -> None:
        seen.append(context.activity.caller_id)

    await setting.post(setting.activity(text="who", callerId="urn:botframework:azure"))
    assert seen == [None]


async def test_without_a_store_the_channel_is_asked_to_try_again(setting: Setting) -> None:
    async def away(*arguments: object, **named: object) -> None:
        raise StoreUnavailable("away")

    setting.store.read = away  # type: ignore[method-assign]  # a fault of the store
    answer = await setting.post(setting.activity())
    assert error_of(answer) == (503, "Unavailable")
    assert "retry-after" in answer.headers


async def test_without_a_queue_a_long_running_turn_is_asked_for_again(setting: Setting) -> None:
    @setting.agent.message("report", long_running=True)
    async def report(context: TurnContext, state: TurnState) -> None: ...

    async def away(message: QueueMessage) -> None:
        raise QueueUnavailable("away")

    setting.queue.send = away  # type: ignore[method-assign]  # a fault of the queue
    assert error_of(await setting.post(setting.activity(text="report"))) == (503, "Unavailable")


async def test_a_missing_setting_is_named_in_the_answer_and_nothing_runs(http: HttpClient) -> None:
    setting = Setting("https://smba.trafficmanager.net/", http, FakeChannel())

    def missing() -> AgentIdentity:
        raise SettingsError("The setting X is missing")

    setting.adapter._identity = missing
    answer = await setting.post(setting.activity())
    assert error_of(answer) == (500, "NotConfigured")
    assert "The setting X is missing" in answer.body.decode()


async def test_with_an_app_id_a_token_is_required_even_on_this_machine(http: HttpClient) -> None:
    setting = Setting("https://smba.trafficmanager.net/", http, FakeChannel(), app_id="app")
    answer = await setting.post(setting.activity())
    assert error_of(answer) == (401, "MissingToken")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_the_token_goes_nowhere_that_was_not_verified(http: HttpClient) -> None:
    """A stored conversation may be old, or come from somewhere else: it is asked again before each send."""
    setting = Setting("https://smba.trafficmanager.net/", http, FakeChannel(), app_id="app")
    adapter = setting.adapter
    for service_url in ("https://smba.trafficmanager.net/", "https://evil.example/"):
        activity = Activity.from_dict(setting.activity(serviceUrl=service_url))
        context = TurnContext(adapter, activity, now=setting.clock.now())
        with pytest.raises(NotAllowed):
            await context.send_activity("x")
        with pytest.raises(NotAllowed):
            await context.update_activity(Activity(id="1", text="x"))


async def test_p6_2_a_stream_goes_through_the_connector_with_its_id(setting: Setting) -> None:
    """The id that the first answer gives comes back in the entity and in `id`; a message's own id never goes out."""

    @setting.agent.message("stream")
    async def stream(context: TurnContext, state: TurnState) -> None:
        async with context.streaming_response as stream:
            for count, word in enumerate(("One ", "two"), start=1):
                stream.queue_text_chunk(word)
                await setting.channel.wait_for(count)

    setting.adapter.sleep = setting.clock.advance  # nobody else moves the time
    assert (await setting.post(setting.activity(text="stream"))).status == 202
    first, second, end = [call.body for call in setting.channel.calls]
    assert (first["type"], first["text"], first.get("id")) == ("typing", "One ", None)
    assert first["entities"] == [{"type": "streaminfo", "streamType": "streaming", "streamSequence": 1}]
    assert (second["type"], second["text"], second["id"]) == ("typing", "One two", "sent1")
    assert (end["type"], end["text"], end["id"]) == ("message", "One two", "sent1")
    assert end["entities"][0]["streamId"] == "sent1"
    assert all(call.path.endswith("/activities/in%2F1") for call in setting.channel.calls)


async def test_p6_7_what_the_connector_says_reaches_the_stream(setting: Setting) -> None:
    @setting.agent.message("stream")
    async def stream(context: TurnContext, state: TurnState) -> None:
        async with context.streaming_response as stream:
            stream.queue_text_chunk("One")
            await setting.channel.wait_for(1)

    said = {"error": {"code": "ContentStreamNotAllowed", "message": "Content stream is not allowed"}}
    setting.channel.answers = [lambda: Response(json.dumps(said), 403)]
    assert (await setting.post(setting.activity(text="stream"))).status == 202
    refused, message = [call.body for call in setting.channel.calls]
    assert refused["type"] == "typing"
    assert (message["type"], message["text"], "entities" in message) == ("message", "One", False)


async def test_p6_8_expect_replies_gets_a_stream_as_one_message(setting: Setting) -> None:
    @setting.agent.message("stream")
    async def stream(context: TurnContext, state: TurnState) -> None:
        async with context.streaming_response as stream:
            stream.queue_informative_update("Looking")
            stream.queue_text_chunk("One")

    answer = await setting.post(setting.activity(text="stream", deliveryMode="expectReplies"))
    assert [each["text"] for each in json.loads(answer.body)["activities"]] == ["One"]
    assert setting.channel.calls == []


async def test_a_verified_caller_is_named_by_its_token(setting: Setting) -> None:
    """P1.6, A2252: `callerId` is what the validated token stands for."""
    seen: list[str | None] = []

    @setting.agent.message("who")
    async def who(context: TurnContext, state: TurnState) -> None:
        seen.append(context.activity.caller_id)

    class Verified(TokenValidator):
        async def validate(self, authorization: str | None, activity: Activity) -> ClaimsIdentity:
            return ClaimsIdentity({"aud": "app", "iss": "https://api.botframework.com"}, service_url_verified=True)

    validator = Verified("app", HttpClient(allow_address=anywhere), setting.clock.now)
    setting.adapter._identity = lambda: AgentIdentity("app", validator)
    await setting.post(setting.activity(text="who", callerId="urn:botframework:aadappid:evil"))
    assert seen == ["urn:botframework:azure"]


async def test_p1_10_the_headers_of_teams_decide_nothing(setting: Setting) -> None:
    """`x-ms-conversation-id` and `x-ms-tenant-id` are not part of what a token vouches for."""
    headers = {**JSON, "x-ms-conversation-id": "another", "x-ms-tenant-id": ""}
    assert (await setting.post(setting.activity(), headers)).status == 202
    assert setting.channel.calls[0].path.startswith("/v3/conversations/c1/")
    assert await setting.agent.proactive.get_conversation("another") is None
