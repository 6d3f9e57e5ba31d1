"""The user token service over real HTTP: each route as it is specified, and what its answers mean."""

import base64
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from starlette.responses import Response

from agent_core import ChannelAccount, ConversationAccount, ConversationReference, OAuthConnection
from agent_core.channel.clouds import CHINA, PUBLIC, US_GOVERNMENT, Cloud, token_service_url
from agent_core.channel.http_client import HttpClient
from agent_core.channel.user_token_client import UserTokenClient
from agent_core.errors import ChannelError, ConsentRequired, SettingsError
from agent_core.turn.user_tokens import SignInResource, TokenResponse
from tests.serving import anywhere, serve
from tests.token_service import FakeTokenService, hang, reply

USER = ("29:1", "graph", "msteams")
REFERENCE = ConversationReference(
    activity_id="a1",
    user=ChannelAccount(id="29:1"),
    agent=ChannelAccount(id="28:app"),
    conversation=ConversationAccount(id="a:1", conversation_type="personal"),
    channel_id="msteams:COPILOT",
    service_url="https://smba.trafficmanager.net/emea/",
    delivery_mode="expectReplies",
)
SECRET = "canary-user-token"
AGENT_SECRET = "canary-agent-token"


@dataclass
class Setting:
    service: FakeTokenService
    client: UserTokenClient
    refreshes: list[bool] = field(default_factory=list)


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    service = FakeTokenService()
    http = HttpClient(allow_address=anywhere, connect_timeout=0.5, read_timeout=0.5)
    refreshes: list[bool] = []

    async def agent_token(force_refresh: bool) -> str:
        refreshes.append(force_refresh)
        return AGENT_SECRET

    async with serve(service.app()) as url:
        client = UserTokenClient(
            http, agent_token, app_id="app", base_url=url + "/", connections=lambda name: OAuthConnection(name, name)
        )
        yield Setting(service, client, refreshes)
        await http.close()


async def test_section_5_a_token_is_asked_for_by_user_connection_and_base_channel(setting: Setting) -> None:
    """GetToken, P5.2: the service knows `msteams`, not `msteams:COPILOT`."""
    setting.service.tokens[USER] = SECRET
    found = await setting.client.get_token("29:1", "graph", "msteams:COPILOT")
    assert found == TokenResponse("graph", SECRET)
    (call,) = setting.service.calls
    assert (call.method, call.path) == ("GET", "/api/usertoken/GetToken")
    assert call.query == {"userId": "29:1", "connectionName": "graph", "channelId": "msteams"}
    assert call.headers["authorization"] == f"Bearer {AGENT_SECRET}"
    assert SECRET not in repr(found)


async def test_section_5_404_and_an_empty_answer_mean_there_is_no_token(setting: Setting) -> None:
    assert await setting.client.get_token("29:1", "graph", "msteams") is None
    assert await setting.client.get_token("29:1", "graph", "msteams", code="123456") is None
    assert setting.service.calls[1].query["code"] == "123456"
    setting.service.answers = [lambda: Response(), lambda: reply({"token": ""}), lambda: Response("<html>")]
    for _ in range(3):
        assert await setting.client.get_token("29:1", "graph", "msteams") is None


async def test_section_5_a_token_or_what_the_card_is_made_of(setting: Setting) -> None:
    """GetTokenOrSignInResource, P5.1: `state` ties the sign-in to the conversation, with the base channel."""
    found = await setting.client.get_token_or_sign_in_resource("29:1", "graph", REFERENCE)
    assert isinstance(found, SignInResource)
    assert found.sign_in_link == "https://token.example/sign-in"
    assert found.token_exchange_resource is not None
    assert found.token_exchange_resource.id == "exchange-1"
    (call,) = setting.service.calls
    assert call.path == "/api/usertoken/GetTokenOrSignInResource"
    assert json.loads(base64.b64decode(call.query["state"])) == {
        "connectionName": "graph",
        "conversation": {
            "activityId": "a1",
            "user": {"id": "29:1"},
            "bot": {"id": "28:app"},
            "conversation": {"id": "a:1", "conversationType": "personal"},
            "channelId": "msteams",
            "serviceUrl": "https://smba.trafficmanager.net/emea/",
        },
        "msAppId": "app",
    }
    setting.service.tokens[USER] = SECRET
    found = await setting.client.get_token_or_sign_in_resource("29:1", "graph", REFERENCE)
    assert found == TokenResponse("graph", SECRET)


async def test_section_5_where_the_service_gives_neither_the_resource_is_asked_for_by_itself(setting: Setting) -> None:
    setting.service.answers = [lambda: Response(status_code=404)]
    found = await setting.client.get_token_or_sign_in_resource("29:1", "graph", REFERENCE)
    assert isinstance(found, SignInResource)
    assert [call.path for call in setting.service.calls][1] == "/api/botsignin/GetSignInResource"


async def test_section_5_an_exchange_is_a_post_with_a_token_or_a_uri(setting: Setting) -> None:
    setting.service.exchangeable["client token"] = SECRET
    assert await setting.client.exchange_token("29:1", "graph", "msteams", token="client token") is not None
    (call,) = setting.service.calls
    assert (call.method, call.path, call.body) == ("POST", "/api/usertoken/exchange", {"token": "client token"})
    assert call.query == {"userId": "29:1", "connectionName": "graph", "channelId": "msteams"}
    setting.service.answers = [lambda: Response(status_code=404)]
    assert await setting.client.exchange_token("29:1", "graph", "msteams", uri="api://x") is None
    assert setting.service.calls[1].body == {"uri": "api://x"}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda: reply({"error": {"code": "ConsentRequired"}}, 400), ConsentRequired),
        (lambda: reply({"error": {"code": "consentrequired"}}, 400), ConsentRequired),
        (lambda: Response(status_code=400), ConsentRequired),
        (lambda: reply({"error": {"code": "BadArgument"}}, 400), ChannelError),
        (lambda: Response("oops", 500), ChannelError),
    ],
)
async def test_section_5_400_for_an_exchange_means_consent(
    setting: Setting, answer: object, error: type[Exception]
) -> None:
    setting.service.answers = [answer]  # type: ignore[list-item]  # a callable, as pytest knows no types
    with pytest.raises(error):
        await setting.client.exchange_token("29:1", "graph", "msteams", token=SECRET)


async def test_section_5_the_other_routes(setting: Setting) -> None:
    """GetAadTokens, GetTokenStatus, SignOut, GetSignInUrl; X16: `botsignin`, and `code_challenge`."""
    client, service = setting.client, setting.service
    service.tokens[USER] = SECRET
    tokens = await client.get_aad_tokens("29:1", "graph", "msteams", ["https://graph.microsoft.com"])
    assert tokens == {"https://graph.microsoft.com": TokenResponse("graph", SECRET)}
    assert service.calls[-1].body == {"resourceUrls": ["https://graph.microsoft.com"]}
    (status,) = await client.get_token_status("29:1", "msteams", include="graph,github")
    assert (status.connection_name, status.has_token) == ("graph", True)
    assert service.calls[-1].query["include"] == "graph,github"
    await client.sign_out("29:1", "graph", "msteams")
    assert (service.calls[-1].method, service.calls[-1].path) == ("DELETE", "/api/usertoken/SignOut")
    assert service.tokens == {}
    url = await client.get_sign_in_url("graph", REFERENCE, code_challenge="c", emulator_url="e", final_redirect="f")
    assert url == "https://token.example/sign-in"
    call = service.calls[-1]
    assert call.path == "/api/botsignin/GetSignInUrl"
    assert {name: call.query[name] for name in ("code_challenge", "emulatorUrl", "finalRedirect")} == {
        "code_challenge": "c",
        "emulatorUrl": "e",
        "finalRedirect": "f",
    }
    resource = await client.get_sign_in_resource("graph", REFERENCE)
    assert resource.sign_in_link == "https://token.example/sign-in"
    service.answers = [lambda: Response(status_code=404)]
    await client.sign_out("29:1")


@pytest.mark.parametrize(
    ("status", "decision"),
    [(401, "misconfigured"), (403, "misconfigured"), (429, "throttled"), (400, "rejected"), (503, "ambiguous")],
)
async def test_a_failure_says_what_it_calls_for_and_repeats_nothing_that_was_sent(
    setting: Setting, status: int, decision: str
) -> None:
    error_body = {"error": {"code": "TheCode", "message": SECRET}}
    setting.service.answers = [lambda: reply(error_body, status)] * 2
    with pytest.raises(ChannelError) as raised:
        await setting.client.get_token("29:1", "graph", "msteams", code="123456")
    assert (raised.value.status, raised.value.decision, raised.value.code) == (status, decision, "TheCode")
    assert SECRET not in str(raised.value)
    assert SECRET not in repr(vars(raised.value))


async def test_a_code_that_is_none_is_not_repeated_either(setting: Setting) -> None:
    setting.service.answers = [lambda: reply({"error": {"code": f"{SECRET} and more"}}, 403)]
    with pytest.raises(ChannelError) as raised:
        await setting.client.get_token("29:1", "graph", "msteams")
    assert raised.value.code is None


async def test_p3_7_a_refused_agent_token_is_refreshed_once(setting: Setting) -> None:
    setting.service.tokens[USER] = SECRET
    setting.service.answers = [lambda: Response(status_code=401)]
    assert await setting.client.get_token("29:1", "graph", "msteams") is not None
    assert setting.refreshes == [False, True]


async def test_a_service_that_hangs_or_is_away_is_an_error_after_the_time_out(setting: Setting) -> None:
    setting.service.before_answer = hang
    with pytest.raises(ChannelError) as raised:
        await setting.client.get_token("29:1", "graph", "msteams")
    assert raised.value.decision == "ambiguous"
    setting.client._base_url = "http://127.0.0.1:1"
    with pytest.raises(ChannelError) as raised:
        await setting.client.get_token("29:1", "graph", "msteams")
    assert raised.value.decision == "unsent"


@pytest.mark.parametrize("cloud", [PUBLIC, US_GOVERNMENT, CHINA])
def test_x15_each_clouds_own_token_service_may_have_the_agents_token(cloud: Cloud) -> None:
    assert token_service_url(cloud.token_service + "/", cloud) == cloud.token_service


def test_x15_another_address_must_be_the_bot_services() -> None:
    assert token_service_url("https://token.botframework.com", PUBLIC) == "https://token.botframework.com"
    for url in (
        "http://token.botframework.com",
        "https://token.botframework.com.evil.example",
        "https://evilbotframework.com",
        "https://user@token.botframework.com",
        "https://token.botframework.com:8443",
        "https://token.botframework.com?x",
        "https://token.botframework.us",
        "https://[",
        "token.botframework.com",
    ):
        with pytest.raises(SettingsError, match="user token service"):
            token_service_url(url, PUBLIC)


async def test_no_token_is_logged_at_debug(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        setting.service.tokens[USER] = SECRET
        setting.service.exchangeable["canary-client-token"] = SECRET
        await setting.client.get_token("29:1", "graph", "msteams", code="987654")
        await setting.client.get_token("29:1", "graph", "msteams")
        await setting.client.exchange_token("29:1", "graph", "msteams", token="canary-client-token")
        with pytest.raises(ConsentRequired):
            await setting.client.exchange_token("29:1", "graph", "msteams", token="canary-2")
    assert caplog.records
    for secret in (SECRET, AGENT_SECRET, "canary", "987654"):
        assert secret not in caplog.text
