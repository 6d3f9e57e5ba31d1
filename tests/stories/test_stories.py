"""Whole stories: the real functions in a real process, a channel on a real socket, and an end in between."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.serving import FakeChannel
from tests.stories.running import RunningApp

PAYLOAD = Path(__file__).parent.parent / "payloads" / "teams_message.json"
WAIT = 30


def teams_message(service_url: str, text: str, **changes: Any) -> dict[str, Any]:
    return {**json.loads(PAYLOAD.read_text()), "serviceUrl": service_url, "text": text, **changes}


with_sessions_or_not = pytest.mark.parametrize("app", ["false", "true"], indirect=True, ids=["plain", "sessions"])
CONVERSATION = json.loads(PAYLOAD.read_text())["conversation"]["id"]


async def arrived(channel: FakeChannel, count: int) -> None:
    async with asyncio.timeout(WAIT):
        await channel.wait_for(count)


async def test_a_teams_message_is_answered_to_the_service_it_came_from(
    app: RunningApp, channel: FakeChannel, service_url: str
) -> None:
    answer = await app.post(teams_message(service_url, "hello"))
    assert answer.status == 202
    (call,) = channel.calls
    assert call.method == "POST"
    assert call.path.endswith("/activities/1763630130507")
    assert call.body["replyToId"] == "1763630130507"
    assert call.body["from"]["id"] == "28:11111111-2222-3333-4444-555555555555"
    assert "order laptop" in channel.texts[0]


@with_sessions_or_not
async def test_an_order_is_answered_after_the_process_was_killed_and_started_again(
    app: RunningApp, channel: FakeChannel, service_url: str
) -> None:
    await app.post(teams_message(service_url, "order laptop"))
    assert channel.texts == ["Thank you for ordering a laptop. I will keep you posted."]
    await app.kill()
    await app.command("publish", "order_placed", "--conversation", CONVERSATION, "--value", '{"number": 1292}')
    assert len(channel.calls) == 1, "nobody is there to answer"
    await app.start()
    await arrived(channel, 2)
    edit = channel.calls[1]
    assert (edit.method, edit.body["text"]) == ("PUT", "Great! Your laptop is order #1292.")
    assert edit.path.endswith("/activities/sent1"), "the placeholder is edited"
    # The same id published again has no second effect; another one, published after it, does.
    for number in (1, 2, 2):
        await app.command(
            "publish", "order_placed", "--conversation", CONVERSATION, "--value", '{"number": 1}', f"--id=i{number}"
        )
    await arrived(channel, 4)
    assert channel.texts[2:] == ["Great! Your laptop is order #1."] * 2


async def test_a_long_running_turn_is_acknowledged_at_once_and_survives_a_kill(
    app: RunningApp, channel: FakeChannel, service_url: str
) -> None:
    await app.post(teams_message(service_url, "order laptop"))
    answer = await app.post(teams_message(service_url, "report", id="2"))
    assert answer.status == 202
    await arrived(channel, 2)
    assert channel.texts[1] == "You have ordered 1 laptops in this conversation."


@with_sessions_or_not
async def test_what_cannot_be_delivered_is_a_dead_letter_with_a_reason(
    app: RunningApp, channel: FakeChannel, service_url: str
) -> None:
    await app.post(teams_message(service_url, "hello"))
    await app.command("publish", "order_placed", "--conversation", "unknown", "--id", "1")
    await app.command("publish", "no_such", "--conversation", CONVERSATION, "--id", "2")
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(WAIT):
        while len(found) < 2:
            found = [json.loads(line) for line in (await app.command("dead-letters", "--json")).splitlines()]
    assert sorted((each["reason"], each["key"]) for each in found) == [
        ("ContinuationNotFound", "callback:2"),
        ("ConversationNotFound", "callback:1"),
    ]
    assert "ConversationNotFound" in await app.command("dead-letters")


async def test_bad_input_gets_a_json_error_over_the_real_socket(app: RunningApp) -> None:
    url = f"{app.url}/api/messages"
    headers = {"content-type": "application/json"}
    for method, body, status in (
        ("GET", None, 405),
        ("POST", b"{", 400),
        ("POST", b"[]", 400),
        ("POST", b"{}", 400),
        ("POST", b'{"type": "message"}', 400),
        ("POST", b'{"a":' * 65 + b"1" + b"}" * 65, 400),
        ("POST", b" " * (1024 * 1024 + 1), 413),
    ):
        answer = await app.http.request(method, url, headers=headers, content=body)
        assert answer.status == status
        assert json.loads(answer.body)["error"]["message"]


async def test_the_log_has_a_line_for_each_turn_and_no_texts(
    app: RunningApp, channel: FakeChannel, service_url: str
) -> None:
    await app.post(teams_message(service_url, "my password is hunter2"))
    await app.post(teams_message(service_url, "order laptop", id="1763630130508"))
    assert await app.interrupt() == 0
    log = app.log.read_text()
    assert log.count("Turn: 'message' handled by help_out") == 1
    assert log.count("Turn: 'message' handled by order_laptop") == 1
    assert "hunter2" not in log
    assert "Ada" not in log


async def test_in_session_mode_callbacks_are_answered_once_each_and_in_their_order(
    tmp_path: Path, channel: FakeChannel, service_url: str
) -> None:
    """The queue has sessions by one setting, for the trigger and for who publishes."""
    app = RunningApp(tmp_path / "data", CALLBACK_SESSIONS="true")
    try:
        await app.start()
        await app.post(teams_message(service_url, "order laptop"))
        await app.kill()
        for number in (1, 2, 3, 2):
            value = json.dumps({"number": number})
            await app.command(
                "publish", "order_placed", "--conversation", CONVERSATION, "--value", value, f"--id=i{number}"
            )
        await app.start()
        await arrived(channel, 4)
    finally:
        await app.close()
    assert channel.calls[1].method == "PUT"
    assert [each.body["text"] for each in channel.calls[1:]] == [
        f"Great! Your laptop is order #{number}." for number in (1, 2, 3)
    ]


async def test_who_says_mute_gets_no_notification_until_unmute_and_the_operator_sees_why(
    app: RunningApp, channel: FakeChannel, service_url: str
) -> None:
    """Issue 7, people's time: opting out in the chat, and `deliveries show`."""

    async def publish(name: str) -> None:
        notification = ["--type", "notification", "--conversation", CONVERSATION]
        await app.command("publish", *notification, "--text", name, "--id", name)

    async def status(name: str) -> dict[str, Any]:
        async with asyncio.timeout(WAIT):
            while True:
                # Until the app has taken it from the queue there is no delivery of that key.
                with suppress(AssertionError):
                    found: dict[str, Any] = json.loads(
                        await app.command("deliveries", "show", f"callback:{name}", "--json")
                    )
                    if found["status"] != "in work":
                        return found

    await app.post(teams_message(service_url, "/mute"))
    assert "no notifications" in channel.texts[0]
    await publish("sale")
    dropped = await status("sale")
    assert (dropped["status"], dropped["why"]) == ("dropped", "dropped because the recipient opted out")
    await app.post(teams_message(service_url, "/unmute", id="2"))
    await publish("news")
    await arrived(channel, 3)
    assert channel.texts[2] == "news"
    assert (await status("news"))["why"] == "sent: nothing was in its way"
    assert "dropped because the recipient opted out" in await app.command("deliveries", "show", "callback:sale")
