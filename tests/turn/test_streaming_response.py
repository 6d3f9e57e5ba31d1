"""A streaming response on a channel that holds it to the rules: its shape, and its block (P6.1 to P6.6, P6.10)."""

import asyncio
import itertools
from collections.abc import Sequence
from datetime import timedelta

import pytest

from agent_core import Activity, Attachment, ChannelAccount, Entity, TurnContext
from agent_core.activity.citations import Citation, SensitivityLabel
from agent_core.errors import ChannelError, StreamCancelled, StreamEnded
from agent_core.testing import ManualClock, TestAdapter
from agent_core.turn.stream_sender import INTERRUPTED, NOTHING_STREAMED
from tests.turn.streaming import CARD, SECOND, Stage, about, info, plain, say_slowly, texts

# -- P6.1 to P6.6: the shape


async def test_p6_1_a_stream_is_typing_with_all_of_the_text_each_time_and_a_message_at_its_end() -> None:
    stage = Stage()

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.queue_informative_update("Looking")
            await stage.seconds(2)
            await say_slowly(stage, stream, ["One ", "two ", "three"], 1.5)

    await stage.run(handler)
    *chunks, end = stage.channel.sent
    assert [chunk.type for chunk in chunks] == ["typing"] * 4
    assert texts(chunks) == ["Looking", "One ", "One two ", "One two three"]
    assert [info(chunk)["streamType"] for chunk in chunks] == ["informative", "streaming", "streaming", "streaming"]
    assert (end.type, end.text) == ("message", "One two three")
    assert (info(end)["streamType"], info(end)["streamResult"]) == ("final", "success")
    assert all(chunk.text_format == "markdown" for chunk in stage.channel.sent), "X9: the format is said"
    assert stage.channel.texts == ["One two three"]
    assert stage.context.responded


async def test_p6_2_the_sequence_counts_all_updates_and_the_first_answer_names_the_stream() -> None:
    stage = Stage()

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.queue_informative_update("Looking")
            await stage.seconds(2)
            await say_slowly(stage, stream, ["One ", "two"], 2)

    await stage.run(handler)
    first, *later, end = stage.channel.sent
    assert [info(chunk)["streamSequence"] for chunk in (first, *later)] == [1, 2, 3]
    assert "streamId" not in info(first)
    assert first.id is None
    (stream_id,) = stage.channel.messages
    for activity in (*later, end):
        assert info(activity)["streamId"] == activity.id == stream_id


async def test_p6_2_on_web_chat_the_sender_names_the_stream() -> None:
    stage = Stage("webchat")
    stage.channel.new_id = lambda: "guid-1"

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await say_slowly(stage, stream, ["One ", "two"])

    await stage.run(handler)
    assert {info(activity)["streamId"] for activity in stage.channel.sent} == {"guid-1"}
    assert {activity.id for activity in stage.channel.sent} == {"guid-1"}
    assert [info(chunk)["streamSequence"] for chunk in stage.channel.chunks] == [1, 2]


async def test_x3_the_end_has_no_sequence() -> None:
    stage = Stage()

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await say_slowly(stage, stream, ["One"])

    await stage.run(handler)
    assert "streamSequence" not in info(stage.channel.sent[-1])


async def test_p6_3_what_was_shown_stays_and_half_a_marker_is_not_shown() -> None:
    """`[do` + `c2]` is shown as `[1]`, never as `[do`, and its number does not change later."""
    stage = Stage()

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.queue_text_chunk("So it is [do", [Citation("Handbook"), Citation("Prices")])
            await stage.seconds(2)
            await say_slowly(stage, stream, ["c2], and", " [doc1], [doc2] too", " [doc7] ["], 2)

    await stage.run(handler)
    end = stage.channel.sent[-1]
    assert texts(stage.channel.chunks)[:2] == ["So it is ", "So it is [1], and"]
    assert end.text == "So it is [1], and [2], [1] too [doc7] ["
    assert [claim["position"] for claim in about(end)["citation"]] == [1, 2]  # type: ignore[attr-defined]  # JSON


async def test_p6_3_informative_updates_end_where_the_text_begins() -> None:
    stage = Stage()

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            for number in range(5):
                stream.queue_informative_update(f"Step {number}")
            await stage.seconds(1.5)
            await say_slowly(stage, stream, ["Text"])
            stream.queue_informative_update("Too late")
            await stage.seconds(3)

    await stage.run(handler)
    assert texts(stage.channel.sent) == ["Step 0", "Step 1", "Text", "Text"]


@pytest.mark.parametrize(("channel_id", "interval"), [("msteams", 1.0), ("webchat", 0.5), ("emulator", 0.5)])
async def test_p6_4_p6_8_tokens_are_gathered_to_the_channels_pace(channel_id: str, interval: float) -> None:
    """P6.4: at most one request a second in Teams, one in flight (StrictChannel asserts it); P6.8: 500 ms elsewhere."""
    stage = Stage(channel_id, latency=timedelta(milliseconds=300))

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await say_slowly(stage, stream, ["token "] * 100, 0.05)

    await stage.run(handler)
    seconds = stage.channel.seconds
    assert all(later - earlier >= interval for earlier, later in itertools.pairwise(seconds))
    assert 3 <= len(stage.channel.chunks) <= 5 / interval
    assert stage.channel.sent[-1].text == "token " * 100


async def test_p6_4_a_throttled_update_comes_again_with_the_same_sequence_after_the_wait() -> None:
    stage = Stage()
    busy = ChannelError("busy", decision="throttled", status=429, retry_after=4 * SECOND)
    stage.channel.failures = [None, busy]

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await say_slowly(stage, stream, ["One ", "two ", "three ", "four ", "five ", "six ", "seven"], 1)
            await stage.seconds(5)

    await stage.run(handler)
    assert stage.channel.failures == []
    assert [info(chunk)["streamSequence"] for chunk in stage.channel.chunks] == [1, 2, 3]
    assert stage.channel.seconds[1] == 5.0


async def test_p6_4_a_throttled_end_is_sent_until_it_is_taken() -> None:
    stage = Stage()
    busy = ChannelError("API calls quota exceeded", decision="throttled", status=429)
    stage.channel.failures = [None, busy, busy, busy]

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await say_slowly(stage, stream, ["One"])

    await stage.run(handler)
    assert stage.channel.texts == ["One"]
    assert stage.channel.seconds == [0.0, 11.0], "the interval, and then 2, 4 and 4 seconds"


@pytest.mark.parametrize("kind", ["groupChat", "channel"])
async def test_p6_5_in_a_group_in_teams_nothing_is_streamed(kind: str) -> None:
    stage = Stage(kind=kind)

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.queue_informative_update("Looking")
            await say_slowly(stage, stream, ["One ", "two"])

    await stage.run(handler)
    (message,) = stage.channel.sent
    assert message.text == "One two"
    assert message.entities == ()


async def test_p6_5_nothing_is_streamed_for_an_agent_that_acts_as_a_user() -> None:
    stage = Stage(recipient=ChannelAccount(id="agent", role="AgenticUser"))

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await say_slowly(stage, stream, ["One ", "two"])

    await stage.run(handler)
    assert [activity.type for activity in stage.channel.sent] == ["message"]


async def test_p6_6_x4_attachments_and_labels_are_on_the_end_only_and_citations_on_updates_too() -> None:
    stage = Stage()

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.set_attachments([CARD])
            stream.set_generated_by_ai_label()
            stream.set_feedback_loop("custom")
            stream.set_sensitivity_label(SensitivityLabel("Secret"))
            stream.queue_text_chunk("See [doc1]", [Citation("Handbook")])
            await stage.seconds(2)

    await stage.run(handler)
    chunk, end = stage.channel.sent
    assert about(chunk).keys() == {"type", "@type", "@context", "@id", "citation"}
    assert chunk.attachments == ()
    assert chunk.channel_data is None
    assert about(end)["additionalType"] == ["AIGeneratedContent"]
    assert about(end)["citation"] == about(chunk)["citation"] == [Citation("Handbook").claim(1)]
    assert about(end)["usageInfo"] == SensitivityLabel("Secret").usage_info()
    assert end.attachments == (CARD,)
    # X4: the newer key, never both, and not on the stream entity.
    assert end.channel_data == {"feedbackLoop": {"type": "custom"}}
    assert "feedbackLoop" not in info(end)


async def test_x4_other_channels_get_no_channel_data_of_teams() -> None:
    stage = Stage("slack")

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.set_feedback_loop()
            stream.queue_text_chunk("Hello")

    await stage.run(handler)
    assert stage.channel.sent[0].channel_data is None


async def test_p6_6_the_end_is_not_empty_and_may_be_a_card() -> None:
    for attachments, text in (((), NOTHING_STREAMED), ((CARD,), None)):
        stage = Stage()

        async def handler(
            context: TurnContext, stage: Stage = stage, attachments: Sequence[Attachment] = attachments
        ) -> None:
            async with context.streaming_response as stream:
                stream.queue_informative_update("Looking")
                await stage.seconds(1)
                stream.set_attachments(attachments)

        await stage.run(handler)
        end = stage.channel.sent[-1]
        assert info(end)["streamType"] == "final"
        assert (end.text, end.attachments) == (text, attachments)


async def test_an_answer_that_is_ready_at_once_is_a_plain_message() -> None:
    stage = Stage()

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.queue_text_chunk("Hello")
            stream.queue_text_chunk(" there")
        assert (await stream.end_stream()).id in stage.channel.messages

    await stage.run(handler)
    (message,) = stage.channel.sent
    assert (message.type, message.text, message.entities) == ("message", "Hello there", ())


async def test_nothing_said_is_nothing_sent() -> None:
    stage = Stage()

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.queue_informative_update("  ")
            stream.queue_text_chunk(" \n")
            await stage.seconds(5)
        assert (await stream.end_stream()).id is None

    await stage.run(handler)
    assert stage.channel.sent == []
    assert not stage.context.responded


# -- P6.10: channels that do not stream


@pytest.mark.parametrize("channel_id", ["slack", "telegram", "email", "carrier-pigeon"])
async def test_p6_10_where_nothing_streams_there_is_one_message_without_a_stream_entity(channel_id: str) -> None:
    stage = Stage(channel_id)

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.queue_informative_update("Looking")
            stream.set_generated_by_ai_label()
            stream.set_attachments([CARD])
            await say_slowly(stage, stream, ["One ", "two [doc1]"], 2)
            stream.queue_text_chunk("[doc1]", [Citation("Handbook")])

    await stage.run(handler)
    (message,) = stage.channel.sent
    assert plain(message)
    assert message.text == "One two [doc1][1]", "a marker before its source stays as it is"
    assert message.attachments == (CARD,)
    assert about(message)["additionalType"] == ["AIGeneratedContent"]


async def test_p6_8_a_caller_that_takes_all_replies_at_once_gets_one_message() -> None:
    stage = Stage(delivery_mode="expectReplies")

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await say_slowly(stage, stream, ["One ", "two"], 2)

    await stage.run(handler)
    assert texts(stage.channel.sent) == ["One two"]


async def test_a_turn_without_a_clock_streams_nothing() -> None:
    clock = ManualClock()
    adapter = TestAdapter(clock)
    context = TurnContext(adapter, adapter.activity(text="hi"), now=clock.now())
    async with context.streaming_response as stream:
        stream.queue_text_chunk("One")
        await asyncio.sleep(0)
    assert adapter.texts == ["One"]


# -- the block


async def test_a_handler_that_fails_leaves_a_stream_that_has_ended_with_what_was_shown() -> None:
    stage = Stage()

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.set_attachments([CARD])
            await say_slowly(stage, stream, ["One "], 2)
            stream.queue_text_chunk("never shown")
            raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        await stage.run(handler)
    end = stage.channel.sent[-1]
    assert (end.text, end.attachments) == ("One ", ())
    assert (info(end)["streamType"], info(end)["streamResult"]) == ("final", "error")


async def test_a_handler_that_fails_before_the_text_leaves_a_word() -> None:
    stage = Stage()

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.queue_informative_update("Looking")
            await stage.seconds(2)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await stage.run(handler)
    assert texts(stage.channel.sent) == ["Looking", INTERRUPTED]


@pytest.mark.parametrize("channel_id", ["msteams", "slack"])
async def test_a_handler_that_fails_before_anything_was_shown_sends_nothing(channel_id: str) -> None:
    stage = Stage(channel_id)

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.queue_text_chunk("never shown")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await stage.run(handler)
    assert stage.channel.sent == []


async def test_the_handlers_error_comes_out_even_if_the_stream_cannot_be_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    stage.channel.failures = [None, ChannelError("no", decision="blocked")]

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await say_slowly(stage, stream, ["One "], 2)
            raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        await stage.run(handler)
    assert "could not be ended" in caplog.text


async def test_a_turn_that_is_cancelled_leaves_no_task_behind() -> None:
    stage = Stage()

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.queue_text_chunk("One")
            await asyncio.Event().wait()

    before = asyncio.all_tasks()
    turn = asyncio.ensure_future(handler(stage.context))
    for _ in range(20):
        await asyncio.sleep(0)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert asyncio.all_tasks() == before
    assert texts(stage.channel.sent) == ["One"]


async def test_a_stream_is_used_in_its_block_and_once() -> None:
    stage = Stage()
    stream = stage.context.streaming_response
    with pytest.raises(StreamEnded, match="async with"):
        stream.queue_text_chunk("early")
    with pytest.raises(StreamEnded, match="async with"):
        await stream.end_stream()
    assert stage.context.streaming_response is stream
    async with stream:
        stream.queue_text_chunk("in time")
        first = await stream.end_stream()
        with pytest.raises(StreamEnded):
            stream.queue_text_chunk("late")
    assert await stream.end_stream() == first
    with pytest.raises(StreamEnded, match="once"):
        await stream.__aenter__()
    async with stage.context.streaming_response as second:
        second.queue_text_chunk("again")
    assert stage.channel.texts == ["in time", "again"]


async def test_a_cancel_that_is_not_the_streams_own_goes_on() -> None:
    stage = Stage()
    with pytest.raises(StreamCancelled):
        async with stage.context.streaming_response:
            raise StreamCancelled("somebody else's")


async def test_copilot_knows_it_by_its_product_and_shows_no_plain_typing() -> None:
    stage = Stage("msteams:COPILOT")
    assert stage.context.channel.id == "msteams:COPILOT"
    assert (await stage.context.send_activity(Activity(type="typing"))).id is None
    assert stage.channel.sent == []
    assert Entity.from_dict({"type": "ProductInfo", "id": "COPILOT"}) in stage.context.activity.entities
