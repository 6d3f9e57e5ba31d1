"""What a streaming response makes of each refusal of the channel (P6.7)."""

from collections.abc import Sequence

import pytest

from agent_core import Activity, Entity, TurnContext
from agent_core.activity.citations import Citation
from agent_core.errors import ChannelError
from agent_core.turn.stream_protocol import failure_of, is_stream
from tests.turn.streaming import CARD, Stage, about, info, not_allowed, plain, say_slowly, texts


async def refused(
    stage: Stage, *failures: ChannelError | None, words: Sequence[str] = ("One ", "two ", "three")
) -> None:
    """Stream words, two seconds each, while the channel fails so."""
    stage.channel.failures = list(failures)

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await say_slowly(stage, stream, words, 2)

    await stage.run(handler)


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize(
    "error",
    [
        not_allowed("Content stream is not allowed"),
        ChannelError("x", decision="rejected", status=400, code="BadArgument", said="Streaming API is not enabled."),
    ],
)
async def test_p6_7_where_streams_are_not_allowed_one_message_comes_at_the_end(
    error: ChannelError, before: int
) -> None:
    stage = Stage()
    await refused(stage, *[None] * before, error)
    assert len(stage.channel.chunks) == before
    assert plain(stage.channel.sent[-1])
    assert stage.channel.texts == ["One two three"]


async def test_p6_7_a_stream_without_an_id_cannot_go_on_and_is_one_message() -> None:
    """P4.2: Teams is known for answers without a body."""
    stage = Stage()

    async def without_id(context: TurnContext, activities: Sequence[Activity], send: object) -> list[object]:
        responses = await send(activities)  # type: ignore[operator]  # the hook's third argument
        return [each.replace(id=None) for each in responses]

    stage.context.on_send_activities(without_id)  # type: ignore[arg-type]  # see above
    await refused(stage)
    assert len(stage.channel.chunks) == 1
    assert plain(stage.channel.sent[-1])
    assert stage.channel.texts == ["One two three"]


async def test_p6_7_a_completed_stream_is_left_alone() -> None:
    stage = Stage()
    await refused(stage, None, not_allowed("Content stream was already completed"))
    assert len(stage.channel.sent) == 1
    assert stage.channel.edits == []


async def test_p6_7_after_its_time_the_message_is_edited_by_the_streams_id() -> None:
    stage = Stage()
    over = not_allowed("Content stream has exceeded streaming time.")
    await refused(stage, None, over, words=("One ", "two ", "three ", "four"))
    assert len(stage.channel.chunks) == 1
    (stream_id,) = stage.channel.messages
    assert {edit.id for edit in stage.channel.edits} == {stream_id}
    assert texts(stage.channel.edits)[-1] == "One two three four"
    assert len(stage.channel.edits) >= 2, "progress is shown by edits as well"
    assert all(plain(edit) for edit in stage.channel.edits)


async def test_p6_7_an_end_that_comes_after_the_time_becomes_an_edit() -> None:
    stage = Stage()
    over = not_allowed("Content stream has exceeded streaming time.")
    await refused(stage, None, over, words=("One",))
    assert texts(stage.channel.edits) == ["One"]


async def test_p6_7_where_nothing_can_be_edited_a_new_message_comes_after_the_time() -> None:
    stage = Stage("msteams:COPILOT")
    await refused(stage, None, not_allowed("Content stream has exceeded streaming time."))
    assert stage.channel.edits == []
    assert plain(stage.channel.sent[-1])
    assert stage.channel.texts == ["One two three"]


@pytest.mark.parametrize("spelling", ["canceled", "cancelled"])
async def test_p6_7_when_the_user_cancels_the_work_stops_and_nothing_more_is_sent(spelling: str) -> None:
    stage = Stage()
    stage.channel.failures = [None, not_allowed(f"Content stream was {spelling} by user")]
    said = []

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            for number in range(100):
                said.append(number)
                stream.queue_text_chunk(f"{number} ")
                await stage.seconds(0.5)
        assert stream.cancelled
        assert (await stream.end_stream()).id is None

    await stage.run(handler)
    assert len(said) < 6
    assert len(stage.channel.sent) == 1
    assert stage.channel.messages == {}


async def test_p6_7_a_cancel_that_meets_the_end_is_no_error() -> None:
    stage = Stage()
    await refused(stage, None, not_allowed("Content stream was canceled by user"), words=("One",))
    assert stage.channel.messages == {}


async def test_p6_7_a_dropped_update_is_made_good_by_the_next_one() -> None:
    stage = Stage()
    dropped = ChannelError("x", decision="rejected", status=400, code="ContentStreamSequenceOrderPreConditionFailed")
    stage.channel.failures = [None, dropped]
    stage.channel._check = lambda *_: None  # type: ignore[method-assign]  # it has not seen number 2
    stage.channel._sequence = 1

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await say_slowly(stage, stream, ["One ", "two ", "three"], 2)

    await stage.run(handler)
    assert [info(chunk)["streamSequence"] for chunk in stage.channel.chunks] == [1, 3, 4]
    assert stage.channel.chunks[-1].text == "One two three"
    assert stage.channel.texts == ["One two three"]


async def test_p6_7_a_text_that_the_channel_finds_too_large_ends_in_several_messages() -> None:
    stage = Stage()
    words = ["word " * 100] * 6
    await refused(stage, None, None, None, not_allowed("Message size too large"), words=words)
    end, *rest = stage.channel.messages.values()
    assert len(stage.channel.chunks) == 3
    assert info(end)["streamType"] == "final"
    assert (end.text or "").startswith("word " * 300), "what was shown is not taken back"
    assert all(plain(each) for each in rest)
    assert len(rest) >= 1
    assert (
        " ".join("".join(f"{each.text} " for each in stage.channel.messages.values()).split()) == "".join(words).strip()
    )


async def test_p6_7_an_end_that_is_too_large_becomes_several_messages() -> None:
    stage = Stage()
    too_large = ChannelError("x", decision="rejected", status=413, code="MessageSizeTooBig")
    await refused(stage, None, too_large, words=["word " * 300])
    assert len(stage.channel.messages) >= 2
    assert all(plain(each) for each in stage.channel.messages.values())


async def test_p4_22_a_stream_that_outgrows_the_channel_goes_on_in_further_messages() -> None:
    """Known beforehand, so no request is refused for it: the limit is 100 KB, and 80 KB are advised."""
    stage = Stage()
    paragraphs = [f"Paragraph {number}. " + "word " * 1000 + "\n\n" for number in range(20)]

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.set_attachments([CARD])
            stream.set_generated_by_ai_label()
            await say_slowly(stage, stream, paragraphs, 2)

    await stage.run(handler)
    *written, cards = stage.channel.messages.values()
    assert all(len(each.to_json()) * 2 <= 80 * 1024 for each in written)
    assert "".join(f"{each.text}" for each in written).split() == "".join(paragraphs).split()
    assert info(written[0])["streamType"] == "final"
    assert all(plain(each) for each in written[1:])
    assert all("additionalType" in about(each) for each in written)
    assert cards.attachments == (CARD,)


async def test_an_update_whose_fate_is_unknown_is_followed_by_the_next_and_at_last_by_the_end() -> None:
    stage = Stage()
    lost = ChannelError("The channel did not answer", decision="ambiguous")
    stage.channel.failures = [None, lost, lost, lost]
    stage.channel._check = lambda *_: None  # type: ignore[method-assign]  # it misses numbers
    stage.channel._sequence = 1
    words = [f"{number} " for number in range(8)]

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await say_slowly(stage, stream, words, 2)

    await stage.run(handler)
    assert len(stage.channel.chunks) == 1
    assert info(stage.channel.sent[-1])["streamType"] == "final"
    assert stage.channel.texts == ["".join(words)]


async def test_a_refused_update_leaves_the_stream_to_its_end() -> None:
    stage = Stage()
    await refused(stage, None, ChannelError("x", decision="rejected", status=400, code="BadSyntax"))
    assert len(stage.channel.chunks) == 1
    assert info(stage.channel.sent[-1])["streamType"] == "final"


@pytest.mark.parametrize("decision", ["blocked", "gone", "misconfigured"])
async def test_where_nothing_is_taken_the_handler_is_told_at_once(decision: str) -> None:
    stage = Stage()
    stage.channel.failures = [None, ChannelError("no", decision=decision)]  # type: ignore[arg-type]  # a parameter
    said = []

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            for number in range(100):
                said.append(number)
                stream.queue_text_chunk(f"{number} ")
                await stage.seconds(0.5)

    with pytest.raises(ChannelError, match="no"):
        await stage.run(handler)
    assert len(said) < 6
    assert len(stage.channel.sent) == 1


@pytest.mark.parametrize(
    ("code", "said", "status", "means"),
    [
        ("ContentStreamNotAllowed", "Content stream is not allowed", 403, "not_streaming"),
        ("ContentStreamNotAllowed", "Content stream was already completed", 403, "completed"),
        ("ContentStreamNotAllowed", "Content stream has exceeded streaming time.", 403, "time_over"),
        ("ContentStreamNotAllowed", "Content stream was Canceled by user.", 403, "cancelled"),
        ("ContentStreamNotAllowed", "Message size too large", 403, "too_large"),
        ("ContentStreamSequenceOrderPreConditionFailed", None, 202, "out_of_order"),
        ("BadRequest", "Start streaming activities should include text", 400, "refused"),
        ("BadArgument", "streaming api is not enabled", 400, "not_streaming"),
        (None, None, 413, "too_large"),
    ],
)
def test_p6_7_the_words_tell_what_the_code_does_not(
    code: str | None, said: str | None, status: int, means: str
) -> None:
    error = ChannelError("The channel answered", decision="rejected", status=status, code=code, said=said)
    assert failure_of(error) == means


async def test_unknown_fates_that_are_not_in_a_row_do_not_end_the_updates() -> None:
    stage = Stage()
    lost = ChannelError("The channel did not answer", decision="ambiguous")
    stage.channel.failures = [None, lost, lost, None, lost, lost, None]
    stage.channel._check = lambda *_: None  # type: ignore[method-assign]  # it misses numbers
    stage.channel._sequence = 1

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            await say_slowly(stage, stream, [f"{number} " for number in range(8)], 2)

    await stage.run(handler)
    assert stage.channel.failures == []
    assert len(stage.channel.chunks) > 3


async def test_p6_7_what_follows_a_stream_that_was_too_large_cites_its_own_and_asks_for_feedback_once() -> None:
    stage = Stage()
    stage.channel.failures = [None, None, None, not_allowed("Message size too large")]

    async def handler(context: TurnContext) -> None:
        async with context.streaming_response as stream:
            stream.set_feedback_loop()
            stream.queue_text_chunk("", [Citation("Handbook"), Citation("Prices")])
            await say_slowly(stage, stream, ["word " * 300 + "[doc1] ", "word " * 100, "word " * 100], 2)
            await say_slowly(stage, stream, ["word " * 100, "end [doc2]"], 2)

    await stage.run(handler)
    end, *_, last = stage.channel.messages.values()
    assert [claim["position"] for claim in about(end)["citation"]] == [1]  # type: ignore[attr-defined]  # JSON
    assert [claim["position"] for claim in about(last)["citation"]] == [2]  # type: ignore[attr-defined]  # JSON
    assert end.channel_data == {"feedbackLoop": {"type": "default"}}
    assert last.channel_data is None


def test_p6_1_of_two_stream_entities_none_counts() -> None:
    """A9246: an activity with more than one is no part of a stream."""
    one = Entity.from_dict({"type": "streamInfo", "streamType": "final"})
    assert is_stream(Activity(type="message", entities=[one]))
    assert not is_stream(Activity(type="message", entities=[one, one]))


@pytest.mark.parametrize("said", ["Content stream is not allowed", "something new"])
async def test_p6_7_an_end_that_is_refused_becomes_a_plain_message(said: str) -> None:
    stage = Stage()
    await refused(stage, None, not_allowed(said), words=("One",))
    assert plain(stage.channel.sent[-1])
    assert stage.channel.texts == ["One"]


@pytest.mark.parametrize("decision", ["blocked", "ambiguous"])
async def test_an_end_that_is_lost_is_the_callers_to_know(decision: str) -> None:
    """It may have arrived: a repeat could double the message."""
    stage = Stage()
    with pytest.raises(ChannelError, match="no"):
        await refused(stage, None, ChannelError("no", decision=decision), words=("One",))  # type: ignore[arg-type]  # a parameter
    assert stage.channel.texts == []
