"""Secrets in every setting, header and body, and texts of users: none is in a log, an answer, or on the command line.

The app, the channel, the issuers and the identity provider run on real sockets. What the Emulator does is done along
the way: it shows a token of the agent itself, and is answered on this machine with the agent's token.
"""

import asyncio
import base64
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest
from starlette.responses import Response

from agent_core import AgentApplication, FunctionsHost, TurnContext, TurnState, http_api
from agent_core.channel.clouds import CLOUDS, PUBLIC
from agent_core.channel.http_client import HttpClient
from agent_core.hosting.azure_services import AzureServices
from agent_core.hosting.settings import CLIENT_ID, CLIENT_SECRET, TENANT_ID, Settings
from agent_core.testing import ManualClock
from tests.channel.identity_provider import IdentityProvider, SelfSigned, self_signed, trusting
from tests.channel.token_issuers import APP_ID, TENANT, running_issuers
from tests.local.running import Running, running, until
from tests.serving import FakeChannel, anywhere, serve

ROOT = Path(__file__).parent.parent.parent
KEY = base64.b64encode(b"canary of the store's key").decode()
BUS_KEY = base64.b64encode(b"canary of the queue's key").decode()
DEVELOPMENT = {"AZURE_FUNCTIONS_ENVIRONMENT": "Development"}
SECRETS = {
    CLIENT_ID: APP_ID,
    TENANT_ID: TENANT,
    CLIENT_SECRET: "canary-client-secret",
    "AGENT_TICKET_KEYS": "canary-ticket-key-of-32-characters",
    "AGENT_CALLBACK_TICKETS": "required",
}
CANARIES = ("canary", KEY, BUS_KEY)
# Said by handlers, whose lines a traceback shows.
TEXT = "canary"


@dataclass
class Scene:
    """The app on its socket, who is around it, and what was handed out."""

    app: Running
    agent: AgentApplication
    channel: FakeChannel
    channel_url: str
    provider: IdentityProvider
    own_token: str
    data: Path
    tickets: list[dict[str, Any]]
    answers: list[str]

    async def post(self, token: str, content: str | None = None, **changes: Any) -> int:
        """Post as the Emulator does, with canaries wherever there is room."""
        activity = {
            "type": "message",
            "channelId": "emulator",
            "serviceUrl": self.channel_url,
            "conversation": {"id": "c1", "name": "canary"},
            "from": {"id": "user", "name": "canary"},
            "recipient": {"id": "agent"},
            "channelData": {"ApiToken": "canary-slack-token"},
            "value": {"secret": "canary"},
            **changes,
        }
        headers = {"content-type": "application/json", "authorization": token, "x-functions-key": "canary"}
        content = content or json.dumps(activity)
        answer = await self.app.http.post("/api/messages", headers=headers, content=content)
        self.answers.append(f"{answer.headers} {answer.text}")
        return answer.status_code


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> SelfSigned:
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
async def scene(
    tmp_path: Path, certificate: SelfSigned, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    caplog.set_level(logging.DEBUG)
    channel, provider = FakeChannel(), IdentityProvider()
    async with (
        running_issuers() as issuers,
        provider.serve(certificate) as provider_url,
        serve(channel.app()) as channel_url,
    ):
        setting = issuers.setting()
        url = issuers.server.url
        published = replace(
            PUBLIC,
            bot_service_metadata=f"{url}/bot/openid",
            entra_metadata=f"{url}/entra/openid",
            login_host=provider_url.removeprefix("https://"),
        )
        monkeypatch.setitem(CLOUDS, "public", published)
        values = {**DEVELOPMENT, **SECRETS, "AGENT_LOCAL_DATA": str(tmp_path)}
        services = AzureServices(Settings(values))
        # The addresses of this machine are public ones for the test; who may be called is decided as ever.
        services.__dict__["_identity_http"] = HttpClient(ssl_context=trusting(certificate), allow_address=anywhere)
        services._http_client = HttpClient(allow_address=anywhere)
        agent = AgentApplication(services.adapter, services.store, services.queue, tickets=services.tickets)
        tickets: list[dict[str, Any]] = []
        app = laptop_orders(agent, services, tickets)
        # Tokens are good for an hour from the clock of the issuers.
        monkeypatch.setattr("agent_core.hosting.clock.now", ManualClock().now)
        async with running(app, tmp_path, settings=values) as opened:
            own = setting.entra_token(appid=APP_ID)
            yield Scene(opened, agent, channel, channel_url, provider, own, tmp_path, tickets, [])
        await services.close()


def laptop_orders(agent: AgentApplication, services: AzureServices, tickets: list[dict[str, Any]]) -> func.FunctionApp:
    """An app with a callback, a long-running turn and an attachment."""
    host = FunctionsHost(agent, services)
    app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
    app.register_functions(http_api(host))

    @agent.message("canary order")
    async def order(context: TurnContext, state: TurnState) -> None:
        placeholder = await context.send_activity(f"{TEXT}: ordered")
        ticket = await context.expect_callback("done", replaces=placeholder)
        tickets.append(ticket.to_dict())
        state.conversation["order"] = TEXT

    @agent.continuation("done")
    async def done(context: TurnContext, state: TurnState) -> None:
        await context.send_activity(f"{TEXT}: done {context.activity.value}")

    @agent.message("canary report", long_running=True)
    async def report(context: TurnContext, state: TurnState) -> None:
        await context.send_activity(f"{TEXT}: report")

    @agent.message("canary file")
    async def file(context: TurnContext, state: TurnState) -> None:
        await context.attachments[0].download()

    @app.route("messages")
    async def messages(req: func.HttpRequest) -> func.HttpResponse:
        return await host.process_activity(req)

    @app.service_bus_queue_trigger(
        "message", connection="ServiceBusConnection", queue_name="agent-callbacks", data_type=func.DataType.BINARY
    )
    async def callbacks(message: func.ServiceBusMessage) -> None:
        await host.continue_conversation(message)

    @app.service_bus_queue_trigger(
        "message", connection="ServiceBusConnection", queue_name="agent-work", data_type=func.DataType.BINARY
    )
    async def work(message: func.ServiceBusMessage) -> None:
        await host.do_work(message)

    return app


async def command(values: dict[str, str], *arguments: str, given: str | None = None) -> str:
    """`python -m agent_core …`: all that it prints."""
    foreign = ("ServiceBus", "Cosmos", "CONNECTIONS__", "WEBSITE_", "AZURE_", "AGENT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent_core", *arguments),
        cwd=ROOT,
        env={**kept, **values},
        stdin=pipe,
        stdout=pipe,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate(given.encode() if given else None)
    return out.decode()


def assert_no_canary(*shown: str, also: tuple[str, ...] = ()) -> None:
    for text in shown:
        for canary in (*CANARIES, *also):
            at = text.find(canary)
            assert at < 0, text[max(0, at - 300) : at + 100]


async def test_secrets_and_texts_are_in_no_log_no_answer_and_on_no_command_line(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue "who is calling": in no log at DEBUG, error, dead letter or command-line output."""
    values = {**DEVELOPMENT, **SECRETS, "AGENT_LOCAL_DATA": str(scene.data)}
    assert await scene.post(scene.own_token, id="1", text="canary order") == 202
    (posted,) = scene.channel.calls
    assert posted.headers["authorization"] == f"Bearer {scene.provider.tokens[0]}", "as the Emulator asks for"
    assert scene.provider.asked[0]["client_secret"] == "canary-client-secret"

    # The outcome, with the ticket and without, by the command line.
    (ticket,) = scene.tickets
    published = json.dumps({**ticket, "value": "canary", "id": "p1"})
    printed = [await command(values, "publish", "--ticket-file", "-", given=published)]
    forged = json.dumps({**ticket, "ticket": ticket["ticket"][:-1] + "!", "value": "canary", "id": "p2"})
    printed.append(await command(values, "publish", "--ticket-file", "-", given=forged))
    printed.append(await command(values, "publish", "--ticket-file", "-", given='{"canary'))
    await until(lambda: any(call.method == "PUT" for call in scene.channel.calls))
    assert scene.channel.calls[-1].body["text"] == "canary: done canary"

    # A channel that says all it was told, in its words, its codes and its headers.
    said = f"canary {scene.provider.tokens[0]}"
    echo = json.dumps({"error": {"code": f"{said} and so on", "subCode": said, "message": said}})
    headers = {"location": "http://127.0.0.1/canary", "set-cookie": "canary=1", "retry-after": "canary"}
    for number, (status, body) in enumerate([(400, echo), (302, echo), (403, json.dumps(said)), (500, said)]):
        scene.channel.answers = [lambda body=body, status=status: Response(body, status, headers)]  # type: ignore[misc]  # the defaults bind what the loop has
        assert await scene.post(scene.own_token, id=f"echo{number}", text="canary order") == 202
    scene.channel.answers = [lambda: Response(echo, 400, headers)]
    assert await scene.post(scene.own_token, id="long", text="canary report") == 202
    await until(lambda: not scene.channel.answers)

    # What comes in and is nothing, from people who are nobody.
    assert await scene.post("Bearer canary", id="2") == 401
    assert await scene.post("Bearer canary.canary.canary", id="2") == 401
    assert await scene.post(scene.own_token[:-9] + "AAAAAAAAA", id="2") == 401
    assert await scene.post(scene.own_token, '{"type": "canary') == 400
    assert await scene.post(scene.own_token, '{"type": "message", "text": "canary"}') == 400
    assert await scene.post(scene.own_token, serviceUrl="https://evil.example/canary") == 403
    file = {"contentType": "text/plain", "contentUrl": "https://evil.example/x?canary=1", "name": "canary"}
    assert await scene.post(scene.own_token, id="3", text="canary file", attachments=[file]) == 202

    async def letters() -> list[str]:
        return sorted([letter.reason async for letter in scene.agent.dead_letters.list()])

    while len(await letters()) < 2:  # noqa: ASYNC110  # the store tells nobody
        await asyncio.sleep(0.05)
    assert await letters() == ["Rejected", "TicketInvalid"]
    printed.append(await command(values, "dead-letters"))
    with_payloads = await command(values, "dead-letters", "--json")
    assert with_payloads.count("\n") == 2
    secrets = (scene.own_token.split(".")[2], ticket["ticket"])
    assert_no_canary(caplog.text, *scene.answers, *printed, also=secrets)
    # Payloads are what users and systems said, and no secrets.
    for secret in (*secrets, "canary-", forged):
        assert secret not in with_payloads
    for file_ in scene.data.iterdir():
        kept = file_.read_bytes()
        for secret in (scene.own_token, *scene.provider.tokens, *SECRETS.values()):
            if secret not in (APP_ID, TENANT, "required"):
                assert secret.encode() not in kept, file_


async def test_keys_of_the_store_and_the_queue_are_shown_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Services that refuse, and repeat what they were told; and connection strings that are none."""
    caplog.set_level(logging.DEBUG)
    refusing = FakeChannel()
    async with serve(refusing.app()) as url:
        strings = {
            "CosmosConnection": f"AccountEndpoint={url}/;AccountKey={KEY};",
            "ServiceBusConnection": "Endpoint=sb://127.0.0.1:9/;SharedAccessKeyName=canary;"
            f"SharedAccessKey={BUS_KEY};UseDevelopmentEmulator=true",
        }
        for values in (
            strings,
            {name: text.replace("=", "") for name, text in strings.items()},
            {name: text.split(";")[1] for name, text in strings.items()},
            {"CosmosConnection": f"{url};{KEY}", "ServiceBusConnection": BUS_KEY},
        ):
            told = json.dumps({"code": "Unauthorized", "message": f"canary {KEY}"})
            refusing.answers = [lambda told=told: Response(told, 401, {"x-secret": KEY})] * 40  # type: ignore[misc]  # as above
            settings = {**DEVELOPMENT, "AGENT_LOCAL_DATA": str(tmp_path), **values}
            services = AzureServices(Settings(settings))
            agent = AgentApplication(services.adapter, services.store, services.queue)
            app = laptop_orders(agent, services, [])
            shown = []
            async with running(app, tmp_path, settings=settings) as opened:
                for text in ("canary order", "canary report"):
                    activity = {
                        "type": "message",
                        "id": "1",
                        "channelId": "emulator",
                        "serviceUrl": "http://127.0.0.1:9/",
                        "conversation": {"id": "c1"},
                        "from": {"id": "user"},
                        "text": text,
                    }
                    answer = await opened.http.post("/api/messages", json=activity, timeout=20)
                    assert answer.status_code in (500, 503)
                    shown.append(answer.text)
                ready = await opened.http.get("/api/health/ready", timeout=20)
                assert ready.status_code == 503
                shown.append(ready.text)
            await services.close()
            shown.append(await command(settings, "dead-letters"))
            shown.append(await command(settings, "publish", "done", "--conversation", "c1"))
            assert all("Not done" in each for each in shown[-2:]), shown[-2:]
            assert_no_canary(caplog.text, *shown)
