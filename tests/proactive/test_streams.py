"""A streaming response in work that the ledger watches: a stream is a message from its first update on."""

from collections.abc import Sequence
from datetime import timedelta

from agent_core import Activity, ResourceResponse, TurnContext, TurnState
from agent_core.errors import ChannelError
from agent_core.store.document_store import CONVERSATIONS, Where
from tests.proactive.setting import Setting

CALLBACK = {"conversationId": "c1", "continuation": "report"}


def a_streaming_agent(*, fails: bool = False) -> Setting:
    setting = Setting()

    @setting.agent.message("order")
    async def order(context: TurnContext, state: TurnState) -> None:
        placeholder = await context.send_activity("Working on it")
        await context.expect_callback("report", replaces=placeholder)

    @setting.agent.message("hello")
    async def hello(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("Hello")

    @setting.agent.continuation("report")
    async def report(context: TurnContext, state: TurnState) -> None:
        async with context.streaming_response as stream:
            for word in ("One ", "two"):
                stream.queue_text_chunk(word)
                await setting.clock.sleep(timedelta(seconds=1))
            if fails:
                raise RuntimeError("the model broke")

    return setting


async def statuses(setting: Setting) -> list[object]:
    """Where the ledger says the deliveries are."""
    page = await setting.store.query(CONVERSATIONS, partition="c1", where=[Where("kind", "=", "delivery")])
    return [document.body["status"] for document in page.documents]


async def test_a_stream_that_answers_a_placeholder_is_one_message_that_edits_it() -> None:
    setting = a_streaming_agent()
    await setting.adapter.say(setting.agent, "order")
    await setting.clock.run(setting.callback(CALLBACK))
    assert setting.adapter.texts == ["One two"]
    assert [activity.type for activity in setting.adapter.sent] == ["message"], "no update of a stream was sent"


async def test_a_stream_is_streamed_and_done_once() -> None:
    setting = a_streaming_agent()
    await setting.adapter.say(setting.agent, "hello")
    for _ in range(2):
        await setting.clock.run(setting.callback({**CALLBACK, "id": "one"}))
    assert setting.adapter.texts == ["Hello", "One two"]
    assert [activity.type for activity in setting.adapter.sent[1:]] == ["typing", "typing", "message"]
    assert await setting.dead_letters() == []


async def test_a_stream_that_broke_off_is_parked_and_not_begun_again() -> None:
    """The user has seen the half of it: a repeat would show it twice."""
    setting = a_streaming_agent(fails=True)
    await setting.adapter.say(setting.agent, "hello")
    await setting.clock.run(setting.callback(CALLBACK))
    await setting.later(timedelta(hours=2))
    assert setting.adapter.texts == ["Hello", "One two"]
    assert [letter.reason for letter in await setting.dead_letters()] == ["FailedAfterSending"]


async def test_the_ledger_says_sending_before_the_first_update_of_a_stream() -> None:
    setting = a_streaming_agent()
    await setting.adapter.say(setting.agent, "hello")
    seen = []
    send_activities = setting.adapter.send_activities

    async def noted(context: TurnContext, activities: Sequence[Activity]) -> list[ResourceResponse]:
        seen.append((activities[0].type, await statuses(setting)))
        return await send_activities(context, activities)

    setting.adapter.send_activities = noted  # type: ignore[method-assign]  # looks and passes on
    await setting.clock.run(setting.callback(CALLBACK))
    assert seen[0] == ("typing", ["sending"])
    assert await statuses(setting) == ["sent"]


async def test_a_typing_indicator_is_no_message() -> None:
    """It has an id on some channels, and still nothing was said: a throttled message after it is tried again."""
    setting = Setting("webchat")

    @setting.agent.message("hello")
    async def hello(context: TurnContext, state: TurnState) -> None: ...

    @setting.agent.continuation("report")
    async def report(context: TurnContext, state: TurnState) -> None:
        await context.send_activity(Activity(type="typing"))
        await context.send_activity("Done")

    await setting.adapter.say(setting.agent, "hello")
    busy = ChannelError("busy", decision="throttled", status=429, retry_after=timedelta(seconds=5))
    setting.adapter.failures = [None, busy]
    await setting.callback(CALLBACK)
    await setting.later(timedelta(seconds=5))
    assert setting.adapter.texts == ["Done"]
    assert await setting.dead_letters() == []


async def test_p6_11_a_stream_in_a_long_running_turn_outlives_the_answer_to_its_channel() -> None:
    """The HTTP answer is given when the turn is on the queue; the stream is a worker's, however long it takes."""
    setting = Setting()

    @setting.agent.message("tell", long_running=True)
    async def tell(context: TurnContext, state: TurnState) -> None:
        async with context.streaming_response as stream:
            for word in ("One ", "two ", "three"):
                stream.queue_text_chunk(word)
                await setting.clock.sleep(timedelta(seconds=20))

    assert await setting.adapter.say(setting.agent, "tell") == []
    await setting.clock.run(setting.work())
    assert [activity.type for activity in setting.adapter.sent] == ["typing", "typing", "typing", "message"]
    assert setting.adapter.texts == ["One two three"]
