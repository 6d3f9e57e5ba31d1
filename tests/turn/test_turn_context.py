"""What a handler can do in its turn, and that it can do nothing after it."""

import logging
from datetime import timedelta

import pytest

from agent_core import Activity, ChannelAccount, ResourceResponse, TurnContext
from agent_core.errors import ChannelError, NotSupported, TurnEnded
from agent_core.testing import ManualClock, TestAdapter
from agent_core.turn.channel_adapter import ChannelAdapter


def a_turn(channel_id: str = "emulator") -> tuple[TurnContext, TestAdapter, ManualClock]:
    clock = ManualClock()
    adapter = TestAdapter(clock, channel_id)
    return TurnContext(adapter, adapter.activity(text="hi"), now=clock.now()), adapter, clock


async def test_several_activities_keep_their_order_and_each_has_its_id() -> None:
    context, adapter, _ = a_turn()
    responses = await context.send_activities(["one", Activity(type="typing"), Activity(text="three")])
    assert [each.type for each in adapter.sent] == ["message", "typing", "message"]
    assert len({response.id for response in responses}) == 3
    assert context.responded


async def test_what_was_sent_before_a_failure_stays_sent() -> None:
    context, adapter, _ = a_turn()
    adapter.failures = [None, ChannelError("busy", decision="throttled", status=429)]
    with pytest.raises(ChannelError):
        await context.send_activities(["one", "two", "three"])
    assert adapter.texts == ["one"]


async def test_an_answer_replies_to_what_came_in() -> None:
    context, adapter, _ = a_turn()
    await context.send_activity("hello")
    assert adapter.sent[0].reply_to_id == context.activity.id


async def test_a_context_is_of_no_use_after_its_turn() -> None:
    context, adapter, _ = a_turn()

    async def logic(context: TurnContext) -> None:
        await context.send_activity("in time")

    async def on_error(context: TurnContext, error: Exception) -> None: ...

    await adapter.run_turn(context, logic, on_error)
    for use in (
        context.send_activity("too late"),
        context.update_activity(Activity(id="out2", text="x")),
        context.delete_activity("out2"),
        context.expect_callback("x"),
    ):
        with pytest.raises(TurnEnded, match=r"agent\.proactive"):
            await use
    assert adapter.texts == ["in time"]


async def test_the_error_handler_speaks_in_the_turn_and_the_error_comes_out() -> None:
    context, adapter, _ = a_turn()

    async def logic(context: TurnContext) -> None:
        raise RuntimeError("secret detail")

    async def on_error(context: TurnContext, error: Exception) -> None:
        await context.send_activity("Sorry")

    with pytest.raises(RuntimeError):
        await adapter.run_turn(context, logic, on_error)
    assert adapter.texts == ["Sorry"]
    with pytest.raises(TurnEnded):
        await context.send_activity("more")


async def test_a_turn_logs_one_line_with_ids_and_time_and_no_text(caplog: pytest.LogCaptureFixture) -> None:
    context, adapter, clock = a_turn()

    async def logic(context: TurnContext) -> None:
        context.chosen("greet")
        await clock.advance(timedelta(milliseconds=1500))

    async def on_error(context: TurnContext, error: Exception) -> None: ...

    with caplog.at_level(logging.INFO, "agent_core"):
        await adapter.run_turn(context, logic, on_error)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "Turn: 'message' handled by greet in 1500 ms, channel 'emulator', conversation 'c1', activity 'in1'"
    )


async def test_an_update_needs_an_id_and_a_channel_that_can_edit() -> None:
    context, _, _ = a_turn()
    with pytest.raises(ValueError, match="id"):
        await context.update_activity(Activity(text="x"))
    web, _, _ = a_turn("webchat")
    assert not web.channel.supports_update
    with pytest.raises(NotSupported, match="webchat"):
        await web.update_activity(Activity(id="1", text="x"))
    with pytest.raises(NotSupported, match="webchat"):
        await web.delete_activity("1")


async def test_a_callback_cannot_be_expected_without_somebody_to_remember_it() -> None:
    context, _, _ = a_turn()
    with pytest.raises(NotSupported):
        await context.expect_callback("done", replaces=ResourceResponse(id="1"))


async def test_a_match_belongs_to_routes_with_a_regular_expression() -> None:
    context, _, _ = a_turn()
    with pytest.raises(NotSupported, match="regular expression"):
        _ = context.match


async def test_members_are_who_the_channel_says() -> None:
    context, adapter, _ = a_turn()
    adapter.members = [ChannelAccount(id="29:a", aad_object_id="guid", name="Ann"), ChannelAccount(id="29:b")]
    assert (await context.get_member("29:a")).name == "Ann"
    assert (await context.get_member("guid")).id == "29:a"
    assert [member.id async for member in context.get_paged_members()] == ["29:a", "29:b"]
    with pytest.raises(ChannelError) as failed:
        await context.get_member("29:c")
    assert failed.value.decision == "gone"
    context.end()
    with pytest.raises(TurnEnded):
        await context.get_member("29:a")
    with pytest.raises(TurnEnded):
        await anext(context.get_paged_members())


async def test_a_channel_that_cannot_look_up_members_says_so() -> None:
    context, _, clock = a_turn()

    class Mute(TestAdapter):
        get_member = ChannelAdapter.get_member
        get_paged_members = ChannelAdapter.get_paged_members

    context._sender = Mute(clock)
    with pytest.raises(NotSupported, match="Mute"):
        await context.get_member("29:a")
    with pytest.raises(NotSupported, match="Mute"):
        await anext(context.get_paged_members())
