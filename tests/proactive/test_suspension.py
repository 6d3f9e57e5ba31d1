"""Where the agent was removed or blocked it does not speak, and what was pending there ends or is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent_core import Activity, TurnContext, TurnState
from agent_core.errors import ChannelError, ConversationNotFound, ConversationSuspended, StoreUnavailable
from agent_core.proactive.conversation import KEPT_FORGOTTEN
from agent_core.proactive.work import LADDER, WorkItem
from agent_core.store.document_store import CONVERSATIONS, SCHEDULES, USERS, DocumentStore, Where
from agent_core.store.memory_store import MemoryStore
from agent_core.store.sqlite_store import SqliteStore
from tests.proactive.setting import Setting

TEAM = {"team": {"id": "19:team@thread.tacv2"}}
BLOCKED = ChannelError("no", decision="blocked", status=403, code="ConversationBlockedByUser")
GONE = ChannelError("no", decision="gone", status=404, code="ConversationNotFound")

Open = Callable[[Callable[[], datetime]], DocumentStore]


@pytest.fixture(params=["memory", "sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if request.param == "memory":
        return MemoryStore
    return lambda now: SqliteStore(tmp_path / "documents.db", now)


@pytest.fixture
async def setting(open_store: Open) -> Any:
    """An agent that waits for a callback, in a conversation of one user in Teams."""
    setting = Setting("msteams", open_store=open_store)

    @setting.agent.message("order")
    async def order(context: TurnContext, state: TurnState) -> None:
        state.conversation["orders"] = 1
        await context.expect_callback("done")

    @setting.agent.continuation("done")
    async def done(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("Done")

    yield setting
    await setting.store.close()


async def tell(setting: Setting, kind: str, **fields: Any) -> None:
    """An activity comes in a second after the one before, and the work that it leaves is done."""
    await setting.clock.advance(timedelta(seconds=1))
    await setting.adapter.process(setting.agent, setting.adapter.activity(kind, **fields))
    await setting.work()


async def remove(setting: Setting, **fields: Any) -> None:
    await tell(setting, "installationUpdate", action="remove", **fields)


async def status(setting: Setting, conversation_id: str = "c1") -> tuple[str, str] | None:
    conversation = await setting.agent.conversations.get(conversation_id)
    return (conversation.status, conversation.reason) if conversation is not None else None


async def schedules(setting: Setting) -> list[str]:
    return sorted(document.body["status"] for document in (await setting.store.query(SCHEDULES)).documents)


async def expected(setting: Setting) -> int:
    page = await setting.store.query(CONVERSATIONS, where=[Where("kind", "=", "expected_callback")])
    return len(page.documents)


async def test_to_a_removed_agents_conversation_nothing_is_sent_unless_one_insists(setting: Setting) -> None:
    await tell(setting, "message", text="order")
    await remove(setting)
    with pytest.raises(ConversationSuspended) as raised:
        await setting.agent.proactive.send_activity("c1", "hello?")
    assert raised.value.reason == "uninstalled"
    assert raised.value.since == setting.clock.now()
    assert setting.adapter.sent == []
    await setting.agent.proactive.send_activity("c1", "hello!", even_if_suspended=True)
    assert setting.adapter.texts == ["hello!"]
    assert await status(setting) == ("suspended", "uninstalled"), "that it was taken does not mean that it was read"


async def test_a_removal_cancels_schedules_and_expected_callbacks_and_keeps_the_state(setting: Setting) -> None:
    await tell(setting, "message", text="order")
    at = setting.clock.now() + timedelta(days=1)
    await setting.agent.notifications.schedule("c1", at=at, activity="reminder")
    await tell(setting, "message", text="order", conversation={"id": "other"})
    await setting.agent.notifications.schedule("other", at=at, activity="reminder")
    assert await expected(setting) == 2
    await remove(setting)
    assert await schedules(setting) == ["cancelled", "scheduled"]
    assert await expected(setting) == 1
    await setting.later(timedelta(days=1))
    assert setting.adapter.texts == ["reminder"], "in the other one"
    assert await setting.dead_letters() == []
    await tell(setting, "installationUpdate", action="add")
    conversation = await setting.agent.conversations.get("c1")
    assert conversation is not None
    assert conversation.is_active
    assert conversation.state == {"orders": 1}


async def test_a_delivery_to_a_suspended_conversation_is_a_dead_letter_with_the_reason_and_no_post(
    setting: Setting,
) -> None:
    await tell(setting, "message", text="order")
    await setting.agent.notifications.schedule("c1", at=setting.clock.now() + timedelta(days=2), activity="reminder")
    await tell(setting, "conversationUpdate", channel_data={**TEAM, "eventType": "teamArchived"})
    assert await schedules(setting) == ["scheduled"], "it may be over by then"
    await setting.callback({"conversationId": "c1", "continuation": "done"})
    await setting.later(timedelta(days=2))
    letters = await setting.dead_letters()
    assert [letter.reason for letter in letters] == ["ConversationSuspended"] * 2
    assert all("teamArchived" in letter.explanation for letter in letters)
    assert setting.adapter.sent == []
    await setting.agent.notifications.schedule("c1", at=setting.clock.now() + timedelta(days=1), activity="later")
    await tell(setting, "conversationUpdate", channel_data={**TEAM, "eventType": "teamUnarchived"})
    await setting.later(timedelta(days=1))
    assert setting.adapter.texts == ["later"]


async def test_a_long_running_turn_that_comes_after_the_removal_is_not_run(setting: Setting) -> None:
    ran: list[str | None] = []

    @setting.agent.message("report", long_running=True)
    async def report(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("Here it is")

    @setting.agent.activity("installationUpdate", long_running=True)
    async def clean_up(context: TurnContext, state: TurnState) -> None:
        ran.append(context.activity.action)
        if len(ran) == 1:
            raise RuntimeError("not yet")

    await setting.adapter.say(setting.agent, "hello")
    sent_at = setting.clock.now().isoformat()
    asked = setting.adapter.activity(text="report", timestamp=sent_at)
    await setting.adapter.process(setting.agent, asked)
    (waiting,) = setting.queue.take_due()
    for _ in range(2):
        await remove(setting)
        await setting.later(timedelta(seconds=1))
    assert ran == ["remove"] * 3, "one failed and ran again; a later one tells the same"
    await setting.agent.do_work(waiting)
    (letter,) = await setting.dead_letters()
    assert (letter.what, letter.reason) == ("long-running turn", "ConversationSuspended")
    assert setting.adapter.sent == []


async def test_a_user_who_asks_to_be_forgotten_can_be_in_the_turn_that_asks(setting: Setting) -> None:
    """deleteUserData: the turn's own claim and conversation go too, and do not come back when it ends."""

    @setting.agent.activity("deleteUserData")
    async def forget(context: TurnContext, state: TurnState) -> None:
        await setting.agent.user_data.delete(channel_id="msteams", user_id="user")

    personal = {"id": "c1", "conversationType": "personal"}
    await tell(setting, "message", text="order", conversation=personal)
    await tell(setting, "deleteUserData", conversation=personal)
    for container in (CONVERSATIONS, USERS, SCHEDULES):
        assert (await setting.store.query(container)).documents == []


@pytest.mark.parametrize("through", ["send", "callback", "schedule"])
async def test_who_blocked_the_agent_is_left_alone_until_he_writes(setting: Setting, through: str) -> None:
    await tell(setting, "message", text="order")
    setting.adapter.failures = [BLOCKED]
    if through == "send":
        with pytest.raises(ChannelError):
            await setting.agent.proactive.send_activity("c1", "one")
    elif through == "callback":
        await setting.callback({"conversationId": "c1", "continuation": "done"})
    else:
        await setting.agent.notifications.schedule("c1", at=setting.clock.now(), activity="now")
        await setting.later(timedelta(0))
    assert await status(setting) == ("suspended", "ConversationBlockedByUser")
    with pytest.raises(ConversationSuspended, match="ConversationBlockedByUser"):
        await setting.agent.proactive.send_activity("c1", "two")
    await tell(setting, "message", text="I am back")
    assert await status(setting) == ("active", "")
    await setting.agent.proactive.send_activity("c1", "three")
    assert setting.adapter.texts == ["three"]


async def test_a_refusal_counts_although_the_handler_catches_it(setting: Setting) -> None:
    await tell(setting, "message", text="order")
    setting.adapter.failures = [BLOCKED]

    async def careless(context: TurnContext, state: TurnState) -> None:
        state.conversation["kept"] = True
        with pytest.raises(ChannelError):
            await context.send_activity("hello")

    await setting.agent.proactive.continue_conversation("c1", careless)
    conversation = await setting.agent.conversations.get("c1")
    assert conversation is not None
    assert (conversation.status, conversation.state["kept"]) == ("suspended", True)


async def test_a_refusal_elsewhere_does_not_suspend_the_conversation_whose_handler_met_it(setting: Setting) -> None:
    await tell(setting, "message", text="order")
    await tell(setting, "message", text="order", conversation={"id": "other"})
    setting.adapter.failures = [BLOCKED]

    async def broadcast(context: TurnContext, state: TurnState) -> None:
        await setting.agent.proactive.send_activity("other", "news")

    with pytest.raises(ChannelError):
        await setting.agent.proactive.continue_conversation("c1", broadcast)
    assert await status(setting) == ("active", "")
    assert await status(setting, "other") == ("suspended", "ConversationBlockedByUser")


async def test_a_handler_that_writes_to_a_suspended_conversation_elsewhere_has_failed_itself(setting: Setting) -> None:
    await tell(setting, "message", text="order")
    await tell(setting, "message", text="order", conversation={"id": "other"})
    await remove(setting, conversation={"id": "other"})

    @setting.agent.continuation("spread")
    async def spread(context: TurnContext, state: TurnState) -> None:
        await setting.agent.proactive.send_activity("other", "news")

    await setting.callback({"conversationId": "c1", "continuation": "spread"})
    for wait in LADDER:
        await setting.later(wait)
    (letter,) = await setting.dead_letters()
    assert letter.reason == "HandlerFailed"


async def test_a_conversation_that_the_channel_does_not_know_is_forgotten_with_all_that_was_pending(
    setting: Setting,
) -> None:
    await tell(setting, "message", text="order")
    await setting.agent.notifications.schedule("c1", at=setting.clock.now() + timedelta(days=1), activity="reminder")
    setting.adapter.failures = [GONE]
    with pytest.raises(ChannelError):
        await setting.agent.proactive.send_activity("c1", "hello?")
    await setting.work()
    assert await status(setting) is None
    assert await schedules(setting) == ["cancelled"]
    assert await expected(setting) == 0
    with pytest.raises(ConversationNotFound):
        await setting.agent.proactive.send_activity("c1", "hello?")
    await setting.callback({"conversationId": "c1", "continuation": "done"})
    for seconds in (1, 5):
        await setting.later(timedelta(seconds=seconds))
    (letter,) = await setting.dead_letters()
    assert letter.reason == "ConversationNotFound"
    await tell(setting, "message", text="order")
    conversation = await setting.agent.conversations.get("c1")
    assert conversation is not None
    assert conversation.is_active
    assert conversation.reference.user is not None


async def test_a_handle_to_a_forgotten_conversation_does_not_bring_it_back(setting: Setting) -> None:
    await tell(setting, "message", text="order")
    held = await setting.agent.conversations.get("c1")
    assert held is not None
    setting.adapter.failures = [GONE]
    with pytest.raises(ChannelError):
        await setting.agent.proactive.send_activity("c1", "hello?")
    with pytest.raises(ConversationNotFound):
        await setting.agent.proactive.send_activity(held, "hello?")
    assert await status(setting) is None
    await setting.clock.advance(KEPT_FORGOTTEN)
    assert (await setting.store.query(CONVERSATIONS, where=[Where("kind", "=", "conversation")])).documents == []


async def test_what_happens_to_a_team_happens_to_all_its_conversations(setting: Setting) -> None:
    """Each thread is a conversation; the event comes in the General channel only."""
    for thread in range(250):
        conversation = {"id": f"19:a@thread.tacv2;messageid={thread}", "conversationType": "channel"}
        activity = setting.adapter.activity(text="hi", conversation=conversation, channel_data=TEAM)
        await setting.adapter.process(setting.agent, activity)
    elsewhere = setting.adapter.activity(text="hi", conversation={"id": "19:b@thread.tacv2"})
    await setting.adapter.process(setting.agent, elsewhere)
    general = {"id": TEAM["team"]["id"], "conversationType": "channel"}
    thread_7 = "19:a@thread.tacv2;messageid=7"
    for event, expected_status, others in (
        ("teamDeleted", ("suspended", "teamDeleted"), 251),
        ("teamRestored", ("active", ""), 0),
        ("teamHardDeleted", None, 0),
    ):
        channel_data = {**TEAM, "eventType": event}
        await tell(setting, "conversationUpdate", conversation=general, channel_data=channel_data)
        assert await status(setting, thread_7) == expected_status
        which = await setting.store.query(CONVERSATIONS, where=[Where("status", "=", "suspended")], limit=1000)
        assert len(which.documents) == others
    assert await status(setting, "19:b@thread.tacv2") == ("active", "")
    assert await setting.agent.conversations.count() == 1


async def test_a_deleted_channel_silences_its_threads_and_no_others(setting: Setting) -> None:
    a, b = "19:a@thread.tacv2;messageid=1", "19:b@thread.tacv2;messageid=1"
    for conversation_id in (a, b):
        await tell(setting, "message", conversation={"id": conversation_id}, channel_data=TEAM)
    general = {"id": TEAM["team"]["id"], "conversationType": "channel"}
    data = {**TEAM, "channel": {"id": "19:a@thread.tacv2"}}
    await tell(
        setting, "conversationUpdate", conversation=general, channel_data={**data, "eventType": "channelDeleted"}
    )
    assert await status(setting, a) == ("suspended", "channelDeleted")
    assert await status(setting, b) == ("active", "")
    assert await status(setting, general["id"]) == ("active", "")
    await tell(
        setting, "conversationUpdate", conversation=general, channel_data={**data, "eventType": "channelRestored"}
    )
    assert await status(setting, a) == ("active", "")


async def test_an_installation_that_arrives_before_the_older_removal_wins(setting: Setting) -> None:
    await tell(setting, "message", text="order")
    start = setting.clock.now()
    await setting.agent.notifications.schedule("c1", at=start + timedelta(days=1), activity="reminder")
    later, earlier = (start + timedelta(seconds=seconds) for seconds in (20, 10))
    await setting.clock.advance(timedelta(minutes=1))
    await tell(setting, "installationUpdate", action="add", timestamp=later.isoformat())
    await remove(setting, timestamp=earlier.isoformat())
    assert await status(setting) == ("active", "")
    assert await schedules(setting) == ["scheduled"]


async def test_the_follow_up_of_a_removal_that_came_too_late_cancels_nothing(setting: Setting) -> None:
    """The message of the removal waits on the queue while the user installs the agent again."""
    await tell(setting, "message", text="order")
    await setting.clock.advance(timedelta(seconds=1))
    await setting.adapter.process(setting.agent, setting.adapter.activity("installationUpdate", action="remove"))
    (message,) = setting.queue.take_due()
    await tell(setting, "installationUpdate", action="add")
    await setting.agent.notifications.schedule("c1", at=setting.clock.now() + timedelta(days=1), activity="reminder")
    for _ in range(2):
        await setting.agent.do_work(message)
    assert await status(setting) == ("active", "")
    assert await schedules(setting) == ["scheduled"]


async def test_what_a_removal_leaves_to_do_is_on_the_queue_before_the_removal_is_written() -> None:
    """A death between the two loses nothing: the channel sends the activity again."""

    class Dying(MemoryStore):
        dying = False

        async def replace(self, *arguments: Any) -> Any:
            if self.dying:
                raise StoreUnavailable("dead")
            return await super().replace(*arguments)

    setting = Setting("msteams", open_store=Dying)
    assert isinstance(setting.store, Dying)
    await tell(setting, "message", text="order")
    setting.store.dying = True
    removal = setting.adapter.activity("installationUpdate", action="remove")
    await setting.clock.advance(timedelta(seconds=1))
    with pytest.raises(StoreUnavailable):
        await setting.adapter.process(setting.agent, removal)
    assert len(setting.queue.messages) == 1
    setting.store.dying = False
    await setting.work()
    assert await status(setting) == ("suspended", "uninstalled")


async def test_a_refusal_is_told_as_it_is_even_if_the_store_cannot_keep_it() -> None:
    """As a failure of the store it would be tried again, and the message sent again."""

    class Failing(MemoryStore):
        failing = False

        async def replace(self, container: Any, body: Any, etag: str) -> Any:
            if self.failing and body["kind"] == "conversation":
                raise StoreUnavailable("not reached")
            return await super().replace(container, body, etag)

    setting = Setting("msteams", open_store=Failing)
    assert isinstance(setting.store, Failing)
    await tell(setting, "message", text="order")
    setting.store.failing, setting.adapter.failures = True, [BLOCKED]
    with pytest.raises(ChannelError):
        await setting.agent.proactive.send_activity("c1", "hello")
    assert await status(setting) == ("active", "")


async def test_two_hosts_that_hear_of_it_at_once_agree(open_store: Open) -> None:
    """Both read the same version: the ETag lets one write, and the other decides again."""
    setting = Setting("msteams", open_store=open_store)
    await tell(setting, "message", text="order")
    start = setting.clock.now()
    await setting.clock.advance(timedelta(minutes=1))

    def at(second: int, action: str) -> Activity:
        sent = (start + timedelta(seconds=second)).isoformat()
        return setting.adapter.activity("installationUpdate", action=action, timestamp=sent)

    other = Setting("msteams", open_store=lambda now: setting.store)
    await other.clock.advance(timedelta(minutes=1, seconds=1))
    for first, second in ((10, 11), (31, 30)):
        await asyncio.gather(
            setting.adapter.process(setting.agent, at(first, "remove")),
            other.adapter.process(other.agent, at(second, "add").replace(id=f"other{first}")),
        )
        assert await status(setting) == ("active", "") if second > first else ("suspended", "uninstalled")
    await setting.store.close()


async def test_one_id_on_two_channels_is_two_lives(setting: Setting) -> None:
    await tell(setting, "message", text="order")
    await tell(setting, "message", text="order", channel_id="slack")
    await setting.agent.notifications.schedule(
        (await setting.agent.proactive.get_conversation("c1", "slack")) or "",
        at=setting.clock.now() + timedelta(days=1),
        activity="x",
    )
    await remove(setting)
    assert await expected(setting) == 1
    assert await schedules(setting) == ["scheduled"]
    slack = await setting.agent.conversations.get("c1", "slack")
    teams = await setting.agent.conversations.get("c1", "msteams")
    assert slack is not None
    assert teams is not None
    assert (slack.is_active, teams.is_active) == (True, False)


async def test_a_web_chat_conversation_expires_when_it_was_not_heard_of_for_long(open_store: Open) -> None:
    setting = Setting("webchat", open_store=open_store)
    await tell(setting, "message", text="hello")
    for _ in range(3):
        await setting.clock.advance(timedelta(days=15))
        await tell(setting, "message", text="still here")
    assert await status(setting) == ("active", "")
    await setting.clock.advance(timedelta(days=21))
    assert await status(setting) is None
    await setting.store.close()


async def test_what_a_turn_leaves_in_a_conversation_that_it_found_forgotten_or_deleted_is_not_kept(
    setting: Setting,
) -> None:
    await tell(setting, "message", text="order")

    async def speak_in_vain(context: TurnContext, state: TurnState) -> None:
        state.conversation["secret"] = True
        with pytest.raises(ChannelError):
            await context.send_activity("hello?")

    setting.adapter.failures = [GONE]
    await setting.agent.proactive.continue_conversation("c1", speak_in_vain)
    (document,) = (await setting.store.query(CONVERSATIONS, where=[Where("status", "=", "forgotten")])).documents
    assert document.body["state"] == {}
    late = {"conversation": "c1", "document": document.id, "state": {"secret": {"to": 1}}, "user": None, "mark": None}
    await setting.agent.do_work(WorkItem("save", "save:1", {**late, "userState": {}}).to_message())
    stored = await setting.store.read(CONVERSATIONS, "c1", document.id)
    assert stored == document

    await tell(setting, "message", text="order")

    async def delete(context: TurnContext, state: TurnState) -> None:
        state.conversation["secret"] = True
        assert await setting.agent.conversations.delete("c1")

    await setting.agent.proactive.continue_conversation("c1", delete)
    assert await status(setting) is None


async def test_an_edit_of_a_message_that_is_gone_says_nothing_about_the_conversation(setting: Setting) -> None:
    await tell(setting, "message", text="order")

    async def edit(context: TurnContext, state: TurnState) -> None:
        with pytest.raises(ChannelError):
            await context.update_activity(Activity(type="message", id="unknown", text="new"))

    await setting.agent.proactive.continue_conversation("c1", edit)
    assert await status(setting) == ("active", "")


async def test_a_removal_leaves_what_was_delivered_as_it_was(setting: Setting) -> None:
    await tell(setting, "message", text="order")
    await setting.agent.notifications.schedule("c1", at=setting.clock.now(), activity="now")
    await setting.later(timedelta(0))
    texts = list(setting.adapter.texts)
    await remove(setting)
    assert setting.adapter.texts == texts
    assert await setting.dead_letters() == []
