"""The app behind a real socket: what an HTTP client can send, as the local host hands it on."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import azure.functions as func
import httpx
import pytest

from agent_core import AgentApplication, TurnContext, TurnState
from agent_core.channel.clouds import CLOUDS, Cloud
from agent_core.channel.http_client import HttpClient
from agent_core.hosting.azure_services import AzureServices
from agent_core.hosting.functions_host import FunctionsHost
from agent_core.hosting.http_api import http_api
from agent_core.hosting.settings import CLIENT_ID, Settings
from tests.channel.token_issuers import APP_ID, PARENT, TENANT, running_issuers, segment, signed
from tests.local.running import Running, running

DEVELOPMENT = {"AZURE_FUNCTIONS_ENVIRONMENT": "Development"}
ACTIVITY = {
    "type": "message",
    "id": "in1",
    "channelId": "emulator",
    "serviceUrl": "http://localhost:9/",
    "conversation": {"id": "c1"},
    "from": {"id": "user"},
    "text": "hello",
    "deliveryMode": "expectReplies",
}
# Of an issuer that the agent knows and for another app: it is refused before any key is asked for.
TOKEN = signed({"alg": "RS256", "kid": "k"}, {"iss": "https://api.botframework.com", "aud": "other"})


@asynccontextmanager
async def serving(data: Path, settings: dict[str, str], http: HttpClient | None = None) -> AsyncIterator[Running]:
    """The app of an agent that answers "hello"; `http` is for a key server on this machine."""
    services = AzureServices(Settings({"AGENT_LOCAL_DATA": str(data), **settings}))
    services._http_client = http
    agent = AgentApplication(services.adapter, services.store, services.queue)
    host = FunctionsHost(agent, services)
    app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

    @agent.message("hello")
    async def hello(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("Hello!")

    @app.route("messages")
    async def messages(req: func.HttpRequest) -> func.HttpResponse:
        return await host.process_activity(req)

    app.register_functions(http_api(host))
    async with running(app, data, settings=settings) as opened:
        yield opened
    await services.close()


async def posted(
    opened: Running, headers: list[tuple[str, str]], query: str = "", **activity: Any
) -> tuple[int, str, httpx.Headers]:
    content = json.dumps({**ACTIVITY, **activity})
    answer = await opened.http.post(
        f"/api/messages{query}", headers=[("content-type", "application/json"), *headers], content=content
    )
    return answer.status_code, answer.json().get("error", {}).get("code", ""), answer.headers


@pytest.mark.parametrize("environment", [DEVELOPMENT, {}], ids=["development", "elsewhere"])
@pytest.mark.parametrize(
    ("headers", "query", "code"),
    [
        ([], "", "MissingToken"),
        ([], f"?access_token={TOKEN[7:]}&token={TOKEN[7:]}&authorization={TOKEN[7:]}", "MissingToken"),
        ([("authorization", TOKEN)], "", "WrongAudience"),
        ([("authorization", TOKEN), ("authorization", TOKEN)], "", "MalformedToken"),
        ([("authorization", TOKEN), ("Authorization", "Bearer x")], "", "MalformedToken"),
        ([("proxy-authorization", TOKEN), ("x-authorization", TOKEN)], "", "MissingToken"),
        ([("cookie", f"AppServiceAuthSession={TOKEN[7:]}")], "", "MissingToken"),
        (
            [
                ("x-ms-client-principal-id", APP_ID),
                ("x-ms-client-principal", segment({"auth_typ": "aad"})),
                ("x-ms-token-aad-access-token", TOKEN[7:]),
            ],
            "",
            "MissingToken",
        ),
        ([("x-forwarded-for", "127.0.0.1"), ("host", "localhost")], "", "MissingToken"),
        ([("x-functions-key", "master")], "?code=master", "MissingToken"),
    ],
)
async def test_p2_1_p2_13_nothing_but_one_bearer_token_says_who_is_calling(
    tmp_path: Path, environment: dict[str, str], headers: list[tuple[str, str]], query: str, code: str
) -> None:
    """P2.1, P2.9, P2.13: with an app id, in development too; what a gateway claims of the caller counts for nothing."""
    async with serving(tmp_path, {**environment, CLIENT_ID: APP_ID}) as opened:
        status, said, answer = await posted(opened, headers, query)
        assert (status, said, answer["www-authenticate"]) == (401, code, "Bearer")


async def test_p2_9_without_an_app_id_a_development_process_answers_this_machine(tmp_path: Path) -> None:
    async with serving(tmp_path, DEVELOPMENT) as opened:
        assert (await posted(opened, []))[:2] == (200, "")
        assert (await posted(opened, [("host", "evil.example")]))[:2] == (401, "NotLoopback")
        assert (await posted(opened, [("x-forwarded-host", "a.example")]))[:2] == (401, "NotLoopback")
        away = await posted(opened, [], serviceUrl="https://evil.example/", deliveryMode="normal")
        assert away[:2] == (403, "ServiceUrlNotAllowed")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"AZURE_FUNCTIONS_ENVIRONMENT": "Production"},
        *(
            {**DEVELOPMENT, mark: "x"}
            for mark in (
                "CONTAINER_APP_NAME",
                "IDENTITY_ENDPOINT",
                "WEBSITE_INSTANCE_ID",
                "WEBSITE_POD_NAME",
                "WEBSITE_SITE_NAME",
            )
        ),
    ],
    ids=str,
)
async def test_p2_9_elsewhere_nobody_is_answered_without_an_app_id(tmp_path: Path, settings: dict[str, str]) -> None:
    async with serving(tmp_path, settings) as opened:
        assert (await posted(opened, []))[:2] == (500, "NotConfigured")
        assert (await posted(opened, [("authorization", TOKEN)]))[:2] == (500, "NotConfigured")


async def test_a_wrong_caller_setting_stops_everybody_and_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path, {CLIENT_ID: APP_ID, "AGENT_CALLERS": "parent"}) as opened:
        assert (await posted(opened, [("authorization", TOKEN)]))[:2] == (500, "NotConfigured")
        ready = await opened.http.get("/api/health/ready")
        assert ready.status_code == 503
        assert "AGENT_CALLERS the entry 1 is wrong" in ready.text
        assert "'parent'" not in ready.text


async def test_p2_14_the_routes_without_a_token_tell_health_and_no_more(tmp_path: Path) -> None:
    """P2.14: an app's own routes need authentication of their own; the library brings none that does anything."""
    async with serving(tmp_path, {CLIENT_ID: APP_ID}) as opened:
        live = await opened.http.get("/api/health/live")
        assert (live.status_code, live.json()) == (200, {"status": "ok"})
        for path in ("/api/proactive/sendactivity", "/api/v3/conversations/c1/activities", "/api/messages/c1"):
            assert (await opened.http.post(path)).status_code == 404


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS)
async def test_good_callers_are_let_in_by_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cloud: Cloud
) -> None:
    """P2.7, P2.8: the cloud, the tenants, the callers and what is for development only, over real sockets."""
    async with running_issuers() as issuers:
        setting = issuers.setting(cloud=cloud)
        url = issuers.server.url
        published = replace(cloud, bot_service_metadata=f"{url}/bot/openid", entra_metadata=f"{url}/entra/openid")
        monkeypatch.setitem(CLOUDS, cloud.name, published)
        bot = setting.bot_token(serviceurl=ACTIVITY["serviceUrl"])
        parent, own = setting.entra_token(version=2), setting.entra_token(appid=APP_ID)
        settings = {**DEVELOPMENT, CLIENT_ID: APP_ID, "AGENT_CLOUD": cloud.name}
        asked = [("AGENT_TENANTS", TENANT), ("AGENT_CALLERS", PARENT)]
        for known, expected in (
            (asked, [200, 200, 200]),
            (asked[:1], [200, 403, 200]),
            (asked[1:], [200, 401, 401]),
        ):
            async with serving(tmp_path, {**settings, **dict(known)}, issuers.http) as opened:
                found = [
                    await posted(
                        opened, [("authorization", token)], conversation={"id": str(number)}, channelId="msteams"
                    )
                    for number, token in enumerate((bot, parent, own))
                ]
                assert [status for status, _, _ in found] == expected
