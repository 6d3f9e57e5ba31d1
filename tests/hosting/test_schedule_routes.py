"""Schedules over a real HTTP connection: made once, shown, changed, stopped, and refused with the field to mend."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import azure.functions as func
import httpx
import pytest

from agent_core import AgentApplication, TurnContext, TurnState
from agent_core.errors import StoreUnavailable
from agent_core.hosting.azure_services import AzureServices
from agent_core.hosting.functions_host import FunctionsHost
from agent_core.hosting.http_api import http_api
from agent_core.hosting.schedule_routes import MAX_BODY
from agent_core.hosting.settings import CLIENT_ID, CLIENT_SECRET, TENANT_ID, Settings
from agent_core.store.document_store import SCHEDULES
from tests.local.running import running

DEVELOPMENT = {"AZURE_FUNCTIONS_ENVIRONMENT": "Development"}
HELLO = {
    "type": "message",
    "id": "in1",
    "channelId": "emulator",
    "serviceUrl": "http://localhost:9/",
    "conversation": {"id": "c1"},
    "from": {"id": "user"},
    "text": "hello",
    "deliveryMode": "expectReplies",
    "localTimezone": "Europe/Paris",
}
# The same in every process of one run of the tests.
LATER = (datetime.now(UTC) + timedelta(days=30)).replace(hour=12, minute=0, second=0, microsecond=0)
AT = LATER.isoformat().replace("+00:00", "Z")
# What is good but for one thing.
GOOD: dict[str, Any] = {"to": "c1", "at": AT, "text": "Tea!"}
DAILY: dict[str, Any] = {"to": "c1", "every": "0 8 * * *", "zone": "Europe/Paris", "text": "Good morning"}


@dataclass
class Api:
    http: httpx.AsyncClient
    agent: AgentApplication
    services: AzureServices

    async def ask(self, method: str, path: str = "", body: Any = None, **more: Any) -> tuple[int, Any]:
        answer = await self.http.request(method, f"/api/schedules{path}", json=body, **more)
        return answer.status_code, answer.json()

    async def stored(self) -> int:
        return len((await self.services.store.query(SCHEDULES)).documents)


@asynccontextmanager
async def serving(data: Path, settings: dict[str, str] = DEVELOPMENT) -> AsyncIterator[Api]:
    """The app of an agent in whose store there is the conversation c1, of a user in Paris."""
    services = AzureServices(Settings({"AGENT_LOCAL_DATA": str(data), **settings}))
    agent = AgentApplication(services.adapter, services.store, services.queue)
    host = FunctionsHost(agent, services)
    app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

    @agent.message("hello")
    async def hello(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("Hello!")

    @agent.continuation("look")
    async def look(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("I looked.")

    @app.route("messages")
    async def messages(req: func.HttpRequest) -> func.HttpResponse:
        return await host.process_activity(req)

    app.register_functions(http_api(host))
    async with running(app, data, settings=settings) as opened:
        answer = await opened.http.post("/api/messages", json=HELLO)
        assert answer.status_code == 200 or CLIENT_ID in settings
        yield Api(opened.http, agent, services)
    await services.close()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path) as served:
        yield served


async def test_a_schedule_is_made_and_found_where_the_answer_says(api: Api) -> None:
    answer = await api.http.post("/api/schedules?code=secret", json={**GOOD, "tag": "tea", "urgent": True})
    assert answer.status_code == 201
    made = answer.json()
    assert answer.headers["location"] == f"/api/schedules/{made['id']}", "and the key is not in it"
    assert made["to"] == {"conversation": "c1", "channel": "emulator"}
    assert (made["status"], made["at"], made["next"], made["generation"]) == ("scheduled", AT, AT, 1)
    assert (made["tag"], made["urgent"], made["misfire"], made["grace"]) == ("tea", True, "latest", "PT5M")
    assert made["activity"]["text"] == "Tea!"
    assert (made["handedOver"], made["dropped"]) == ([], [])
    assert "claim" not in made
    assert await api.ask("GET", f"/{made['id']}") == (200, made)


async def test_the_recipients_own_zone_is_taken_where_none_is_said(api: Api) -> None:
    at = LATER.replace(tzinfo=None, hour=8, minute=0, second=0)
    status, made = await api.ask("POST", body={**GOOD, "at": at.isoformat()})
    assert (status, made["zone"]) == (201, "Europe/Paris")
    assert datetime.fromisoformat(made["nextLocal"]).replace(tzinfo=None) == at
    assert datetime.fromisoformat(made["nextLocal"]) == datetime.fromisoformat(made["next"])


async def test_r10_the_same_id_twice_makes_one_schedule(api: Api) -> None:
    """Whoever lost the answer of a POST says it again. An interval begins at another time then, and yet it is one."""
    said = {"to": "c1", "every": "PT6H", "text": "Drink.", "id": "drink-1"}
    first = await api.ask("POST", body=said)
    assert first[0] == 201
    assert first[1]["id"].split("-", 1)[1].startswith("drink-1.")
    assert await api.ask("POST", body=dict(reversed(said.items()))) == first
    assert await api.ask("POST", body={**said, "to": {"conversation": "c1"}}) == first
    status, refused = await api.ask("POST", body={**said, "text": "Eat."})
    assert (status, refused["error"]["code"]) == (409, "IdTaken")
    assert await api.stored() == 1
    # It says what it was made of, whatever became of it.
    await api.ask("PATCH", f"/{first[1]['id']}", {"text": "Water."})
    status, again = await api.ask("POST", body=said)
    assert (status, again["id"], again["activity"]["text"]) == (201, first[1]["id"], "Water.")
    # Another recipient's is another's.
    status, other = await api.ask("POST", body={**said, "to": {"user": "ada"}})
    assert (status, other["id"] != first[1]["id"]) == (201, True)


async def test_a_schedule_is_changed_paused_resumed_and_cancelled(api: Api) -> None:
    _, made = await api.ask("POST", body={**DAILY, "tag": "a", "expires": "PT2H", "excluding": ["2030-12-25"]})
    place = f"/{made['id']}"
    status, changed = await api.ask(
        "PATCH", place, {"every": "0 9 * * *", "tag": None, "expires": None, "excluding": []}
    )
    assert (status, changed["every"], changed["zone"], changed["generation"]) == (200, "0 9 * * *", "Europe/Paris", 2)
    assert not changed.keys() & {"tag", "expires", "excluding"}
    assert changed["nextLocal"][11:16] == "09:00"
    for _ in range(2):
        status, paused = await api.ask("POST", f"{place}/pause")
        assert (status, paused["status"], paused["generation"]) == (200, "paused", 3)
    assert await api.ask("GET", f"{place}/occurrences") == (200, {"occurrences": []})
    for _ in range(2):
        status, resumed = await api.ask("POST", f"{place}/resume")
        assert (status, resumed["status"], resumed["generation"]) == (200, "scheduled", 4)
    for _ in range(2):
        status, cancelled = await api.ask("DELETE", place)
        assert (status, cancelled["status"], cancelled["generation"]) == (200, "cancelled", 5)
    for method, path, body in (("PATCH", place, {"text": "x"}), ("POST", f"{place}/pause", None)):
        status, refused = await api.ask(method, path, body)
        assert (status, refused["error"]["code"]) == (409, "Ended")
    assert (await api.ask("GET", place))[1]["status"] == "cancelled"


async def test_schedules_are_listed_by_recipient_tag_and_status_in_pages(api: Api) -> None:
    ids = {}
    recipients: dict[str, dict[str, Any]] = {
        "tea": {"tag": "tea"},
        "ada": {"to": {"user": "ADA"}},
        "bob": {"to": {"channel": "slack", "channelUser": "U1"}},
        "paused": {"tag": "tea"},
    }
    for name, more in recipients.items():
        _, made = await api.ask("POST", body={**GOOD, **more})
        ids[made["id"]] = name
    (paused,) = [each for each, name in ids.items() if name == "paused"]
    await api.ask("POST", f"/{paused}/pause")

    async def names(query: str) -> set[str]:
        status, page = await api.ask("GET", query)
        assert (status, page.keys()) == (200, {"schedules"})
        assert not any("activity" in each for each in page["schedules"]), "what they say is shown one by one"
        return {ids[each["id"]] for each in page["schedules"]}

    assert await names("") == {"tea", "ada", "bob", "paused"}
    assert await names("?conversation=c1") == {"tea", "paused"}
    assert await names("?conversation=c1&channel=slack&code=key") == set()
    assert await names("?tag=tea&status=paused") == {"paused"}
    assert await names("?user=ada") == {"ada"}
    assert await names("?channelUser=U1&channel=slack") == {"bob"}
    assert await names("?channel=emulator") == {"tea", "paused"}

    _, page = await api.ask("GET", "?limit=3")
    _, rest = await api.ask("GET", f"?limit=3&continuation={page['continuation']}")
    assert (len(page["schedules"]), len(rest["schedules"])) == (3, 1)
    assert {each["id"] for each in page["schedules"] + rest["schedules"]} == ids.keys()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?tags=tea", "tags"),
        ("?status=late", "status"),
        ("?limit=0", "limit"),
        ("?limit=1001", "limit"),
        ("?limit=many", "limit"),
        ("?continuation=x", "continuation"),
        ("?continuation=%F0%9F%8D%B5", "continuation"),
        (f"?tag={'x' * 1001}", "tag"),
        (f"?conversation={'x' * 1001}", "conversation"),
        ("?channelUser=U1", "channelUser"),
        ("?user=ada&conversation=c1", "conversation"),
    ],
)
async def test_a_filter_that_is_none_is_refused_and_does_not_list_everything(api: Api, query: str, field: str) -> None:
    status, refused = await api.ask("GET", query)
    assert (status, refused["error"]["code"], refused["error"]["field"]) == (400, "InvalidSchedule", field)


async def test_what_is_to_come_can_be_looked_at_before_and_after(api: Api) -> None:
    when = {"every": "0 8 29 3 *", "zone": "Europe/Paris", "start": "2026-01-01T00:00"}
    status, preview = await api.ask("POST", "/preview", {**when, "limit": 2})
    assert status == 200
    assert len(preview["occurrences"]) == 2
    assert all(each["local"][4:16] == "-03-29T08:00" for each in preview["occurrences"])
    _, of_paris = await api.ask("POST", "/preview", {"every": "0 8 * * *", "to": "c1"})
    assert len(of_paris["occurrences"]) == 10
    assert of_paris["occurrences"][0]["local"][11:16] == "08:00"
    assert await api.stored() == 0
    _, made = await api.ask("POST", body=DAILY)
    _, stored = await api.ask("GET", f"/{made['id']}/occurrences?limit=3&code=key")
    assert stored["occurrences"] == of_paris["occurrences"][:3]
    _, many = await api.ask("GET", f"/{made['id']}/occurrences?limit=10000")
    assert len(many["occurrences"]) == 10_000
    for limit in ("10001", "0", "x"):
        status, refused = await api.ask("GET", f"/{made['id']}/occurrences?limit={limit}")
        assert (status, refused["error"]["field"]) == (400, "limit")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"at": None}, "at"),
    ({"every": "PT6H"}, "at"),
    ({"at": "2026-02-30T08:00:00Z"}, "at"),
    ({"at": "2026-W01-1T08:00"}, "at"),
    ({"at": "tomorrow"}, "at"),
    ({"at": 1764000000}, "at"),
    ({"at": "9999-01-01T00:00:00Z"}, "at"),
    ({"to": {"user": "nobody"}, "at": "2030-01-01T08:00"}, "at"),
    ({"zone": "Mars/Olympus"}, "zone"),
    ({"zone": "europe/paris"}, "zone"),
    ({"zone": ""}, "zone"),
    ({"zone": 7}, "zone"),
    ({"at": None, "every": "0 0 30 2 *"}, "every"),
    ({"at": None, "every": "0 0 * *"}, "every"),
    ({"at": None, "every": "PT1S"}, "every"),
    ({"at": None, "every": "P1M"}, "every"),
    ({"at": None, "every": 60}, "every"),
    ({"to": {"user": "nobody"}, "at": None, "every": "0 8 * * *"}, "zone"),
    ({"at": None, "every": "PT6H", "count": 10_001}, "count"),
    ({"at": None, "every": "PT6H", "count": 0}, "count"),
    ({"at": None, "every": "PT6H", "count": True}, "count"),
    ({"at": None, "every": "PT6H", "count": 1.5}, "count"),
    ({"at": None, "every": "PT6H", "count": 2, "until": AT}, "count"),
    ({"at": None, "every": "PT6H", "until": "2020-01-01T00:00:00Z"}, "until"),
    ({"at": None, "every": "0 8 * * *", "excluding": ["2026-02-30"]}, "excluding"),
    ({"at": None, "every": "0 8 * * *", "excluding": "2026-12-25"}, "excluding"),
    ({"at": None, "every": "0 8 * * *", "excluding": ["20261225"]}, "excluding"),
    ({"at": None, "every": "0 8 * * *", "excluding": None}, "excluding"),
    ({"at": None, "every": "0 8 * * *", "excluding": ["2026-12-25"] * 367}, "excluding"),
    ({"excluding": ["2026-12-25"]}, "excluding"),
    ({"count": 3}, "count"),
    ({"text": None}, "activity"),
    ({"text": ""}, "text"),
    ({"text": 7}, "text"),
    ({"activity": {"text": "x"}}, "text"),
    ({"text": None, "activity": "x"}, "activity"),
    ({"text": None, "activity": {"text": 7}}, "activity"),
    ({"text": None, "activity": {"type": "typing"}}, "activity"),
    ({"text": None, "activity": {"text": "x", "serviceUrl": "https://evil.example/"}}, "activity"),
    ({"text": "x" * 100_001}, "activity"),
    ({"continuation": "look"}, "activity"),
    ({"text": None, "continuation": []}, "continuation"),
    ({"value": 7}, "value"),
    ({"misfire": "often"}, "misfire"),
    ({"misfire": ["latest"]}, "misfire"),
    ({"misfire": None}, "misfire"),
    ({"grace": "10 minutes"}, "grace"),
    ({"grace": 600}, "grace"),
    ({"expires": "PT0S"}, "expires"),
    ({"expires": "P20Y"}, "expires"),
    ({"urgent": "yes"}, "urgent"),
    ({"tag": ""}, "tag"),
    ({"tag": 7}, "tag"),
    ({"id": "a/b"}, "id"),
    ({"id": "x" * 65}, "id"),
    ({"id": 7}, "id"),
    ({"last": AT}, "last"),
    ({"to": None}, "to"),
    ({"to": 7}, "to"),
    ({"to": ""}, "to"),
    ({"to": {}}, "to"),
    ({"to": {"conversation": "c1", "user": "ada"}}, "to"),
    ({"to": {"conversation": 7}}, "to"),
    ({"to": {"conversation": "x" * 1001}}, "to"),
    ({"to": {"channelUser": "U1"}}, "to"),
    ({"to": {"channel": "msteams", "serviceUrl": "https://evil.example/", "parameters": {"members": []}}}, "to"),
    ({"to": {"channel": "msteams", "serviceUrl": "http://localhost:9/", "parameters": {"members": 7}}}, "to"),
]


@pytest.mark.parametrize(
    ("change", "field"), WRONG, ids=[f"{number} {field}" for number, (_, field) in enumerate(WRONG)]
)
async def test_bad_input_is_one_error_that_names_its_field_and_nothing_is_stored(
    api: Api, change: dict[str, Any], field: str
) -> None:
    """Issue 7, bad input."""
    status, refused = await api.ask("POST", body={**GOOD, **change})
    assert (status, refused["error"]["code"], refused["error"]["field"]) == (400, "InvalidSchedule", field)
    assert len(refused["error"]["message"]) > 10
    assert await api.stored() == 0


@pytest.mark.parametrize("change", [{}, {"to": "c1"}, {"id": "x"}, {"every": "0 0 30 2 *"}, {"at": "2026-02-30T08:00"}])
async def test_a_change_that_cannot_be_leaves_the_schedule_as_it_was(api: Api, change: dict[str, Any]) -> None:
    _, made = await api.ask("POST", body=DAILY)
    status, refused = await api.ask("PATCH", f"/{made['id']}", change)
    assert (status, refused["error"]["code"]) == (400, "InvalidSchedule")
    assert await api.ask("GET", f"/{made['id']}") == (200, made)


async def test_what_is_not_there_is_404(api: Api) -> None:
    for change, code in (
        ({"to": "unknown"}, "ConversationNotFound"),
        ({"to": {"conversation": "unknown"}}, "ConversationNotFound"),
        ({"to": {"conversation": "c1", "channel": "slack"}}, "ConversationNotFound"),
        ({"text": None, "continuation": "unknown"}, "ContinuationNotFound"),
    ):
        status, refused = await api.ask("POST", body={**GOOD, **change})
        assert (status, refused["error"]["code"]) == (404, code)
    for method, path, body in (
        ("GET", "/00-unknown", None),
        ("GET", "/unknown", None),
        ("GET", "/00-%20%00x", None),
        ("PATCH", "/00-unknown", {"text": "x"}),
        ("DELETE", "/00-unknown", None),
        ("POST", "/00-unknown/pause", None),
        ("POST", "/00-unknown/resume", None),
        ("GET", "/00-unknown/occurrences", None),
    ):
        status, refused = await api.ask(method, path, body)
        assert (status, refused["error"]["code"]) == (404, "ScheduleNotFound")
    assert await api.stored() == 0


async def test_a_schedule_whose_zone_is_none_any_more_says_so(api: Api) -> None:
    _, made = await api.ask("POST", body=DAILY)
    store = api.services.store
    (document,) = (await store.query(SCHEDULES)).documents
    gone = {**document.body["recurrence"], "zone": "Mars/Olympus"}
    await store.replace(SCHEDULES, {**document.body, "recurrence": gone}, document.etag)
    for method in ("GET", "DELETE"):
        status, refused = await api.ask(method, f"/{made['id']}")
        assert (status, refused["error"]["code"]) == (409, "Unusable")
        assert "Mars/Olympus" in refused["error"]["message"]
    assert await api.ask("GET") == (200, {"schedules": []})


async def test_what_a_turn_left_for_itself_is_nobodys_to_see_or_stop(api: Api) -> None:
    await api.agent.proactive.continue_later("c1", "look", {"secret": 1}, delay=timedelta(days=1))
    ((document,)) = (await api.services.store.query(SCHEDULES)).documents
    assert await api.ask("GET") == (200, {"schedules": []})
    assert (await api.ask("GET", f"/{document.id}"))[0] == 404
    assert (await api.ask("DELETE", f"/{document.id}"))[0] == 404


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "InvalidJson"),
        (b"", "application/json", 400, "InvalidJson"),
        (b"[]", "application/json; charset=utf-8", 400, "NotAnObject"),
        (b'{"value": NaN}', "application/json", 400, "InvalidJson"),
        (b'{"to": "\xff"}', "application/json", 400, "InvalidJson"),
        (b'{"value": ' + b"[" * 70 + b"]" * 70 + b"}", "application/json", 400, "TooDeep"),
        (b"{}", "text/plain", 415, "NotJson"),
        (b"{}", "application/x-www-form-urlencoded", 415, "NotJson"),
        (b'{"text": "' + b"x" * MAX_BODY + b'"}', "application/json", 413, "TooLarge"),
    ],
)
async def test_a_body_that_is_no_bounded_json_is_refused(
    api: Api, body: bytes, kind: str, status: int, code: str
) -> None:
    for method, path in (("POST", ""), ("POST", "/preview"), ("PATCH", "/00-x")):
        answer = await api.http.request(method, f"/api/schedules{path}", content=body, headers={"content-type": kind})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_store_that_is_not_reached_is_503_and_worth_another_try(api: Api, tmp_path: Path) -> None:
    class Unreachable:
        def __getattr__(self, name: str) -> Any:
            async def fail(*args: object, **more: object) -> None:
                raise StoreUnavailable("no answer in time")

            return fail

    store: Any = api.services.store
    opened, store.opened = store.opened, Unreachable()
    for method, path, body in (("POST", "", GOOD), ("GET", "", None), ("GET", "/00-x", None)):
        answer = await api.http.request(method, f"/api/schedules{path}", json=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["error"]["code"] == "Unavailable"
        assert "no answer" not in answer.text
    store.opened = opened


async def test_in_development_only_this_machines_own_address_is_answered(api: Api) -> None:
    """Nobody checks function keys there, and a web page can have a name that resolves to this machine."""
    for headers in ({"host": "evil.example"}, {"x-forwarded-host": "a.example"}):
        status, refused = await api.ask("GET", headers=headers)
        assert (status, refused["error"]["code"]) == (401, "NotLoopback")


async def test_p2_nothing_a_caller_sends_chooses_where_the_agents_token_goes(tmp_path: Path) -> None:
    settings = {CLIENT_ID: "app", CLIENT_SECRET: "s", TENANT_ID: "t", "COSMOS_DATABASE": "x", **DEVELOPMENT}
    async with serving(tmp_path, settings) as api:
        to = {"channel": "msteams", "parameters": {"members": [{"id": "29:1"}], "tenantId": "t"}}
        for url in ("https://evil.example/", "https://smba.trafficmanager.net.evil.example/", "http://localhost:9/"):
            status, refused = await api.ask("POST", body={**GOOD, "to": {**to, "serviceUrl": url}})
            assert (status, refused["error"]["field"]) == (400, "to")
        assert await api.stored() == 0
        good = {**to, "serviceUrl": "https://smba.trafficmanager.net/teams/"}
        status, made = await api.ask("POST", body={**GOOD, "to": good})
        assert (status, made["to"]["serviceUrl"]) == (201, "https://smba.trafficmanager.net/teams/")
