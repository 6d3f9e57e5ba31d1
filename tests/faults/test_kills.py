"""kill -9 at awkward moments, of the real process: what was acknowledged is there afterwards, or reported."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from agent_core.hosting.sqlite_queue import SqliteQueue
from tests.serving import FakeChannel, serve
from tests.stories.running import RunningApp

WAIT = 30


def message(service_url: str, conversation: str, text: str) -> dict[str, Any]:
    return {
        "type": "message",
        "id": f"{conversation}-{text}",
        "channelId": "webchat",
        "serviceUrl": service_url,
        "conversation": {"id": conversation},
        "from": {"id": "user"},
        "recipient": {"id": "agent"},
        "text": text,
    }


def texts_in(channel: FakeChannel, conversation: str) -> list[str]:
    return [
        call.body["text"]
        for call in channel.calls
        if isinstance(call.body, dict) and call.body.get("conversation", {}).get("id") == conversation
    ]


async def waiting_on_the_queues(data: Path) -> list[str]:
    """The bodies of what the queues still hold: put off, or locked by a worker that died, until its lock expires."""
    bodies = []
    for name in ("agent-callbacks", "agent-work"):
        queue = SqliteQueue(data / "queues.db", name, now=lambda: datetime.now(UTC))
        try:
            bodies += [each.message.body.decode() for each in await queue.peek(1000)]
        finally:
            await queue.close()
    return bodies


@pytest.mark.parametrize("fatal_call", [1, 2, 4, 5, 6, 8])
async def test_a_kill_while_the_channel_is_called_loses_nothing_and_doubles_nothing(
    tmp_path: Path, fatal_call: int
) -> None:
    """The process dies with a POST on the wire, at the n-th of the calls to the channel.

    Four users ask for a reminder: calls 1 to 4 are the agent's answers, 5 to 8 the reminders. What the agent answered
    is promised: the reminder arrives once, or is reported as unsure, or still waits on the queue.
    """
    channel = FakeChannel()
    app = RunningApp(tmp_path / "data")
    killed = asyncio.Event()

    def dies(number: int) -> Callable[[], Response]:
        def answer() -> Response:
            if number == fatal_call and not killed.is_set():
                app.kill_now()
                killed.set()
            return Response(json.dumps({"id": f"m{number}"}), 201, media_type="application/json")

        return answer

    channel.answers = [dies(number) for number in range(1, 100)]
    conversations = [f"c{number}" for number in range(4)]
    async with serve(channel.app()) as service_url:
        await app.start()
        try:
            for conversation in conversations:
                if killed.is_set():
                    await app.kill()
                    await app.start()
                await app.post_or_fail(message(service_url, conversation, "remind me in 0 minutes"))
            promised = [each for each in conversations if texts_in(channel, each)]
            async with asyncio.timeout(WAIT):
                await killed.wait() if fatal_call > 4 else None
                await app.kill()
                await app.start()
                while True:
                    letters = [json.loads(line) for line in (await app.command("dead-letters", "--json")).splitlines()]
                    reported = {each["conversation"]: each["reason"] for each in letters}
                    waiting = "".join(await waiting_on_the_queues(app.data))
                    kept = {each for each in promised if "Time to check your order." in texts_in(channel, each)}
                    if len(kept) + len(set(reported) - kept) + waiting.count('"occurrence"') >= len(promised):
                        break
            for conversation in promised:
                assert texts_in(channel, conversation).count("Time to check your order.") <= 1
            assert set(reported.values()) <= {"Unsure"}
        finally:
            await app.close()


async def test_conversations_and_callbacks_survive_kills_at_any_moment(tmp_path: Path) -> None:
    """Orders and their callbacks go on while the process is killed again and again, in the middle of everything."""
    channel = FakeChannel()
    app = RunningApp(tmp_path / "data")
    async with serve(channel.app()) as service_url:
        await app.start()
        try:
            ordered = []
            for number in range(8):
                conversation = f"c{number}"
                posting = asyncio.create_task(app.post_or_fail(message(service_url, conversation, "order laptop")))
                if number % 2:
                    # Now it is anywhere between reading the request and answering it.
                    for _ in range(number * 40):
                        await asyncio.sleep(0)
                    await app.kill()
                    await app.start()
                if await posting == 202:
                    ordered.append(conversation)
            assert len(ordered) >= 4
            for conversation in ordered:
                await app.command(
                    "publish",
                    "order_placed",
                    "--conversation",
                    conversation,
                    "--value",
                    '{"number": 7}',
                    "--id",
                    conversation,
                )
            await app.kill()
            await app.start()
            answer = "Great! Your laptop is order #7."
            async with asyncio.timeout(WAIT):
                while not all(answer in texts_in(channel, each) for each in ordered):
                    letters = (await app.command("dead-letters", "--json")).splitlines()
                    waiting = await waiting_on_the_queues(app.data)
                    done = [each for each in ordered if answer in texts_in(channel, each)]
                    if len(done) + len(letters) + len(waiting) >= len(ordered):
                        break
            for conversation in ordered:
                assert texts_in(channel, conversation).count(answer) <= 1
        finally:
            await app.close()
