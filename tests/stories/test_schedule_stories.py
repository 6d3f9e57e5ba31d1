"""Schedules made over HTTP and stopped on the command line, in a real process that is killed in between."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from agent_core.channel.http_client import HttpAnswer
from tests.serving import FakeChannel
from tests.stories.running import RunningApp
from tests.stories.test_stories import CONVERSATION, arrived, teams_message


async def post(app: RunningApp, body: dict[str, Any]) -> HttpAnswer:
    return await app.http.request(
        "POST",
        f"{app.url}/api/schedules",
        headers={"content-type": "application/json"},
        content=json.dumps(body).encode(),
    )


async def listed(app: RunningApp) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await app.command("schedule", "list", "--json")).splitlines()]


async def test_what_was_made_over_http_and_not_cancelled_on_the_command_line_arrives_once(
    app: RunningApp, channel: FakeChannel, service_url: str
) -> None:
    await app.post(teams_message(service_url, "hello"))
    # Near enough to be on the queue already, with a time of its own.
    soon = (datetime.now(UTC) + timedelta(seconds=8)).isoformat()
    kept = {"to": CONVERSATION, "at": soon, "text": "kept", "id": "kept"}
    made = await post(app, kept)
    assert made.status == 201
    assert (await post(app, {**kept, "text": "cancelled", "id": "other"})).status == 201
    await app.kill()

    schedules = {each["id"]: each for each in await listed(app)}
    (other,) = schedules.keys() - {json.loads(made.body)["id"]}
    cancelled = json.loads(await app.command("schedule", "cancel", other, "--json"))
    assert (cancelled["status"], len(schedules)) == ("cancelled", 2)

    await app.start()
    # Whoever made it has not heard of it, and says it again.
    again = await post(app, kept)
    assert (again.status, json.loads(again.body)["id"]) == (201, json.loads(made.body)["id"])
    await arrived(channel, 2)
    # One more turn, and the timer's ticks in between, bring nothing else.
    await app.post(teams_message(service_url, "hello", id="1763630130508"))
    assert channel.texts[1] == "kept"
    assert len(channel.calls) == 3
    assert await app.command("schedule", "preview", json.loads(made.body)["id"]) == "No occurrences.\n"


async def test_bad_input_names_its_field_and_nothing_is_stored(
    app: RunningApp, channel: FakeChannel, service_url: str
) -> None:
    """Issue 7, bad input."""
    await app.post(teams_message(service_url, "hello"))
    daily = {"every": "0 8 * * *", "zone": "Europe/Paris"}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({**daily, "zone": "Mars/Olympus"}, "zone"),
        ({"at": "2026-02-30T08:00:00Z"}, "at"),
        ({**daily, "every": "0 0 30 2 *"}, "every"),
        ({"at": "2030-01-01T08:00", "to": {"user": "nobody"}}, "at"),
        ({**daily, "count": 10_001}, "count"),
        ({**daily, "until": "2020-01-01T00:00"}, "until"),
        ({**daily, "excluding": ["2026-02-30"]}, "excluding"),
        ({**daily, "to": {"channel": "msteams", "serviceUrl": "https://evil.example/", "parameters": {}}}, "to"),
        ({**daily, "when": "soon"}, "when"),
    ]
    for said, field in wrong:
        answer = await post(app, {"to": CONVERSATION, "text": "x", **said})
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["code"], error["field"]) == (400, "InvalidSchedule", field)
    assert await listed(app) == []
