"""As whom the agent answers: which token goes where, in the turns of a caller and in those it begins itself."""

import logging
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from starlette.responses import Response

from agent_core import Activity, AgentApplication, ClaimsIdentity, ConversationParameters, TurnContext, TurnState
from agent_core.channel.cloud_adapter import AgentIdentity, CloudAdapter, ReplyBuffer
from agent_core.channel.clouds import CHINA
from agent_core.channel.connector_client import ConnectorClient
from agent_core.channel.http_client import HttpClient
from agent_core.channel.token_provider import AgenticIdentity
from agent_core.channel.url_guard import UrlGuard
from agent_core.errors import ChannelError, NotAllowed, NotSupported
from agent_core.store.memory_store import MemoryStore
from agent_core.testing import ManualClock, MemoryQueue
from agent_core.turn.channel_adapter import Answer
from tests.serving import ChannelCall, FakeChannel, anywhere, serve

CHANNEL = ClaimsIdentity({"aud": "app", "iss": "https://api.botframework.com"}, service_url_verified=True)
PARENT = ClaimsIdentity({"aud": "app", "ver": "2.0", "azp": "parent", "tid": "t"})
PARENT_V1 = ClaimsIdentity({"aud": "app", "ver": "1.0", "appid": "parent", "tid": "t"})


class Tokens:
    """Gives a canary for each scope."""

    async def token(self, scope: str | AgenticIdentity, *, force_refresh: bool = False) -> str:
        if isinstance(scope, AgenticIdentity):
            return f"canary.{scope.tenant_id}.{scope.app_id}.{scope.user_id}.{scope.scope}"
        return f"canary.{scope}"


class Setting:
    """An agent with an app id, and a service on this machine in the place of every caller's."""

    def __init__(self, url: str, channel: FakeChannel, http: HttpClient) -> None:
        self.clock = ManualClock()
        self.url = url
        self.channel = channel
        tokens = Tokens()
        client = ConnectorClient(
            http, tokens, self.clock.now, sleep=self.clock.advance, cloud=CHINA, agentic_tokens=tokens
        )
        self.adapter = CloudAdapter(
            identity=lambda: AgentIdentity("app", None),
            connector=lambda: client,
            guard=lambda: UrlGuard(development=True),
            now=self.clock.now,
        )
        self.store = MemoryStore(self.clock.now)
        self.agent = AgentApplication(self.adapter, self.store, MemoryQueue(self.clock))

        @self.agent.message("hello")
        async def hello(context: TurnContext, state: TurnState) -> None:
            await context.send_activity("Hello!")

    def context(self, identity: ClaimsIdentity, recipient: dict[str, Any] | None = None, **fields: Any) -> TurnContext:
        activity = Activity.from_dict(
            {
                "type": "message",
                "id": "in1",
                "channelId": "msteams",
                "serviceUrl": self.url,
                "conversation": {"id": "c;1"},
                "from": {"id": "user"},
                "recipient": {"id": "agent", **(recipient or {})},
                "text": "hello",
                **fields,
            }
        )
        return TurnContext(
            self.adapter, activity, now=self.clock.now(), identity=identity, callbacks=self.agent.callbacks
        )

    async def turn_and_later(self, context: TurnContext) -> list[ChannelCall]:
        """The calls of a turn, and of what the agent says on its own when the turn is over."""

        async def turn() -> Answer:
            await self.adapter.run_turn(context, self.agent.on_turn, self.agent.on_turn_error)
            return Answer(202)

        await self.agent.answer_once(context, turn)
        await self.agent.proactive.send_activity("c;1", "Later")
        return self.channel.calls


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    http = HttpClient(allow_address=anywhere, connect_timeout=1, read_timeout=1)
    channel = FakeChannel()
    async with serve(channel.app()) as url:
        yield Setting(url, channel, http)
        await http.close()


async def test_p3_1_a_channel_gets_the_token_of_the_connector_of_the_agents_cloud(setting: Setting) -> None:
    first, later = await setting.turn_and_later(setting.context(CHANNEL))
    expected = "Bearer canary.https://api.botframework.azure.cn/.default"
    assert [call.headers["authorization"] for call in (first, later)] == [expected] * 2
    assert "x-ms-conversation-id" not in first.headers


@pytest.mark.parametrize("parent", [PARENT, PARENT_V1])
async def test_p3_6_p8_2_an_agent_gets_a_token_that_is_made_for_it(setting: Setting, parent: ClaimsIdentity) -> None:
    """With the Bot Connector's, the parent answers 401. P4.3: it is told which of its conversations is meant."""
    first, later = await setting.turn_and_later(setting.context(parent))
    for call in (first, later):
        assert call.headers["authorization"] == "Bearer canary.parent/.default"
        assert call.headers["x-ms-conversation-id"] == "c;1"
    assert (first.path, later.path) == ("/v3/conversations/c%3B1/activities/in1", "/v3/conversations/c%3B1/activities")


async def test_p4_23_what_is_sent_at_once_arrives_in_its_order_though_the_first_is_refused(setting: Setting) -> None:
    """Teams does not order requests that overlap: the second leaves when the first was accepted, at its repeat."""
    setting.channel.answers = [lambda: Response(status_code=412)]
    sent = await setting.context(CHANNEL).send_activities(["one", "two", Activity(type="trace", name="t")])
    assert setting.channel.texts == ["one", "one", "two"]
    assert [each.id for each in sent] == ["sent2", "sent3", None]


async def test_an_id_that_no_header_can_hold_is_quoted_in_it(setting: Setting) -> None:
    context = setting.context(PARENT, conversation={"id": "ü\tx: y"})
    await context.send_activity("x")
    assert setting.channel.calls[0].headers["x-ms-conversation-id"] == "%C3%BC%09x:%20y"


async def test_the_connector_of_copilot_studio_gets_no_token(setting: Setting) -> None:
    """Proactive 3.5, first rule: the role of the recipient decides, in the stored conversation too."""
    setting.url += "/flow"
    context = setting.context(PARENT, {"role": "connectorUser"})
    for call in await setting.turn_and_later(context):
        assert (call.method, call.path) == ("POST", "/flow")
        assert not {"authorization", "x-ms-conversation-id"} & set(call.headers)
    assert len(setting.channel.calls) == 2


@pytest.mark.parametrize(("role", "user"), [("agenticUser", "u"), ("agenticAppInstance", None)])
async def test_p3_8_an_agent_with_an_identity_of_its_own_answers_as_itself(
    setting: Setting, role: str, user: str | None
) -> None:
    """Also later, from the stored conversation: losing the role would mean the wrong identity, not an error."""
    recipient = {"role": role, "tenantId": "t", "agenticAppId": "instance", "agenticUserId": "u"}
    calls = await setting.turn_and_later(setting.context(CHANNEL, recipient))
    expected = f"Bearer canary.t.instance.{user}.{CHINA.agentic_scope}"
    assert [call.headers["authorization"] for call in calls] == [expected] * 2


async def test_x10_the_id_of_an_agentic_conversation_is_cut_for_the_url(setting: Setting) -> None:
    """On the channel `agents` alone, and only where the agent is agentic: elsewhere every character counts."""
    recipient = {"role": "agenticAppInstance", "tenantId": "t", "agenticAppId": "instance"}
    long = "a/b\\#?" + "x" * 200
    for agentic, channel, expected in (
        (recipient, "agents", "a_b___" + "x" * 144),
        (recipient, "msteams", quote(long, safe="")),
        ({}, "agents", quote(long, safe="")),
    ):
        setting.channel.calls.clear()
        context = setting.context(CHANNEL, agentic, channelId=channel, conversation={"id": long})
        await context.send_activity("x")
        await context.update_activity(Activity(id="1", text="x")) if channel == "msteams" else None
        assert {call.path.split("/")[3] for call in setting.channel.calls} == {expected}
        assert setting.channel.calls[0].body["conversation"]["id"] == long


@pytest.mark.parametrize(
    "recipient",
    [
        {"role": "agenticUser", "tenantId": "t", "agenticAppId": "instance"},
        {"role": "agenticUser", "tenantId": "t", "agenticUserId": "u"},
        {"role": "agenticAppInstance", "agenticAppId": "instance"},
    ],
)
async def test_p3_8_an_agent_that_is_not_told_as_whom_never_answers_as_the_bot(
    setting: Setting, recipient: dict[str, str]
) -> None:
    context = setting.context(CHANNEL, recipient)
    for call in (
        context.send_activity("x"),
        context.update_activity(Activity(id="1", text="x")),
        context.delete_activity("1"),
        context.get_member("1"),
    ):
        with pytest.raises(NotSupported, match="agentic"):
            await call
    assert setting.channel.calls == []


async def test_p3_8_without_tokens_of_agentic_identities_nothing_is_sent(setting: Setting) -> None:
    setting.adapter._connector()._agentic_tokens = None
    recipient = {"role": "agenticAppInstance", "tenantId": "t", "agenticAppId": "instance"}
    with pytest.raises(NotSupported, match="agentic"):
        await setting.context(CHANNEL, recipient).send_activity("x")
    assert setting.channel.calls == []


async def test_a_service_that_was_never_verified_gets_no_token_of_the_connector(setting: Setting) -> None:
    """P8.7: an agent's reply token is good for that agent alone; the connector's needs a verified serviceUrl."""
    with pytest.raises(NotAllowed, match="never in a validated token"):
        await setting.context(ClaimsIdentity({"aud": "app"})).send_activity("x")
    for role in ("connectorUser", "user"):
        context = setting.context(PARENT, {"role": role}, serviceUrl="https://evil.example/")
        with pytest.raises(NotAllowed):
            await context.send_activity("x")
    assert setting.channel.calls == []


async def test_a_conversation_is_created_as_the_agent_itself(setting: Setting) -> None:
    await setting.adapter.create_conversation(setting.url, ConversationParameters(), setting.adapter.own_identity())
    assert setting.channel.calls[0].headers["authorization"].endswith(CHINA.connector_scope)


async def test_members_are_looked_up_from_the_context(setting: Setting) -> None:
    """As `TeamsInfo.get_member` and `get_paged_members`; also where the caller takes all replies at once."""
    for sender in (setting.adapter, ReplyBuffer(setting.adapter)):
        setting.channel.answers = [
            lambda: Response('{"id": "29:a", "email": "ann@x"}'),
            lambda: Response('{"members": [{"id": "29:a"}], "continuationToken": "t"}'),
            lambda: Response('{"members": [{"id": "29:b"}]}'),
        ]
        setting.channel.calls.clear()
        context = setting.context(CHANNEL)
        context._sender = sender
        assert (await context.get_member("29:a")).to_dict()["email"] == "ann@x"
        assert [member.id async for member in context.get_paged_members(page_size=50)] == ["29:a", "29:b"]
        assert [(call.path, call.query) for call in setting.channel.calls] == [
            ("/v3/conversations/c%3B1/members/29%3Aa", ""),
            ("/v3/conversations/c%3B1/pagedmembers", "pageSize=50"),
            ("/v3/conversations/c%3B1/pagedmembers", "pageSize=50&continuationToken=t"),
        ]


async def test_what_the_context_has_no_method_for_is_the_adapters_connector(setting: Setting) -> None:
    setting.channel.answers = [lambda: Response('{"name": "Team"}')]
    connector = setting.adapter.connector(setting.context(CHANNEL))
    assert await connector.teams.get_team_details("19:t") == {"name": "Team"}


async def test_no_token_is_stored_logged_or_in_an_error(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    for name in (None, "httpcore", "agent_core"):
        caplog.set_level(logging.DEBUG, logger=name)
    calls = await setting.turn_and_later(setting.context(CHANNEL))
    assert all("canary" in call.headers["authorization"] for call in calls)
    setting.channel.answers = [lambda: Response(status_code=401)] * 2 + [lambda: Response(status_code=500)]
    shown = []
    for _ in range(2):
        with pytest.raises(ChannelError) as failed:
            await setting.context(CHANNEL).send_activity("x")
        error: BaseException | None = failed.value
        while error is not None:
            shown.append(f"{error!r} {error} {error.__dict__}")
            error = error.__cause__ or error.__context__
    stored = repr(setting.store.__dict__)
    assert "c;1" in stored
    assert "canary" not in " ".join([stored, caplog.text, *shown])
