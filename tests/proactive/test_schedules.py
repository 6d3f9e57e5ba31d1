"""What can be said about when and to whom, changed and looked at; nothing comes that was stopped or changed."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from agent_core import QuietHours, TurnContext, TurnState
from agent_core.activity.conversation_reference import ChannelAccount, ConversationParameters
from agent_core.errors import ChannelError, ContinuationNotFound, InvalidSchedule, QueueUnavailable
from agent_core.proactive.delivery_reports import DeliveryReports
from agent_core.proactive.queue import QueueMessage
from agent_core.proactive.recipients import ConversationRecipient, NewConversation, UserRecipient, recipient_from_dict
from agent_core.proactive.schedules import Schedule
from agent_core.store.document_store import SCHEDULES, time_text
from tests.proactive.setting import Setting

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# The clock of the tests begins on Monday, 5 January 2026, 12:00 UTC.
NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


def clock(*shown: int) -> datetime:
    """What a clock on a wall shows."""
    return datetime(*shown, tzinfo=UTC).replace(tzinfo=None)  # type: ignore[arg-type, misc]  # its numbers


async def a_setting(**user: Any) -> Setting:
    """An agent that knows one conversation, with a user."""
    setting = Setting()

    @setting.agent.continuation("look")
    async def look(context: TurnContext, state: TurnState) -> None:
        await context.send_activity(f"Looked at {context.activity.value}")

    activity = setting.adapter.activity(text="hello")
    if user:
        zone = user.pop("localTimezone", None)
        body = activity.to_dict()
        body["from"] = {**body["from"], **user}
        activity = type(activity).from_dict({**body, **({"localTimezone": zone} if zone else {})})
    await setting.adapter.process(setting.agent, activity)
    return setting


async def days(setting: Setting, count: int, step: timedelta = HOUR) -> None:
    """Time passes with a tick every so often."""
    for _ in range(count * DAY // step):
        await setting.later(step)


# --- when


async def test_a_cron_expression_goes_by_the_clock_in_its_zone() -> None:
    setting = await a_setting()
    seen: list[datetime] = []

    @setting.agent.continuation("note")
    async def note(context: TurnContext, state: TurnState) -> None:
        seen.append(context.now)

    await setting.agent.notifications.schedule("c1", every="30 9 * * MON-FRI", zone="Europe/Paris", continuation="note")
    await days(setting, 8)
    local = [moment.astimezone(ZoneInfo("Europe/Paris")) for moment in seen]
    assert [each.strftime("%a") for each in local] == ["Tue", "Wed", "Thu", "Fri", "Mon", "Tue"]
    assert {each.strftime("%H") for each in local} <= {"09", "10"}, "an hourly tick is late by less than an hour"


async def test_an_interval_begins_when_it_has_passed_once_and_ends_with_its_count() -> None:
    setting = await a_setting()
    await setting.agent.notifications.schedule("c1", every=timedelta(hours=2), count=3, activity="Drink.")
    await setting.later(timedelta(minutes=119))
    assert setting.adapter.texts == []
    await setting.later(MINUTE)
    assert setting.adapter.texts == ["Drink."]
    await days(setting, 2)
    assert setting.adapter.texts == ["Drink."] * 3


async def test_a_wall_clock_time_is_that_of_the_zone() -> None:
    setting = await a_setting()
    at = clock(2026, 1, 5, 15)
    await setting.agent.notifications.schedule("c1", at=at, zone="Asia/Tokyo", activity="Past in Tokyo, at once.")
    await setting.agent.notifications.schedule("c1", at=at, zone="Europe/Lisbon", activity="Three hours.")
    await setting.later(timedelta(0))
    assert setting.adapter.texts == ["Past in Tokyo, at once."]
    await setting.later(3 * HOUR)
    assert setting.adapter.texts == ["Past in Tokyo, at once.", "Three hours."]


async def test_a_wall_clock_time_without_a_zone_is_the_recipients_own() -> None:
    setting = await a_setting(aadObjectId="A-1", localTimezone="America/New_York")
    for to in ("c1", UserRecipient("a-1")):
        schedule_id = await setting.agent.notifications.schedule(to, at=clock(2026, 1, 5, 9), activity="Nine.")
        schedule = await setting.agent.notifications.get(schedule_id)
        assert schedule is not None
        assert schedule.next == datetime(2026, 1, 5, 14, 0, tzinfo=UTC)
        assert schedule.recurrence.zone == "America/New_York"


async def test_excluded_dates_and_an_end_are_kept() -> None:
    setting = await a_setting()
    await setting.agent.notifications.schedule(
        "c1",
        every="0 18 * * *",
        zone="UTC",
        until=clock(2026, 1, 8, 18),
        excluding=[date(2026, 1, 6)],
        activity="Evening.",
    )
    await days(setting, 7)
    assert setting.adapter.texts == ["Evening."] * 3


async def test_what_is_near_waits_on_the_queue_for_its_second_without_a_tick() -> None:
    setting = await a_setting()
    await setting.agent.notifications.schedule("c1", at=NOON + timedelta(seconds=42), activity="Now.")
    await setting.clock.advance(timedelta(seconds=41))
    assert await setting.work() == 0
    await setting.clock.advance(timedelta(seconds=1))
    assert await setting.work() == 1
    assert setting.adapter.texts == ["Now."]
    await days(setting, 1)
    assert setting.adapter.texts == ["Now."]


async def test_a_tick_puts_what_comes_before_the_next_one_on_the_queue() -> None:
    setting = await a_setting()
    await setting.agent.notifications.schedule("c1", at=NOON + timedelta(minutes=10, seconds=30), activity="Now.")
    await setting.later(timedelta(minutes=10))
    assert setting.adapter.texts == []
    await setting.clock.advance(timedelta(seconds=30))
    await setting.work()
    assert setting.adapter.texts == ["Now."]


async def test_a_queue_that_is_not_reached_leaves_it_to_the_timer() -> None:
    setting = await a_setting()

    async def refuse(messages: list[QueueMessage]) -> None:
        raise QueueUnavailable("down")

    send_many = setting.queue.send_many
    setting.queue.send_many = refuse  # type: ignore[method-assign, assignment]  # the queue of this test alone
    await setting.agent.notifications.schedule("c1", at=NOON, activity="Late.")
    setting.queue.send_many = send_many  # type: ignore[method-assign]
    for _ in range(3):
        await setting.later(MINUTE)
    assert setting.adapter.texts == ["Late."]


@pytest.mark.parametrize(
    ("misfire", "texts"), [("latest", 1), ("skip", 0), ("all", 5)], ids=["the newest", "none that is late", "all"]
)
async def test_a_missed_stretch_follows_its_policy(misfire: Any, texts: int) -> None:
    setting = await a_setting()
    schedule_id = await setting.agent.notifications.schedule("c1", every=HOUR, misfire=misfire, activity="Tick.")
    await setting.later(5 * HOUR + 30 * MINUTE)
    assert len(setting.adapter.texts) == texts
    schedule = await setting.agent.notifications.get(schedule_id)
    assert schedule is not None
    assert schedule.next == NOON + 6 * HOUR
    assert {each.reason for each in schedule.dropped} == {"latest": {"superseded"}, "skip": {"late"}, "all": set()}[
        misfire
    ]


async def test_what_expired_is_dropped_with_the_reason() -> None:
    setting = await a_setting()
    schedule_id = await setting.agent.notifications.schedule(
        "c1", at=NOON + HOUR, expires=timedelta(minutes=10), activity="Stale."
    )
    await setting.later(2 * HOUR)
    assert setting.adapter.texts == []
    schedule = await setting.agent.notifications.get(schedule_id)
    assert schedule is not None
    assert (schedule.status, [each.reason for each in schedule.dropped]) == ("done", ["expired"])


# --- to whom


async def test_a_user_is_spoken_to_where_the_agent_last_heard_of_the_user() -> None:
    setting = await a_setting(aadObjectId="A-1")
    await setting.clock.advance(MINUTE)
    await elsewhere(setting, "c2", aadObjectId="a-1")
    await setting.clock.advance(MINUTE)
    await elsewhere(setting, "group", group=True, aadObjectId="a-1")
    await setting.agent.notifications.schedule(UserRecipient("A-1"), every=HOUR, count=2, activity="Here?")
    await setting.later(HOUR)
    assert setting.adapter.sent[-1].conversation_id == "c2"
    await elsewhere(setting, "c1", aadObjectId="a-1")
    await setting.later(HOUR)
    assert setting.adapter.sent[-1].conversation_id == "c1", "the second occurrence looks anew"
    assert setting.adapter.texts == ["Here?", "Here?"]


async def test_an_occurrence_for_a_user_stays_with_the_conversation_it_found() -> None:
    """Delivered again after the user moved on, it is known to be done and not sent there as well."""
    setting = await a_setting(aadObjectId="A-1")
    await setting.agent.notifications.schedule(UserRecipient("a-1"), at=NOON, activity="Once.")
    (message,) = setting.queue.take_due()
    await setting.agent.do_work(message)
    await setting.clock.advance(MINUTE)
    await elsewhere(setting, "c2", aadObjectId="a-1")
    await setting.agent.do_work(message)
    assert [activity.conversation_id for activity in setting.adapter.sent] == ["c1"]


async def test_a_user_whom_nobody_knows_is_a_dead_letter_after_a_while() -> None:
    setting = await a_setting()
    await setting.agent.notifications.schedule(UserRecipient("nobody"), at=NOON, activity="Hello?")
    for _ in range(3):
        await setting.later(MINUTE)
    (letter,) = await setting.dead_letters()
    assert letter.reason == "ConversationNotFound"
    assert "nobody" in letter.explanation


async def test_a_conversation_is_created_when_it_is_due_and_once() -> None:
    setting = await a_setting()
    created = []
    create = setting.adapter.create_conversation

    async def counted(*arguments: Any) -> Any:
        answer = await create(*arguments)
        created.append(answer.id)
        return answer

    setting.adapter.create_conversation = counted  # type: ignore[method-assign, assignment]  # the adapter of this test alone
    await setting.agent.notifications.schedule(NEW, at=NOON, continuation="look", value=7)
    (message,) = setting.queue.take_due()
    await setting.agent.do_work(message)
    await setting.agent.do_work(message)
    (sent,) = setting.adapter.sent
    assert (sent.conversation_id, sent.text) == (created[0], "Looked at 7")
    assert len(created) == 1


async def test_a_thread_whose_creation_is_unclear_is_not_created_twice() -> None:
    setting = await a_setting()
    group = NewConversation("msteams", "https://smba.example/", ConversationParameters(is_group=True))
    await setting.agent.notifications.schedule(group, at=NOON, activity="News.")
    setting.adapter.failures = [ChannelError("no answer", decision="ambiguous")]
    await setting.later(timedelta(0))
    await setting.later(DAY)
    assert setting.adapter.sent == []
    (letter,) = await setting.dead_letters()
    assert letter.reason == "Unsure"


async def test_a_personal_conversation_whose_creation_is_unclear_is_asked_for_again() -> None:
    """Channels give the same conversation for the same user."""
    setting = await a_setting()
    await setting.agent.notifications.schedule(NEW, at=NOON, activity="News.")
    setting.adapter.failures = [ChannelError("no answer", decision="ambiguous")]
    await setting.later(timedelta(0))
    await setting.later(MINUTE)
    assert setting.adapter.texts == ["News."]
    assert await setting.dead_letters() == []


NEW = NewConversation(
    "msteams", "https://smba.example/", ConversationParameters(members=[ChannelAccount(id="29:u1")], tenant_id="t1")
)


async def elsewhere(setting: Setting, conversation: str, *, group: bool = False, **user: Any) -> None:
    """The user writes in another conversation."""
    body = setting.adapter.activity(text="hello").to_dict()
    body["conversation"] = {"id": conversation, "isGroup": group}
    body["from"] = {**body["from"], **user}
    body["id"] = f"in {conversation} {setting.clock.now()}"
    await setting.adapter.process(setting.agent, type(setting.adapter.activity(text="")).from_dict(body))


@pytest.mark.parametrize(
    "to",
    [
        ConversationRecipient("c1"),
        ConversationRecipient("c1", "msteams"),
        UserRecipient("A-1", tenant_id="t"),
        UserRecipient(channel_id="webchat", user_id="u1"),
        NEW,
    ],
    ids=str,
)
def test_a_recipient_comes_back_from_its_json(to: Any) -> None:
    assert recipient_from_dict(to.to_dict()) == to


@pytest.mark.parametrize(
    "to",
    [
        None,
        [],
        {},
        {"conversation": 7},
        {"conversation": ""},
        {"conversation": "c", "user": "u"},
        {"channelUser": "u"},
        {"user": None},
        {"channel": "msteams", "serviceUrl": "https://x/"},
        {"channel": "msteams", "serviceUrl": "https://x/", "parameters": []},
        {"channel": "msteams", "serviceUrl": "https://x/", "parameters": {"members": 7}},
        {"conversation": "c", "webhook": "https://x/"},
    ],
    ids=str,
)
def test_what_names_no_recipient_is_refused(to: Any) -> None:
    with pytest.raises(InvalidSchedule) as raised:
        recipient_from_dict(to)
    assert raised.value.field == "to"


async def test_a_turn_that_is_run_again_leaves_its_reminders_once() -> None:
    """A turn that failed, or died before it was settled, is run again; each of its calls is one reminder."""
    setting = await a_setting()
    failures = [True]

    @setting.agent.continuation("plan")
    async def plan(context: TurnContext, state: TurnState) -> None:
        for text in ("Tea.", "Cake."):
            await setting.agent.notifications.schedule(context, at=context.now + HOUR, activity=text)
        if failures:
            failures.pop()
            raise RuntimeError("It broke")

    await setting.callback({"conversationId": "c1", "continuation": "plan", "id": "7"})
    for _ in range(3):
        await setting.later(MINUTE)
    assert not failures
    assert len((await setting.store.query(SCHEDULES)).documents) == 2
    await setting.later(HOUR)
    assert set(setting.adapter.texts) == {"Cake.", "Tea."}
    assert len(setting.adapter.texts) == 2
    for context_to in ("c1", "c1"):
        await setting.agent.notifications.schedule(context_to, at=NOON, activity="Outside of a turn each is one.")
    await setting.later(timedelta(0))
    assert len(setting.adapter.texts) == 4


# --- changes


async def test_a_changed_schedule_stops_what_is_on_the_queue_and_comes_with_what_is_new() -> None:
    setting = await a_setting()
    schedule_id = await setting.agent.notifications.schedule("c1", at=NOON + MINUTE, activity="Old.")
    assert len(setting.queue.messages) == 1
    assert await setting.agent.notifications.update(schedule_id, activity="New.")
    await setting.later(MINUTE)
    assert setting.adapter.texts == ["New."]


async def test_a_moved_schedule_comes_at_its_new_time_only() -> None:
    setting = await a_setting()
    schedule_id = await setting.agent.notifications.schedule("c1", at=NOON + MINUTE, activity="Tea.")
    assert await setting.agent.notifications.update(schedule_id, at=NOON + HOUR)
    await setting.later(59 * MINUTE)
    assert setting.adapter.texts == []
    await setting.later(MINUTE)
    assert setting.adapter.texts == ["Tea."]


async def test_a_time_can_become_one_that_recurs_and_back() -> None:
    setting = await a_setting()
    notifications = setting.agent.notifications
    schedule_id = await notifications.schedule("c1", at=NOON + DAY, activity="Tea.")
    assert await notifications.update(schedule_id, every="0 * * * *", zone="UTC", count=2)
    assert await notifications.preview(schedule_id) == [NOON + HOUR], "the first one is on the queue"
    assert await notifications.update(schedule_id, until=NOON + 3 * HOUR)
    assert len(await notifications.preview(schedule_id)) == 3, "'until' takes the place of 'count'"
    assert await notifications.update(schedule_id, at=NOON + 2 * HOUR)
    assert await notifications.preview(schedule_id) == [NOON + 2 * HOUR]


async def test_what_was_delivered_is_not_delivered_again_by_a_change() -> None:
    setting = await a_setting()
    notifications = setting.agent.notifications
    schedule_id = await notifications.schedule("c1", at=NOON, activity="Once.")
    await setting.later(timedelta(0))
    assert not await notifications.update(schedule_id, activity="Twice?")
    assert not await notifications.cancel(schedule_id)
    assert not await notifications.pause(schedule_id)
    await setting.later(DAY)
    assert setting.adapter.texts == ["Once."]
    assert await notifications.update(schedule_id, at=NOON + 2 * DAY), "a new time is another occurrence"
    await setting.later(2 * DAY)
    assert setting.adapter.texts == ["Once.", "Once."]


async def test_a_paused_schedule_is_silent_and_goes_on_with_its_next_time() -> None:
    setting = await a_setting()
    notifications = setting.agent.notifications
    schedule_id = await notifications.schedule("c1", every=HOUR, activity="Tick.")
    await setting.later(HOUR)
    assert await notifications.pause(schedule_id)
    assert not await notifications.pause(schedule_id)
    await setting.later(5 * HOUR + 30 * MINUTE)
    assert setting.adapter.texts == ["Tick."]
    assert await notifications.preview(schedule_id) == []
    assert await notifications.resume(schedule_id)
    assert not await notifications.resume(schedule_id)
    await setting.later(29 * MINUTE)
    assert setting.adapter.texts == ["Tick."], "what was missed meanwhile is not made up for"
    await setting.later(MINUTE)
    assert setting.adapter.texts == ["Tick.", "Tick."]


async def test_a_single_time_that_passed_while_it_was_paused_comes_late() -> None:
    setting = await a_setting()
    notifications = setting.agent.notifications
    schedule_id = await notifications.schedule("c1", at=NOON + MINUTE, activity="Tea.")
    assert await notifications.pause(schedule_id), "although it is on the queue"
    await setting.later(HOUR)
    assert setting.adapter.texts == []
    assert await notifications.resume(schedule_id)
    await setting.later(timedelta(0))
    assert setting.adapter.texts == ["Tea."]


async def test_a_cancelled_schedule_never_comes_and_cannot_be_changed() -> None:
    setting = await a_setting()
    notifications = setting.agent.notifications
    schedule_id = await notifications.schedule("c1", every=HOUR, activity="Tick.")
    assert await notifications.cancel(schedule_id)
    assert not await notifications.cancel(schedule_id)
    assert not await notifications.resume(schedule_id)
    assert not await notifications.update(schedule_id, activity="Tock.")
    await days(setting, 1)
    assert setting.adapter.texts == []


@pytest.mark.parametrize("unknown", ["", "no such", "00-", "00-unknown", "99-x", "00-a/b", "00-\ud800"])
async def test_of_a_schedule_that_is_unknown_everything_says_so(unknown: str) -> None:
    setting = await a_setting()
    notifications = setting.agent.notifications
    assert await notifications.get(unknown) is None
    assert not await notifications.cancel(unknown)
    assert not await notifications.pause(unknown)
    assert not await notifications.resume(unknown)
    assert not await notifications.update(unknown, activity="x")
    assert await notifications.preview(unknown) == []


async def test_schedules_are_listed_by_recipient_tag_and_status() -> None:
    setting = await a_setting(aadObjectId="A-1")
    notifications = setting.agent.notifications
    mine = await notifications.schedule("c1", at=NOON + DAY, activity="1", tag="tea")
    users = await notifications.schedule(UserRecipient("A-1"), at=NOON + DAY, activity="2", tag="tea")
    new = await notifications.schedule(NEW, at=NOON + DAY, activity="3")
    await notifications.pause(users)
    await setting.agent.proactive.continue_later("c1", "look", delay=DAY * 2)

    async def ids(*to: Any, **which: Any) -> set[str]:
        return {schedule.id async for schedule in notifications.list(*to, **which)}

    assert await ids() == {mine, users, new}, "what a turn left for itself is no notification"
    assert await ids("c1") == {mine}
    assert await ids(UserRecipient("a-1")) == {users}
    assert await ids(NEW) == {new}
    assert await ids(tag="tea") == {mine, users}
    assert await ids(tag="tea", status="paused") == {users}


async def test_the_erasure_of_a_user_takes_the_users_schedules() -> None:
    setting = await a_setting(aadObjectId="A-1")
    notifications = setting.agent.notifications
    await notifications.schedule(UserRecipient("A-1"), at=NOON + DAY, activity="2")
    await notifications.schedule("c1", at=NOON + DAY, activity="2")
    report = await setting.agent.user_data.delete("a-1")
    assert report.deleted["schedule"] == 2
    assert [schedule async for schedule in notifications.list()] == []


# --- what cannot be


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "naive without a zone": ({"at": clock(2026, 1, 6)}, "at"),
    "unknown zone": ({"at": clock(2026, 1, 6), "zone": "Europe/Atlantis"}, "zone"),
    "cron without a zone": ({"every": "0 9 * * *"}, "zone"),
    "cron that never fires": ({"every": "0 0 30 2 *", "zone": "UTC"}, "every"),
    "no cron": ({"every": "every day", "zone": "UTC"}, "every"),
    "no duration": ({"every": "PT"}, "every"),
    "seconds": ({"every": timedelta(seconds=59)}, "every"),
    "both": ({"at": NOON, "every": HOUR}, "at"),
    "neither": ({}, "at"),
    "ended": ({"every": HOUR, "until": NOON - DAY, "start": NOON - 2 * DAY}, "until"),
    "too many": ({"every": HOUR, "count": 10_001}, "count"),
    "none": ({"every": HOUR, "count": 0}, "count"),
    "too late": ({"at": datetime(9999, 1, 1, tzinfo=UTC)}, "at"),
    "a text": ({"at": "tomorrow"}, "at"),
    "excluded times": ({"every": HOUR, "excluding": [NOON]}, "excluding"),
    "no content": ({"at": NOON, "activity": None}, "activity"),
    "both contents": ({"at": NOON, "continuation": "look"}, "activity"),
    "a value without continuation": ({"at": NOON, "value": 1}, "value"),
    "no JSON": ({"at": NOON, "activity": None, "continuation": "look", "value": {1}}, "value"),
    "not a number": ({"at": NOON, "activity": None, "continuation": "look", "value": float("nan")}, "value"),
    "too large": ({"at": NOON, "activity": "x" * 100_000}, "activity"),
    "no policy": ({"at": NOON, "misfire": "never"}, "misfire"),
    "a negative grace": ({"at": NOON, "grace": timedelta(minutes=-1)}, "grace"),
    "no grace": ({"at": NOON, "grace": 5}, "grace"),
    "expired before": ({"at": NOON, "expires": timedelta(0)}, "expires"),
    "urgent": ({"at": NOON, "urgent": "yes"}, "urgent"),
    "tag": ({"at": NOON, "tag": ""}, "tag"),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_cannot_be_names_its_field_and_nothing_is_stored(name: str) -> None:
    setting = await a_setting()
    said, field = BAD[name]
    with pytest.raises(InvalidSchedule) as raised:
        await setting.agent.notifications.schedule("c1", **{"activity": "Tea.", **said})
    assert raised.value.field == field
    assert (await setting.store.query(SCHEDULES)).documents == []
    good = await setting.agent.notifications.schedule("c1", every=HOUR, activity="Tea.")
    before = (await setting.store.query(SCHEDULES)).documents
    if field not in ("activity", "value") and said:
        with pytest.raises(InvalidSchedule):
            await setting.agent.notifications.update(good, **said)
        assert (await setting.store.query(SCHEDULES)).documents == before


@pytest.mark.parametrize("limit", [0, -1, 10_001, True, 1.5])
async def test_a_preview_of_too_many_is_refused(limit: Any) -> None:
    setting = await a_setting()
    with pytest.raises(InvalidSchedule) as raised:
        await setting.agent.notifications.preview("00-any", limit)
    assert raised.value.field == "limit"


async def test_a_continuation_that_nobody_registered_is_refused() -> None:
    setting = await a_setting()
    with pytest.raises(ContinuationNotFound):
        await setting.agent.notifications.schedule("c1", at=NOON, continuation="nobody")
    assert (await setting.store.query(SCHEDULES)).documents == []


async def test_a_schedule_whose_zone_is_no_more_holds_no_other_up() -> None:
    """Zone data changes: a stored name may be none any more."""
    setting = await a_setting()
    broken = await setting.agent.notifications.schedule("c1", every="0 13 * * *", zone="UTC", activity="Never.")
    await setting.agent.notifications.schedule("c1", at=NOON + HOUR, activity="Tea.")
    stored = await setting.store.read(SCHEDULES, broken[:2], broken)
    assert stored is not None
    gone = {**stored.body["recurrence"], "zone": "Europe/Atlantis"}
    await setting.store.replace(SCHEDULES, {**stored.body, "recurrence": gone}, stored.etag)
    await setting.later(HOUR)
    assert setting.adapter.texts == ["Tea."]
    (letter,) = await setting.dead_letters()
    assert (letter.reason, letter.key) == ("InvalidSchedule", f"schedule:{broken}")
    await setting.later(HOUR)
    assert len(await setting.dead_letters()) == 1


async def test_a_schedule_comes_back_from_its_document() -> None:
    setting = await a_setting()
    schedule_id = await setting.agent.notifications.schedule(
        UserRecipient("a"), every="0 9 L * *", zone="Europe/Paris", expires="PT2H", grace="PT0S", urgent=True, tag="t",
        continuation="look", value={"a": [1, None]},
    )  # fmt: skip
    schedule = await setting.agent.notifications.get(schedule_id)
    assert schedule is not None
    assert schedule.stored is not None
    assert Schedule.from_document(schedule.stored) == schedule
    assert schedule.to_document() == schedule.stored.body


async def test_a_tick_ends_when_its_time_is_over_and_the_next_one_goes_on() -> None:
    setting = await a_setting()
    for number in range(300):
        await setting.agent.notifications.schedule("c1", at=NOON + HOUR, activity=f"{number}")
    await setting.clock.advance(HOUR)
    notifications, clock = setting.agent.notifications, setting.clock
    send_many = setting.queue.send_many

    async def slow(messages: list[QueueMessage]) -> None:
        await clock.advance(timedelta(seconds=30))
        await send_many(messages)

    setting.queue.send_many = slow  # type: ignore[method-assign, assignment]  # the queue of this test alone
    assert await notifications.send_due(clock.now(), until=clock.now() + timedelta(seconds=45)) == 200
    assert await notifications.send_due(clock.now(), until=clock.now() + timedelta(seconds=45)) == 100
    assert len(setting.queue.messages) == 300


# --- asked afterwards


async def test_an_occurrence_explains_itself_whatever_became_of_it() -> None:
    """`deliveries show KEY`: also what no worker ever had."""
    setting = await a_setting()
    notifications = setting.agent.notifications
    schedule_id = await notifications.schedule("c1", every=HOUR, activity="Tick.")
    reports = DeliveryReports(setting.store, setting.clock.now)

    async def told(due: datetime, generation: int = 1) -> tuple[str, str]:
        [report] = await reports.find(f"schedule:{schedule_id}:{generation}:{time_text(due)}")
        return report.status, report.why

    assert (await told(NOON + HOUR))[0] == "scheduled"
    await setting.clock.advance(3 * HOUR)
    await notifications.send_due(setting.clock.now())
    assert await told(NOON + 3 * HOUR) == ("queued", "on the work queue: no worker has begun with it")
    status, why = await told(NOON + HOUR)
    assert (status, "a newer one" in why) == ("dropped", True)
    await setting.work()
    assert await told(NOON + 3 * HOUR) == ("sent", "sent: nothing was in its way")
    assert await notifications.update(schedule_id, activity="Tock.")
    assert await told(NOON + 4 * HOUR) == ("dropped", "dropped because its schedule was changed since")
    await notifications.cancel(schedule_id)
    assert await told(NOON + 4 * HOUR, 3) == ("dropped", "dropped because its schedule is cancelled")
    for unknown in ("schedule:", "schedule:00-x:1:", f"schedule:00-x:1:{time_text(NOON)}"):
        assert await reports.find(unknown) == []


async def test_what_was_stopped_while_it_waited_in_line_does_not_come() -> None:
    setting = await a_setting()
    notifications = setting.agent.notifications
    schedule_id = await notifications.schedule("c1", at=NOON, activity="Tea.")
    (message,) = setting.queue.take_due()
    await notifications.cancel(schedule_id)
    await setting.agent.do_work(message)
    assert setting.adapter.texts == []


async def test_a_notification_that_is_held_for_long_finds_its_schedule_still() -> None:
    """A single time is done when it is handed over, and forgotten two weeks later: not if something of it waits."""
    setting = await a_setting()
    holidays = {date(2026, 1, 5) + day * DAY for day in range(60)}
    await setting.agent.notifications.set_quiet_hours("c1", QuietHours("UTC", holidays=holidays))
    await setting.agent.notifications.schedule("c1", at=NOON, activity="Tea.")
    for _ in range(61):
        await setting.later(DAY)
    assert setting.adapter.texts == ["Tea."]


async def test_what_was_begun_to_be_sent_and_is_stopped_then_is_reported_and_not_dropped() -> None:
    """A worker died while it sent; before the occurrence comes again, somebody cancels its schedule."""
    setting = await a_setting()
    schedule_id = await setting.agent.notifications.schedule("c1", at=NOON, activity="Tea.")
    (message,) = setting.queue.take_due()

    class Death(BaseException):
        pass

    async def die(*arguments: Any) -> Any:
        raise Death

    send = setting.adapter.send_activities
    setting.adapter.send_activities = die  # type: ignore[method-assign, assignment]  # the adapter of this test alone
    with pytest.raises(Death):
        await setting.agent.do_work(message)
    setting.adapter.send_activities = send  # type: ignore[method-assign]
    assert await setting.agent.notifications.cancel(schedule_id)
    await setting.clock.advance(MINUTE)
    await setting.agent.do_work(message)
    for _ in range(3):
        await setting.later(MINUTE)
    assert setting.adapter.texts == []
    (letter,) = await setting.dead_letters()
    assert letter.reason == "Unsure"


async def test_a_schedule_that_another_version_wrote_holds_no_other_up() -> None:
    setting = await a_setting()
    foreign = await setting.agent.notifications.schedule("c1", at=NOON + HOUR, activity="Never.")
    await setting.agent.notifications.schedule("c1", at=NOON + HOUR, activity="Tea.")
    stored = await setting.store.read(SCHEDULES, foreign[:2], foreign)
    assert stored is not None
    await setting.store.replace(SCHEDULES, {**stored.body, "to": {"planet": "Mars"}, "misfires": None}, stored.etag)
    await setting.later(HOUR)
    assert setting.adapter.texts == ["Tea."]
    assert [letter.key for letter in await setting.dead_letters()] == [f"schedule:{foreign}"]
