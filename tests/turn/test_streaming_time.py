"""A streaming response that takes longer than its channel allows (P6.5, P6.9)."""

import itertools
from datetime import timedelta

import pytest

from agent_core import TurnContext
from agent_core.errors import ChannelError
from agent_core.turn.stream_sender import STILL_WORKING, TAKING_LONGER
from tests.turn.streaming import CARD, SECOND, Stage, info, not_allowed, plain, say_slowly, texts


async def test_p6_5_in_teams_the_stream_ends_before_its_two_minutes_and_the_rest_comes_as_edits() -> None:
    stage = Stage()

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await say_slowly(stage, stream, [f"{second} " for second in range(150)], 1)
            stream.set_attachments([CARD])

    await stage.run(handler)
    at, end = stage.channel.requests[-1]
    assert timedelta(seconds=110) < at - stage.channel.requests[0][0] < timedelta(minutes=2)
    assert (info(end)["streamType"], info(end)["streamResult"]) == ("final", "timeout")
    (message,) = stage.channel.messages.values()
    assert message == stage.channel.edits[-1]
    assert message.text == "".join(f"{second} " for second in range(150))
    assert message.attachments == (CARD,)
    assert plain(message)


async def test_p6_5_a_stream_that_had_no_text_in_its_time_says_that_it_follows() -> None:
    stage = Stage()

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.queue_informative_update("Looking")
            await stage.seconds(150)
            stream.queue_text_chunk("Found")

    await stage.run(handler)
    assert texts(stage.channel.sent) == ["Looking", TAKING_LONGER]
    assert stage.channel.texts == ["Found"]


async def test_p6_9_in_copilot_something_comes_within_15_seconds() -> None:
    stage = Stage("msteams:COPILOT")
    began = stage.clock.now()

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await stage.seconds(30)
            stream.queue_text_chunk("Found")

    await stage.run(handler)
    at, first = stage.channel.requests[0]
    assert at - began <= 15 * SECOND
    assert (first.text, info(first)["streamType"]) == (STILL_WORKING, "informative")
    assert stage.channel.texts == ["Found"]


async def test_p6_9_in_copilot_no_45_seconds_pass_without_an_update() -> None:
    """Before the text an informative update, after it the text again: informative updates must not follow text."""
    stage = Stage("msteams:COPILOT")

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.queue_informative_update("Looking")
            await stage.seconds(40)
            stream.queue_text_chunk("Found")
            await stage.seconds(40)
            stream.queue_text_chunk(" it")

    await stage.run(handler)
    assert texts(stage.channel.sent) == ["Looking", STILL_WORKING, "Found", "Found", "Found it"]
    seconds = stage.channel.seconds
    assert all(later - earlier <= 35 for earlier, later in itertools.pairwise(seconds))


async def test_p6_9_in_copilot_the_stream_ends_at_1_45_and_the_rest_is_a_new_message() -> None:
    stage = Stage("msteams:COPILOT")

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await say_slowly(stage, stream, [f"{second} " for second in range(150)], 1)

    await stage.run(handler)
    at, end = stage.channel.requests[-1]
    assert (at - stage.channel.requests[0][0]).total_seconds() == pytest.approx(105, abs=1)
    assert info(end)["streamResult"] == "timeout"
    first, rest = stage.channel.texts
    assert f"{first}{rest}" == "".join(f"{second} " for second in range(150))
    assert plain(stage.channel.sent[-1])
    assert stage.channel.edits == []


async def test_p6_9_a_copilot_stream_without_text_says_so_at_1_45_and_the_answer_follows() -> None:
    stage = Stage("msteams:COPILOT")

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await stage.seconds(200)
            stream.queue_text_chunk("Found")

    await stage.run(handler)
    assert stage.channel.texts == [TAKING_LONGER, "Found"]


async def test_p6_9_channels_without_such_a_rule_are_left_in_peace() -> None:
    stage = Stage()

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await stage.seconds(60)
            stream.queue_text_chunk("Found")

    await stage.run(handler)
    assert texts(stage.channel.sent) == ["Found"]


async def test_p6_5_a_text_that_is_too_large_and_too_late_is_an_edit_and_further_messages() -> None:
    """At the limit of time the stream ends with what was shown of it, and nothing is refused for its size."""
    stage = Stage()
    paragraphs = [f"Paragraph {number}. " + "word " * 1000 + "\n\n" for number in range(20)]

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await say_slowly(stage, stream, paragraphs, 7)

    await stage.run(handler)
    end = stage.channel.requests[-1][1]
    assert info(end)["streamResult"] == "timeout"
    assert end.text == stage.channel.chunks[-1].text
    written = list(stage.channel.messages.values())
    assert len(written) >= 2
    assert all(len(each.to_json()) * 2 <= 80 * 1024 for each in (*written, *stage.channel.edits, end))
    assert "".join(f"{each.text}" for each in written).split() == "".join(paragraphs).split()


async def test_p6_5_the_two_minutes_count_from_when_the_first_request_left() -> None:
    stage = Stage(latency=timedelta(seconds=4))

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.queue_informative_update("Looking")
            await stage.seconds(150)

    began = stage.clock.now()
    await stage.run(handler)
    assert stage.channel.requests[-1][0] - began < timedelta(minutes=2)


async def test_p6_5_a_message_that_the_user_deleted_after_its_stream_comes_anew() -> None:
    stage = Stage()

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await say_slowly(stage, stream, ["One "], 120)
            stream.queue_text_chunk("two")
            stage.channel.failures = [ChannelError("gone", decision="gone", status=404)] * 2
            await stage.seconds(5)

    await stage.run(handler)
    assert texts(stage.channel.sent)[-1] == "One two"
    assert plain(stage.channel.sent[-1])


async def test_p6_7_a_cancel_that_meets_the_end_in_time_stops_the_work() -> None:
    stage = Stage()
    said = []

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.queue_text_chunk("One ")
            await stage.seconds(100)
            stage.channel.failures = [not_allowed("Content stream was canceled by user")]
            for number in range(100):
                await stage.seconds(20)
                stream.queue_text_chunk("")
                said.append(number)

    await stage.run(handler)
    assert said == []
    assert stage.channel.messages == {}
