"""Which handler answers, what becomes of its answer, and what runs later."""

import logging
import re
from datetime import timedelta
from pathlib import Path

import pytest

from agent_core import Activity, ChannelAccount, InvokeResponse, Mention, TurnContext, TurnState
from agent_core.errors import RouteError
from tests.proactive.setting import Setting


def an_answering_agent() -> Setting:
    setting = Setting()
    agent = setting.agent

    @agent.members_added
    async def added(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("added")

    @agent.members_removed
    async def removed(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("removed")

    @agent.message("hello")
    async def hello(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("hello")

    @agent.message(re.compile(r"order (?P<what>\w+)"))
    async def order(context: TurnContext, state: TurnState) -> None:
        await context.send_activity(f"order of a {context.match['what']}")

    @agent.conversation_update("channelRenamed")
    async def renamed(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("renamed")

    @agent.command("application/vnd.contoso.order")
    async def commanded(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("command")

    @agent.event("happened")
    async def happened(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("event")

    @agent.installation
    async def installed(context: TurnContext, state: TurnState) -> None:
        await context.send_activity(f"installation {context.activity.action}")

    @agent.reaction
    async def reacted(context: TurnContext, state: TurnState) -> None:
        await context.send_activity(f"reaction {context.activity.reactions_added[0].type}")

    @agent.activity("endOfConversation")
    async def ended(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("ended")

    @agent.message()
    async def other(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("other")

    return setting


@pytest.mark.parametrize(
    ("activity_type", "fields", "answer"),
    [
        ("message", {"text": "hello"}, ["hello"]),
        ("message", {"text": "  HeLLo "}, ["hello"]),
        ("message", {"text": "hello there"}, ["other"]),
        ("message", {"text": "please order laptop now"}, ["order of a laptop"]),
        ("message", {}, ["other"]),
        ("conversationUpdate", {"members_added": [ChannelAccount(id="user")]}, ["added"]),
        ("conversationUpdate", {"members_added": [ChannelAccount(id="agent")]}, []),
        ("conversationUpdate", {"members_removed": [ChannelAccount(id="user")]}, ["removed"]),
        ("conversationUpdate", {"members_removed": [ChannelAccount(id="agent")]}, []),
        ("event", {"name": "happened"}, ["event"]),
        ("event", {"name": "Happened"}, []),
        ("installationUpdate", {"action": "add"}, ["installation add"]),
        ("messageReaction", {"reactions_added": [{"type": "like"}]}, ["reaction like"]),
        ("endOfConversation", {}, ["ended"]),
        ("conversationUpdate", {"channel_data": {"eventType": "channelRenamed"}}, ["renamed"]),
        ("conversationUpdate", {"channel_data": {"eventType": "teamRenamed"}}, []),
        ("conversationUpdate", {"channel_data": "channelRenamed"}, []),
        ("command", {"name": "application/vnd.contoso.order"}, ["command"]),
        ("command", {"name": "application/vnd.contoso.cancel"}, []),
        ("typing", {}, []),
        ("Message", {"text": "hello"}, []),
    ],
)
async def test_the_first_route_that_matches_answers(
    activity_type: str, fields: dict[str, object], answer: list[str]
) -> None:
    """P1.7, P1.11, section 1.3: types are compared exactly, unknown ones are passed over."""
    setting = an_answering_agent()
    await setting.adapter.process(setting.agent, setting.adapter.activity(activity_type, **fields))
    assert setting.adapter.texts == answer


async def test_the_agents_own_mention_does_not_stand_in_the_way() -> None:
    """P1.20: only the agent's own mention is taken out, ids compared in any case."""
    setting = an_answering_agent()
    mention = Mention(text="<at>Agent</at>", mentioned=ChannelAccount(id="agent"))
    activity = setting.adapter.activity(text="<at>Agent</at> hello", entities=[mention])
    await setting.adapter.process(setting.agent, activity)
    assert setting.adapter.texts == ["hello"]


async def test_what_nobody_handles_is_logged_with_the_decorator_that_would_have(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setting = Setting()
    expected = {
        "message": '@agent.message("…")',
        "event": "@agent.event('x')",
        "invoke": "@agent.invoke('x')",
        "typing": "@agent.activity('typing')",
        "command": "@agent.command('x')",
        "conversationUpdate": "@agent.conversation_update()",
        "messageReaction": "@agent.reaction",
        "installationUpdate": "@agent.installation",
    }
    for activity_type, advice in expected.items():
        caplog.clear()
        with caplog.at_level(logging.INFO, "agent_core"):
            activity = setting.adapter.activity(activity_type, text="secret", name="x")
            await setting.adapter.process(setting.agent, activity)
        assert advice in caplog.text
        assert "secret" not in caplog.text


async def test_an_invokes_answer_is_what_its_handler_returns() -> None:
    setting = Setting()

    @setting.agent.invoke("task/fetch")
    async def fetch(context: TurnContext, state: TurnState) -> dict[str, object]:
        return {"task": {"type": "message"}}

    @setting.agent.invoke("teapot")
    async def teapot(context: TurnContext, state: TurnState) -> InvokeResponse:
        return InvokeResponse(status=418)

    async def invoke(name: str) -> InvokeResponse | None:
        activity = setting.adapter.activity("invoke", name=name)
        return (await setting.adapter.process(setting.agent, activity)).invoke_response

    assert await invoke("task/fetch") == InvokeResponse(status=200, body={"task": {"type": "message"}})
    assert await invoke("teapot") == InvokeResponse(status=418)
    assert await invoke("unknown") is None


async def test_a_long_running_turn_runs_from_the_queue_and_once() -> None:
    setting = Setting()

    @setting.agent.message("report", long_running=True)
    async def report(context: TurnContext, state: TurnState) -> None:
        state.conversation["reports"] = state.conversation.get("reports", 0) + 1
        await context.send_activity(f"report {state.conversation['reports']}")

    activity = setting.adapter.activity(text="report")
    await setting.adapter.process(setting.agent, activity)
    assert setting.adapter.texts == []
    (message,) = setting.queue.take_due()
    await setting.agent.do_work(message)
    await setting.agent.do_work(message)
    assert setting.adapter.texts == ["report 1"]
    assert setting.adapter.sent[0].reply_to_id == activity.id


async def test_a_copy_of_a_long_running_message_is_queued_once() -> None:
    """P1.8: a channel that heard nothing for 15 seconds posts the same activity again, under the same ids."""
    setting = Setting()

    @setting.agent.message("report", long_running=True)
    async def report(context: TurnContext, state: TurnState) -> None: ...

    activity = setting.adapter.activity(text="report")
    for _ in range(3):
        await setting.adapter.process(setting.agent, activity)
    assert len(setting.queue.messages) == 1


async def test_a_failed_long_running_turn_that_said_nothing_is_tried_again() -> None:
    setting = Setting()
    failures = [RuntimeError("once")]

    @setting.agent.message("report", long_running=True)
    async def report(context: TurnContext, state: TurnState) -> None:
        if failures:
            raise failures.pop()
        await context.send_activity("report")

    await setting.adapter.say(setting.agent, "report")
    await setting.work()
    assert setting.adapter.texts == []
    await setting.later(timedelta(seconds=1))
    assert setting.adapter.texts == ["report"]


async def test_a_failing_error_handler_does_not_hide_the_error(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting()

    @setting.agent.message()
    async def fail(context: TurnContext, state: TurnState) -> None:
        raise KeyError("the real one")

    @setting.agent.error
    async def also_fails(context: TurnContext, error: Exception) -> None:
        raise RuntimeError("the second one")

    with pytest.raises(KeyError, match="the real one"):
        await setting.adapter.say(setting.agent, "x")
    assert "The @agent.error handler failed as well" in caplog.text


def test_there_is_one_error_handler() -> None:
    setting = Setting()

    @setting.agent.error
    async def first(context: TurnContext, error: Exception) -> None: ...

    with pytest.raises(RouteError):

        @setting.agent.error
        async def second(context: TurnContext, error: Exception) -> None: ...


async def test_a_decorated_handler_is_still_the_function_it_was() -> None:
    setting = Setting()

    @setting.agent.message("x")
    async def handler(context: TurnContext, state: TurnState) -> str:
        return "returned"

    context = TurnContext(setting.adapter, Activity(type="message"), now=setting.clock.now())
    assert await handler(context, TurnState()) == "returned"


def test_p1_32_an_invoke_is_never_put_off() -> None:
    setting = Setting()
    with pytest.raises(RouteError, match="HTTP response"):
        setting.agent.activity("invoke", long_running=True)


# https://learn.microsoft.com/microsoftteams/platform/bots/how-to/conversations/subscribe-to-conversation-events and the
# SDKs' own lists.
TEAMS_INVOKES = [
    "adaptiveCard/action",
    "actionableMessage/executeAction",
    "application/search",
    "composeExtension/query",
    "composeExtension/queryLink",
    "composeExtension/anonymousQueryLink",
    "composeExtension/selectItem",
    "composeExtension/submitAction",
    "composeExtension/fetchTask",
    "composeExtension/querySettingUrl",
    "composeExtension/setting",
    "composeExtension/onCardButtonClicked",
    "task/fetch",
    "task/submit",
    "tab/fetch",
    "tab/submit",
    "config/fetch",
    "config/submit",
    "fileConsent/invoke",
    "handoff/action",
    "message/submitAction",
    "message/fetchTask",
    "suggestedActions/submit",
    "cardExtension/token",
]


@pytest.mark.parametrize("name", TEAMS_INVOKES)
async def test_p1_33_every_invoke_of_teams_can_be_answered(name: str) -> None:
    setting = Setting()

    @setting.agent.invoke(name)
    async def answer(context: TurnContext, state: TurnState) -> dict[str, str]:
        return {"answered": context.activity.name or ""}

    context = await setting.adapter.process(setting.agent, setting.adapter.activity("invoke", name=name))
    assert context.invoke_response == InvokeResponse(status=200, body={"answered": name})


@pytest.mark.parametrize("name", ["signin/verifyState", "signin/tokenExchange", "signin/failure"])
def test_p1_33_the_invokes_of_signing_in_are_the_librarys(name: str) -> None:
    with pytest.raises(RouteError, match="user_token"):
        Setting().agent.invoke(name)


async def test_p1_12_an_installation_in_a_team_speaks_of_the_channel_that_was_chosen() -> None:
    setting = Setting()
    seen: list[tuple[str | None, str, str]] = []

    @setting.agent.installation
    async def installed(context: TurnContext, state: TurnState) -> None:
        team = context.activity.channel_data["team"]["id"]
        seen.append((context.activity.action, context.activity.conversation_id, team))

    payload = Path(__file__).parent / "payloads" / "teams_installed_in_channel.json"
    await setting.adapter.process(setting.agent, Activity.from_json(payload.read_bytes()))
    ((action, conversation, team),) = seen
    assert action == "add"
    assert conversation != team, "the General channel's id is the team's"


@pytest.mark.parametrize(
    ("payload", "conversation_type", "thread"),
    [("teams_message", "personal", False), ("teams_channel_message", "channel", True)],
)
def test_p1_13_a_channel_message_names_its_thread_in_the_conversations_id(
    payload: str, conversation_type: str, thread: bool
) -> None:
    activity = Activity.from_json((Path(__file__).parent / "payloads" / f"{payload}.json").read_bytes())
    assert activity.conversation is not None
    assert activity.conversation.conversation_type == conversation_type
    assert (";messageid=" in activity.conversation_id) is thread
