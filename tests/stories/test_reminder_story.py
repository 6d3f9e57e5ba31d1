"""A reminder, set in the chat of a real process that is then killed: it comes at its time, once."""

import asyncio

from tests.serving import FakeChannel
from tests.stories.running import RunningApp
from tests.stories.test_stories import teams_message


async def test_a_reminder_survives_the_death_of_the_process_and_arrives_once(
    app: RunningApp, channel: FakeChannel, service_url: str
) -> None:
    await app.post(teams_message(service_url, "remind me in 1 minutes"))
    await app.kill()
    await app.start()
    async with asyncio.timeout(120):
        await channel.wait_for(2)
    assert channel.texts[0] == "I will remind you in 1 minutes."
    assert channel.texts[1] == "Time to check your order."
    # It is a message of its own and not the reply to one that is long past.
    assert "replyToId" not in channel.calls[1].body
    # One more turn, and the timer's ticks in between, bring nothing twice.
    await app.post(teams_message(service_url, "hello", id="1763630130508"))
    assert len(channel.calls) == 3
