"""Which service the settings choose, and that choosing waits until it is used."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import azure.functions as func
import pytest
from azure.functions import ServiceBusMessage
from azure.functions.meta import Datum
from azure.functions.servicebus import ServiceBusMessageInConverter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent_core import Activity, TurnContext
from agent_core.agent_application import AgentApplication
from agent_core.errors import AttachmentNotAvailable, NotSent, QueueUnavailable, SettingsError
from agent_core.hosting import clock
from agent_core.hosting.azure_services import AzureServices
from agent_core.hosting.cosmos_store import CosmosStore
from agent_core.hosting.functions_host import FunctionsHost
from agent_core.hosting.settings import CLIENT_ID, CLIENT_SECRET, TENANT_ID, TICKET_KEYS, TICKETS, Settings
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.proactive.dead_letters import DeadLetters
from agent_core.proactive.queue import QueueMessage
from agent_core.store.document_store import CONVERSATIONS
from tests.serving import serve

ROOT = Path(__file__).parent.parent.parent
COSMOS = "AccountEndpoint=https://x.documents.azure.com/;AccountKey=c2VjcmV0;"


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[AzureServices]:
    services = AzureServices(
        Settings({"AZURE_FUNCTIONS_ENVIRONMENT": "Development", "AGENT_LOCAL_DATA": str(tmp_path / "data")})
    )
    yield services
    await services.close()


async def test_development_without_connections_keeps_everything_in_files(
    local: AzureServices, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not (tmp_path / "data").exists(), "building the services touches nothing"
    for _ in range(2):
        await local.store.read(CONVERSATIONS, "p", "i")
    await local.queue.send(QueueMessage(b"{}", "m"))
    assert sorted(path.name for path in (tmp_path / "data").glob("*.db")) == ["documents.db", "queues.db"]
    assert caplog.text.count("Without CosmosConnection") == 1


async def test_in_azure_a_missing_connection_is_an_error_and_never_a_file(tmp_path: Path) -> None:
    services = AzureServices(Settings({"AGENT_LOCAL_DATA": str(tmp_path / "data")}))
    with pytest.raises(SettingsError, match="CosmosConnection__accountEndpoint"):
        await services.store.read(CONVERSATIONS, "p", "i")
    with pytest.raises(SettingsError, match="ServiceBusConnection__fullyQualifiedNamespace"):
        await services.queue.send(QueueMessage(b"{}", "m"))
    assert not (tmp_path / "data").exists()
    await services.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"CosmosConnection": COSMOS},
        {"CosmosConnection__accountEndpoint": "https://x.documents.azure.com/", "CosmosConnection__clientId": "i"},
    ],
)
async def test_a_connection_to_cosmos_db_is_used_where_there_is_one(settings: dict[str, str]) -> None:
    services = AzureServices(Settings(settings))
    assert type(services._open_store()).__name__ == "CosmosStore"


@pytest.mark.parametrize(
    ("settings", "creates"),
    [
        ({"CosmosConnection": COSMOS}, False),
        ({"CosmosConnection": COSMOS, "AZURE_FUNCTIONS_ENVIRONMENT": "Development"}, True),
        (
            {"CosmosConnection": COSMOS, "AZURE_FUNCTIONS_ENVIRONMENT": "Development", "WEBSITE_INSTANCE_ID": "1"},
            False,
        ),
        (
            {
                "CosmosConnection__accountEndpoint": "https://x.documents.azure.com/",
                "CosmosConnection__credential": "managedidentity",
                "CosmosConnection__clientId": "i",
                "AZURE_FUNCTIONS_ENVIRONMENT": "Development",
            },
            False,
        ),
    ],
    ids=["in Azure", "in development", "says development in Azure", "identity"],
)
def test_containers_are_created_in_development_only_and_by_a_key(settings: dict[str, str], creates: bool) -> None:
    """In Azure the deployment creates them: an identity of the data plane cannot."""
    store = AzureServices(Settings(settings))._open_store()
    assert isinstance(store, CosmosStore)
    assert store._connection.create_containers is creates
    assert (store._connection.key is None) is ("CosmosConnection" not in settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"ServiceBusConnection": "Endpoint=sb://x.servicebus.windows.net;SharedAccessKeyName=n;SharedAccessKey=k"},
        {"ServiceBusConnection__fullyQualifiedNamespace": "x.servicebus.windows.net"},
    ],
)
async def test_a_connection_to_service_bus_is_used_where_there_is_one(settings: dict[str, str]) -> None:
    services = AzureServices(Settings(settings))
    assert type(services._open_queue("WORK_QUEUE")).__name__ == "ServiceBusQueue"


async def test_an_app_id_brings_a_validator_and_its_own_token() -> None:
    services = AzureServices(Settings({CLIENT_ID: "app", CLIENT_SECRET: "s", TENANT_ID: "t"}))
    assert services._identity.validator is not None
    assert services.adapter.own_identity().claims == {"aud": "app"}
    assert services._connector is services._connector


async def test_readiness_says_what_is_missing(local: AzureServices) -> None:
    async def ready(services: AzureServices) -> func.HttpResponse:
        from agent_core.hosting.http_api import http_api

        host = FunctionsHost(AgentApplication(services.adapter, services.store, services.queue), services)
        app = func.FunctionApp()
        app.register_functions(http_api(host))
        (function,) = [each for each in app.get_functions() if each.get_function_name() == "ready"]
        request = func.HttpRequest(method="GET", url="http://localhost/api/health/ready", body=b"")
        answer = await function.get_user_function()(request)
        assert isinstance(answer, func.HttpResponse)
        return answer

    assert (await ready(local)).status_code == 200
    unset = await ready(AzureServices(Settings({})))
    assert unset.status_code == 503
    assert CLIENT_ID in unset.get_body().decode()


def _callback(**metadata: str) -> ServiceBusMessage:
    """An event in binary mode, as the Functions host hands it over."""
    attributes = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "agent.callback.result.v1"}
    properties = Datum(json.dumps({f"cloudEvents:{name}": value for name, value in attributes.items()}), "json")
    known = {"MessageId": Datum("m1", "string"), "ApplicationProperties": properties, "UserProperties": properties}
    known |= {name: Datum(json.dumps(value), "json") for name, value in metadata.items()}
    body = b'{"conversationId": "c1", "continuation": "order_placed"}'
    return cast(ServiceBusMessage, ServiceBusMessageInConverter.decode(Datum(body, "bytes"), trigger_metadata=known))


@pytest.mark.parametrize(
    ("expires", "left"),
    [("2026-01-05T12:10:00", timedelta(minutes=10)), ("9999-12-31T23:59:59.9999999", None), (None, None)],
)
async def test_what_is_left_of_a_messages_time_to_live_is_handed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, expires: str | None, left: timedelta | None
) -> None:
    """P6.4: the host says when it ends, in UTC without a zone; nothing is tried after that."""
    services = AzureServices(
        Settings({"AZURE_FUNCTIONS_ENVIRONMENT": "Development", "AGENT_LOCAL_DATA": str(tmp_path)})
    )
    agent = AgentApplication(services.adapter, services.store, services.queue)
    seen: list[QueueMessage] = []

    async def receive(message: QueueMessage) -> None:
        seen.append(message)

    monkeypatch.setattr(agent, "receive_callback", receive)
    monkeypatch.setattr("agent_core.hosting.clock.now", lambda: datetime(2026, 1, 5, 12, tzinfo=UTC))
    given = {} if expires is None else {"ExpiresAtUtc": expires}
    await FunctionsHost(agent, services).continue_conversation(_callback(**given))
    assert [message.time_to_live for message in seen] == [left]


async def test_where_tickets_are_required_a_callback_without_one_continues_nothing(tmp_path: Path) -> None:
    values = {"AZURE_FUNCTIONS_ENVIRONMENT": "Development", "AGENT_LOCAL_DATA": str(tmp_path)}
    services = AzureServices(Settings({**values, TICKETS: "required", TICKET_KEYS: "k" * 32}))
    agent = AgentApplication(services.adapter, services.store, services.queue, tickets=services.tickets)
    await FunctionsHost(agent, services).continue_conversation(_callback())
    letters = [(letter.key, letter.reason) async for letter in agent.dead_letters.list()]
    assert letters == [("event:/shop 1", "TicketMissing")]
    await services.close()


async def test_without_a_key_for_required_tickets_a_callback_stays_on_the_queue(tmp_path: Path) -> None:
    """A setting that is missing is mended, and then the message is good: it must not be a dead letter."""
    services = AzureServices(Settings({"AGENT_LOCAL_DATA": str(tmp_path)}))
    for tickets, words in ((services.tickets, TICKET_KEYS), (None, "tickets=services.tickets")):
        agent = AgentApplication(services.adapter, services.store, services.queue, tickets=tickets)
        with pytest.raises(SettingsError, match=words):
            await FunctionsHost(agent, services).continue_conversation(_callback())


@pytest.mark.parametrize("development", [True, False])
async def test_p9_2_only_a_development_process_fetches_from_this_machine(tmp_path: Path, development: bool) -> None:
    """The guard of URLs and that of addresses are the same for all that goes out, and on by default."""

    async def file(request: Request) -> Response:
        return Response(b"content", media_type="text/plain")

    settings = {"AZURE_FUNCTIONS_ENVIRONMENT": "Development"} if development else {CLIENT_ID: "app"}
    services = AzureServices(Settings({**settings, "AGENT_FETCH_HOSTS": "localhost.example"}))
    async with serve(Starlette(routes=[Route("/file", file)])) as url:
        activity = Activity.from_dict(
            {
                "type": "message",
                "channelId": "emulator",
                "attachments": [{"contentUrl": f"{url}/file", "name": "a.txt"}],
            }
        )
        context = TurnContext(services.adapter, activity, now=services.adapter.now(), runtime=services.adapter)
        if development:
            assert (await context.attachments[0].download()).content == b"content"
        else:
            with pytest.raises(AttachmentNotAvailable):
                await context.attachments[0].download()
        for client in (services._http, services._download_client):
            assert client is not None
            if development:
                assert (await client.request("GET", f"{url}/file")).status == 200
            else:
                with pytest.raises(NotSent, match=r"127\.0\.0\.1"):
                    await client.request("GET", f"{url}/file")
        await services.close()


def test_importing_the_app_loads_no_azure_client_and_reads_no_setting() -> None:
    """A cold start pays for every import; each of these costs about as much as all of the rest."""
    script = (
        "import os, sys\n"
        "read = []\n"
        "get = os.environ.get\n"
        "os.environ.__class__.get = lambda self, name, default=None: (read.append(name), get(name, default))[1]\n"
        "import function_app\n"
        "heavy = ('azure.cosmos', 'azure.servicebus', 'azure.identity', 'msal', 'jwt', 'cryptography', 'aiohttp')\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "print([name for name in read if 'CONNECTION' in name.upper()])\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["[]", "[]"]


async def test_without_an_app_id_nobody_signs_in_and_the_error_says_what_to_set(local: AzureServices) -> None:
    with pytest.raises(SettingsError, match=CLIENT_ID):
        _ = local.adapter.user_tokens


async def test_the_user_token_service_is_called_with_the_agents_own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    services = AzureServices(Settings({CLIENT_ID: "app"}))
    client = services.adapter.user_tokens
    assert client is services.adapter.user_tokens
    assert client.connection("graph").connection_name == "graph"
    assert client._base_url == "https://api.botframework.com"  # type: ignore[attr-defined]  # what it will call

    async def token(*arguments: object, **named: object) -> str:
        return "the agent's"

    monkeypatch.setattr(services._tokens, "token", token)
    assert await client._agent_token(False) == "the agent's"  # type: ignore[attr-defined]  # what it will send
    await services.close()


async def test_at_the_timers_tick_what_the_queues_put_aside_becomes_dead_letters(tmp_path: Path) -> None:
    """P6.12: and a tick at which that fails has still sent what is due."""
    values = {"AZURE_FUNCTIONS_ENVIRONMENT": "Development", "AGENT_LOCAL_DATA": str(tmp_path)}
    services = AzureServices(Settings(values))
    agent = AgentApplication(services.adapter, services.store, services.queue)
    host = FunctionsHost(agent, services)
    for name in ("agent-callbacks", "agent-work"):
        queue = SqliteQueue(tmp_path / "queues.db", name, now=clock.now)
        await queue.send(QueueMessage(b"{}", "m1"))
        (received,) = await queue.receive()
        await queue.dead_letter(received, "Why", "Because")
        await queue.close()
    await host.send_due_notifications()
    letters = [(letter.what, letter.reason, letter.explanation) async for letter in agent.dead_letters.list()]
    assert sorted(letters) == [("callback", "Why", "Because"), ("work", "Why", "Because")]

    async def fail(letters: DeadLetters) -> int:
        raise QueueUnavailable("told to")

    services.drain_dead_letters = fail  # type: ignore[method-assign]  # out of reach
    await host.send_due_notifications()
    await services.close()


@pytest.mark.parametrize(("said", "sessions"), [("true", True), ("false", False), (None, False)])
async def test_the_callback_queue_has_sessions_if_the_setting_says_so(
    tmp_path: Path, said: str | None, sessions: bool
) -> None:
    values = {"AZURE_FUNCTIONS_ENVIRONMENT": "Development", "AGENT_LOCAL_DATA": str(tmp_path)}
    services = AzureServices(Settings(values if said is None else {**values, "CALLBACK_SESSIONS": said}))
    if sessions:
        with pytest.raises(ValueError, match="session id"):
            await services.callbacks.send(QueueMessage(b"{}", "m1"))
    await services.callbacks.send(QueueMessage(b"{}", "m1", session_id="s"))
    await services.queue.send(QueueMessage(b"{}", "m1"))
    await services.close()


def test_a_session_setting_that_says_neither_is_a_problem() -> None:
    settings = Settings({"AZURE_FUNCTIONS_ENVIRONMENT": "Development", "CALLBACK_SESSIONS": "maybe"})
    assert any("CALLBACK_SESSIONS" in each for each in settings.problems())
