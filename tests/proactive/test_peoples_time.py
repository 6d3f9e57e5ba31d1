"""Quiet hours, working days, limits a day and opting out, as they hold for deliveries (6.9, issue 7)."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent_core import AgentApplication, QuietHours, TurnContext, TurnState
from agent_core.activity.conversation_reference import ChannelAccount, ConversationAccount
from agent_core.errors import ChannelError, ConversationNotFound, QueueUnavailable, StoreUnavailable
from agent_core.proactive.conversation import user_partition
from agent_core.proactive.delivery_gate import MAX_HELD, OVERDUE, Notice, NotWanted
from agent_core.proactive.delivery_reports import DeliveryReport, DeliveryReports
from agent_core.proactive.queue import QueueMessage
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import CONVERSATIONS, USERS, DocumentStore, id_for
from agent_core.store.memory_store import MemoryStore
from agent_core.store.sqlite_store import SqliteStore
from tests.faulty_store import Fault, FaultyStore
from tests.proactive.setting import Setting

PARIS = "Europe/Paris"
NIGHT = QuietHours(PARIS, time(20, 0), time(8, 0))
EVERYTHING = timedelta(minutes=1)


@pytest.fixture(params=["memory", "sqlite"])
async def open_store(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Callable[[Callable[[], datetime]], DocumentStore]]:
    opened: list[DocumentStore] = []

    def open_it(now: Callable[[], datetime]) -> DocumentStore:
        opened.append(
            MemoryStore(now) if request.param == "memory" else SqliteStore(tmp_path / "documents.db", now=now)
        )
        return opened[-1]

    yield open_it
    for store in opened:
        await store.close()


class People(Setting):
    """An agent that was spoken to, by one user who is alone with it."""

    def __init__(self, rule: QuietHours | None = None, **fields: Any) -> None:
        super().__init__(quiet_hours=rule, **fields)
        self.rule = rule

    async def begin(self, at: str | None = None, zone: str | None = None, **fields: Any) -> "People":
        """It is this time, and the user has said hello; on a channel that tells his zone, if it is given."""
        if at is not None:
            await self.clock.advance(datetime.fromisoformat(at).replace(tzinfo=UTC) - self.clock.now())
        changes = {"local_timezone": zone} if zone else {}
        await self.adapter.process(self.agent, self.adapter.activity(text="hello", **changes, **fields))
        return self

    async def notify(self, text: str, **fields: Any) -> str:
        """A system publishes a notification, and what it brings at once is done; returns the delivery's key."""
        await self.publish(text, **fields)
        await self.until_idle()
        return f"callback:{text}"

    async def publish(self, text: str, **fields: Any) -> None:
        body = {"type": "agent.notification.v1", "conversationId": "c1", "id": text, "text": text, **fields}
        await self.callback(body, text)

    async def until_idle(self) -> None:
        while await self.work():
            pass

    async def until(self, at: str) -> None:
        """It gets that late; what is due then is done, and what waits for a moment."""
        await self.clock.advance(datetime.fromisoformat(at).replace(tzinfo=UTC) - self.clock.now())
        await self.settle(EVERYTHING)

    async def settle(self, delta: timedelta) -> None:
        """Time passes second by second, and the work that is due is done."""
        for _ in range(round(delta.total_seconds())):
            await self.until_idle()
            await self.clock.advance(timedelta(seconds=1))

    async def report(self, key: str) -> DeliveryReport:
        (report,) = await DeliveryReports(self.store, self.clock.now).find(key)
        return report

    def another_worker(self) -> AgentApplication:
        """The same agent in another process: nothing in memory is shared."""
        numbers = itertools.count(1)
        return AgentApplication(
            self.adapter, self.store, self.queue, quiet_hours=self.rule, new_id=lambda: f"other{next(numbers)}"
        )


# -- quiet hours


async def test_a_notification_waits_for_the_end_of_the_quiet_hours_and_says_so(
    open_store: Callable[[Callable[[], datetime]], DocumentStore],
) -> None:
    """6.9: app's rule; nothing is lost, nothing counts as an attempt."""
    agent = await People(NIGHT, open_store=open_store).begin("2026-01-06T21:00")
    key = await agent.notify("Good evening")
    assert agent.adapter.texts == []
    report = await agent.report(key)
    expected = "held until 2026-01-07 07:00 UTC because quiet hours 20:00-08:00 Europe/Paris"
    assert (report.status, report.why, report.attempts) == ("held", expected, 1)
    assert report.until == datetime(2026, 1, 7, 7, 0, tzinfo=UTC)
    await agent.until("2026-01-07T06:59:00")
    assert agent.adapter.texts == []
    await agent.until("2026-01-07T07:00:00")
    assert agent.adapter.texts == ["Good evening"]
    report = await agent.report(key)
    assert (report.status, report.why, report.attempts) == ("sent", "sent: nothing was in its way", 1)
    assert (report.until, report.urgent, len(report.messages)) == (None, False, 1)


async def test_the_apps_rule_goes_by_the_clock_of_a_recipient_whose_channel_tells_his_zone() -> None:
    agent = await People(NIGHT).begin("2026-01-06T21:00", zone="America/New_York")  # 16:00 there
    await agent.notify("Good afternoon")
    assert agent.adapter.texts == ["Good afternoon"]
    await agent.until("2026-01-07T12:00")  # 07:00 there, 13:00 in Paris
    await agent.notify("Good morning")
    assert agent.adapter.texts == ["Good afternoon"]
    await agent.until("2026-01-07T13:00")
    assert agent.adapter.texts == ["Good afternoon", "Good morning"]


async def test_in_a_group_nobodys_clock_is_that_of_all() -> None:
    group = ConversationAccount(id="c1", conversation_type="groupChat")
    agent = await People(NIGHT).begin("2026-01-06T21:00", zone="America/New_York", conversation=group)
    key = await agent.notify("Good evening")
    assert (await agent.report(key)).until == datetime(2026, 1, 7, 7, 0, tzinfo=UTC)


async def test_a_zone_that_is_none_breaks_no_delivery(caplog: pytest.LogCaptureFixture) -> None:
    """Neither one that a channel tells, nor one that was taken out of the zone data since it was stored."""
    agent = await People(NIGHT).begin("2026-01-06T21:00", zone="W. Europe Standard Time")
    await agent.agent.notifications.set_quiet_hours("c1", NIGHT)
    stored = await agent.store.read(USERS, user_partition("emulator", "user"), "preferences")
    assert stored is not None
    removed = {**stored.body, "quietHours": {**NIGHT.to_dict(), "zone": "Europe/Atlantis"}}
    await agent.store.replace(USERS, removed, stored.etag)
    key = await agent.notify("Good evening")
    assert "quiet hours 20:00-08:00 Europe/Paris" in (await agent.report(key)).why, "the app's rule, in its own zone"
    assert "Europe/Atlantis" in caplog.text
    await agent.agent.notifications.mute("c1")
    stored = await agent.store.read(USERS, user_partition("emulator", "user"), "preferences")
    assert stored is not None
    assert stored.body["quietHours"]["zone"] == "Europe/Atlantis", "what cannot be read is not thrown away"
    await agent.agent.notifications.unmute("c1")
    await agent.until("2026-01-07T07:00")
    assert agent.adapter.texts == ["Good evening"]


async def test_a_recipients_own_quiet_hours_hold_beside_the_apps() -> None:
    agent = await People(NIGHT).begin("2026-01-05T12:00")
    noon = QuietHours(PARIS, time(12, 0), time(14, 0), days=["mon", "tue"])
    await agent.agent.notifications.set_quiet_hours("c1", noon)
    assert (await agent.agent.notifications.preferences("c1")).quiet_hours == noon
    await agent.notify("1")
    await agent.until("2026-01-05T13:00")
    assert agent.adapter.texts == ["1"]
    await agent.until("2026-01-06T19:00")
    key = await agent.notify("2")
    assert (await agent.report(key)).until == datetime(2026, 1, 12, 7, 0, tzinfo=UTC), "Monday, when both allow it"
    await agent.agent.notifications.set_quiet_hours("c1", None)
    await agent.until("2026-01-12T07:00")
    assert agent.adapter.texts == ["1", "2"]


async def test_a_night_is_an_hour_shorter_when_the_clocks_are_put_forward() -> None:
    """DST: 08:00 in Paris is 06:00 UTC on 29 March 2026, and 07:00 on the day before."""
    agent = await People(NIGHT).begin("2026-03-28T22:00")
    await agent.notify("Good night")
    await agent.until("2026-03-29T05:58")
    assert agent.adapter.texts == []
    await agent.until("2026-03-29T06:00")
    assert agent.adapter.texts == ["Good night"]


async def test_a_hold_of_months_outlives_what_the_ledger_keeps_otherwise() -> None:
    """The record is there when the time comes: its key still tells a duplicate from new work."""
    summer = {day.date() for day in (datetime(2026, 1, 5, tzinfo=UTC) + timedelta(days=n) for n in range(200))}
    agent = await People(QuietHours("UTC", holidays=summer)).begin()
    key = await agent.notify("See you")
    assert (await agent.report(key)).until == datetime(2026, 7, 24, tzinfo=UTC)
    await agent.until("2026-07-23T12:00")
    assert (await agent.report(key)).status == "held"
    await agent.until("2026-07-24T00:00")
    assert agent.adapter.texts == ["See you"]
    await agent.publish("See you")
    await agent.until_idle()
    assert agent.adapter.texts == ["See you"]


async def test_an_urgent_notification_passes_quiet_hours_and_is_marked() -> None:
    agent = await People(NIGHT).begin("2026-01-06T21:00")
    await agent.notify("later")
    key = await agent.notify("Fire!", urgent=True)
    assert agent.adapter.texts == ["Fire!"]
    report = await agent.report(key)
    assert report.urgent
    assert report.why == "sent because it is urgent, in spite of quiet hours 20:00-08:00 Europe/Paris"


async def test_answers_and_what_the_agent_says_itself_are_held_back_by_nothing() -> None:
    """Quiet hours and opt-outs are about notifications: who asked wants the answer."""
    agent = await People(NIGHT).begin("2026-01-06T21:00")

    @agent.agent.continuation("done")
    async def done(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("Done")

    await agent.agent.notifications.mute("c1")
    await agent.callback({"conversationId": "c1", "continuation": "done"})
    await agent.agent.proactive.send_activity("c1", "By the way")
    assert agent.adapter.texts == ["Done", "By the way"]


# -- opting out


async def test_who_opted_out_gets_nothing_not_even_what_is_urgent_and_a_duplicate_changes_nothing() -> None:
    agent = await People().begin()
    await agent.agent.notifications.mute("c1")
    await agent.agent.notifications.mute("c1")
    assert (await agent.agent.notifications.preferences("c1")).muted == agent.clock.now()
    keys = [await agent.notify("news"), await agent.notify("Fire!", urgent=True)]
    for key in keys:
        report = await agent.report(key)
        assert (report.status, report.why) == ("dropped", "dropped because the recipient opted out")
    await agent.agent.notifications.unmute("c1")
    await agent.notify("news")
    await agent.notify("more news")
    assert agent.adapter.texts == ["more news"]
    assert await agent.dead_letters() == []


async def test_an_opt_out_between_hold_and_release_counts() -> None:
    agent = await People(NIGHT).begin("2026-01-06T21:00")
    key = await agent.notify("Good evening")
    await agent.agent.notifications.mute("c1")
    await agent.until("2026-01-07T07:00")
    assert agent.adapter.texts == []
    assert (await agent.report(key)).status == "dropped"
    assert not (await agent.agent.notifications.preferences("c1")).held


async def test_a_turn_opts_its_user_out_in_all_his_conversations_with_the_agent_and_a_group_as_a_whole() -> None:
    setting = People(channel_id="msteams")

    @setting.agent.message("/mute")
    async def mute(context: TurnContext, state: TurnState) -> None:
        await setting.agent.notifications.mute(context.conversation)

    async def say(text: str, conversation: str, kind: str, user: str) -> None:
        account = ConversationAccount(id=conversation, conversation_type=kind)
        sender = ChannelAccount(id=user, aad_object_id=f"AAD-{user}")
        await setting.adapter.process(
            setting.agent, setting.adapter.activity(text=text, conversation=account, from_property=sender)
        )

    await say("hello", "p2", "personal", "ada")
    await say("/mute", "p1", "personal", "ada")
    await say("hello", "g1", "groupChat", "ada")
    await say("/mute", "g2", "groupChat", "ada")
    await say("hello", "g2", "groupChat", "bob")
    for conversation in ("p1", "p2", "g1", "g2"):
        await setting.notify(conversation, conversationId=conversation)
    assert setting.adapter.texts == ["g1"]
    with pytest.raises(ConversationNotFound):
        await setting.agent.notifications.mute("unknown")


async def test_erasing_a_user_deletes_his_preferences_and_leaves_those_of_groups() -> None:
    setting = People(channel_id="msteams")
    for conversation, kind in (("p1", "personal"), ("g1", "groupChat")):
        account = ConversationAccount(id=conversation, conversation_type=kind)
        user = ChannelAccount(id="ada", aad_object_id="AAD")
        await setting.adapter.process(
            setting.agent, setting.adapter.activity(text="hello", conversation=account, from_property=user)
        )
        await setting.agent.notifications.mute(conversation)
    await setting.agent.conversations.delete("p1")  # nothing leads to the user but the id in his documents
    report = await setting.agent.user_data.delete("aad")
    assert report.deleted["preferences"] == 1
    assert (await setting.store.query(USERS)).documents == []
    assert await setting.store.read(CONVERSATIONS, "g1", id_for("preferences", "msteams")) is not None


async def test_two_changes_of_preferences_at_once_are_both_kept() -> None:
    agent = await People().begin()
    notifications = agent.agent.notifications
    await asyncio.gather(notifications.mute("c1"), notifications.set_quiet_hours("c1", NIGHT))
    found = await notifications.preferences("c1")
    assert (found.muted, found.quiet_hours) == (agent.clock.now(), NIGHT)


# -- how many a day


async def test_no_more_come_on_a_local_day_than_the_limit_and_the_rest_on_the_days_after() -> None:
    agent = await People(QuietHours(PARIS, a_day=2)).begin("2026-01-06T12:00")
    for number in range(5):
        await agent.notify(f"{number}")
        await agent.settle(timedelta(seconds=1))
    assert agent.adapter.texts == ["0", "1"]
    expected = "held until 2026-01-06 23:00 UTC because 2 came on 2026-01-06, and 2 a day is the limit"
    assert (await agent.report("callback:4")).why == expected
    await agent.notify("urgent", urgent=True)
    assert agent.adapter.texts == ["0", "1", "urgent"]
    await agent.until("2026-01-06T23:00")
    assert agent.adapter.texts == ["0", "1", "urgent", "2", "3"]
    await agent.until("2026-01-07T23:00")
    assert agent.adapter.texts == ["0", "1", "urgent", "2", "3", "4"]


async def test_a_notification_that_is_tried_again_takes_no_second_place() -> None:
    agent = await People(QuietHours(PARIS, a_day=2)).begin()
    agent.adapter.failures = [ChannelError("Not reached", decision="unsent", status=None)] * 3
    await agent.notify("1")
    await agent.settle(EVERYTHING)
    await agent.settle(timedelta(minutes=2))
    await agent.notify("2")
    await agent.notify("3")
    assert agent.adapter.texts == ["1", "2"]


@pytest.mark.parametrize("known", [False, True])
async def test_of_two_workers_at_once_one_gets_the_last_place_of_the_day(
    open_store: Callable[[Callable[[], datetime]], DocumentStore], known: bool
) -> None:
    """In two conversations of one user, so that nothing but the place stands between them."""
    agent = await People(QuietHours(PARIS, a_day=1), open_store=open_store).begin()
    await agent.begin(conversation=ConversationAccount(id="c2"))
    if known:
        await agent.agent.notifications.unmute("c1")
    other = agent.another_worker()
    for conversation in ("c1", "c2"):
        body = {"type": "agent.notification.v1", "conversationId": conversation, "text": conversation}
        agent.queue.messages.append(WorkItem("callback", "callback:1", {"body": body}, scope=conversation).to_message())
    first, second = agent.queue.take_due()
    await asyncio.gather(agent.agent.do_work(first), other.do_work(second))
    assert len(agent.adapter.texts) == 1
    reports = await DeliveryReports(agent.store, agent.clock.now).find("callback:1")
    assert sorted(report.status for report in reports) == ["held", "sent"]


# -- in order


async def test_what_waited_comes_in_order_and_before_what_is_newer_whoever_is_first_at_the_queue(
    open_store: Callable[[Callable[[], datetime]], DocumentStore],
) -> None:
    """Two workers, and the queue hands the held ones over the other way round."""
    agent = await People(NIGHT, open_store=open_store).begin("2026-01-06T21:00")
    other = agent.another_worker()
    for number in range(6):
        await agent.notify(f"{number}")
        await agent.clock.advance(timedelta(minutes=1))
    await agent.clock.advance(datetime(2026, 1, 7, 7, 0, tzinfo=UTC) - agent.clock.now())
    due = agent.queue.take_due()
    assert len(due) == 6
    await agent.publish("newer")
    turned = due[::-1]
    for pair in zip(turned[::2], turned[1::2], strict=True):
        await asyncio.gather(*(worker.do_work(each) for worker, each in zip((agent.agent, other), pair, strict=True)))
    await agent.settle(EVERYTHING)
    assert agent.adapter.texts == ["0", "1", "2", "3", "4", "5", "newer"]
    assert not (await agent.agent.notifications.preferences("c1")).held


async def test_the_nominal_time_counts_and_not_who_was_held_first() -> None:
    """An occurrence brings its nominal time; it may have come to the queue late."""
    agent = await People(NIGHT).begin("2026-01-06T21:00")
    now = agent.clock.now()
    for name, nominal in (("second", now), ("first", now - timedelta(hours=1))):
        await deliver(agent, name, Notice(nominal))
    held = (await agent.agent.notifications.preferences("c1")).held
    assert sorted(each.nominal for each in held.values()) == [now - timedelta(hours=1), now]
    await agent.clock.advance(timedelta(hours=10))
    await deliver(agent, "second", Notice(now))
    await deliver(agent, "first", Notice(now - timedelta(hours=1)))
    await agent.clock.advance(timedelta(seconds=1))
    await deliver(agent, "second", Notice(now))
    assert agent.adapter.texts == ["first", "second"]


async def test_one_that_never_comes_holds_up_those_after_it_for_minutes_only() -> None:
    agent = await People(NIGHT).begin("2026-01-06T21:00")
    await agent.notify("lost")
    await agent.clock.advance(timedelta(seconds=1))
    await agent.notify("kept")
    agent.queue.messages = agent.queue.messages[1:]
    await agent.until("2026-01-07T07:00")
    assert agent.adapter.texts == []
    await agent.settle(OVERDUE)
    assert agent.adapter.texts == ["kept"]


async def test_one_that_fails_for_good_holds_up_nobody() -> None:
    agent = await People(NIGHT).begin("2026-01-06T21:00")
    await agent.notify("refused")
    await agent.clock.advance(timedelta(seconds=1))
    await agent.notify("kept")
    agent.adapter.failures = [ChannelError("No", decision="rejected", status=400)]
    await agent.clock.advance(datetime(2026, 1, 7, 7, 0, tzinfo=UTC) - agent.clock.now())
    await agent.settle(timedelta(seconds=3))
    assert agent.adapter.texts == ["kept"]
    report = await agent.report("callback:refused")
    assert (report.status, report.dead_letter is not None) == ("dead", True)


async def test_after_quiet_hours_were_taken_back_new_ones_do_not_wait_for_those_held() -> None:
    agent = await People().begin("2026-01-06T21:00")
    await agent.agent.notifications.set_quiet_hours("c1", NIGHT)
    await agent.notify("held")
    await agent.clock.advance(timedelta(seconds=1))
    await agent.agent.notifications.set_quiet_hours("c1", None)
    await agent.notify("new")
    assert agent.adapter.texts == ["new"]
    await agent.until("2026-01-07T07:00")
    assert agent.adapter.texts == ["new", "held"]


async def test_only_so_many_are_known_to_wait_and_all_of_them_come() -> None:
    agent = await People(NIGHT).begin("2026-01-06T21:00")
    for number in range(MAX_HELD + 5):
        await agent.notify(f"{number}")
        await agent.clock.advance(timedelta(seconds=1))
    assert len((await agent.agent.notifications.preferences("c1")).held) == MAX_HELD
    await agent.until("2026-01-07T07:00")
    assert sorted(agent.adapter.texts, key=lambda text: int(text or 0)) == [f"{n}" for n in range(MAX_HELD + 5)]


async def test_a_duplicate_of_what_was_sent_neither_waits_nor_is_listed() -> None:
    agent = await People(NIGHT).begin("2026-01-06T12:00")
    await agent.notify("lunch")
    await agent.until("2026-01-06T21:00")
    await agent.notify("lunch")
    assert (await agent.report("callback:lunch")).status == "sent"
    assert agent.queue.messages == []
    assert not (await agent.agent.notifications.preferences("c1")).held


# -- faults


@pytest.mark.parametrize("fault", ["refused", "lost"])
async def test_a_store_that_fails_once_anywhere_while_a_notification_is_held_loses_and_doubles_nothing(
    fault: Fault,
) -> None:
    """Each of the calls in turn; what the queue was not told is done comes from it again."""
    calls = await _hold_with_a_fault_at(None, fault)
    assert calls > 5
    for number in range(1, calls + 1):
        await _hold_with_a_fault_at(number, fault)


async def _hold_with_a_fault_at(number: int | None, fault: Fault) -> int:
    faulty: list[FaultyStore] = []

    def wrap(store: DocumentStore) -> DocumentStore:
        faulty.append(FaultyStore(store))
        return faulty[0].as_store()

    agent = await People(NIGHT, wrap=wrap).begin("2026-01-06T21:00")
    (store,) = faulty
    store.forget()
    if number is not None:
        store.faults[number] = fault
    try:
        await agent.notify("once")
    except StoreUnavailable:
        await agent.notify("once")
    calls = len(store.calls)
    store.forget()
    await agent.settle(EVERYTHING)
    await agent.clock.advance(timedelta(seconds=1))
    await agent.notify("after")
    assert (agent.adapter.texts, len(agent.queue.messages)) == ([], 2), number
    await agent.until("2026-01-07T07:00")
    assert agent.adapter.texts == ["once", "after"], number
    assert await agent.dead_letters() == []
    return calls


async def test_that_it_went_need_not_be_kept_for_those_after_it_to_come() -> None:
    """The last write of all fails, and the message is out: it is not sent again, and holds nobody up for long."""

    async def released(fails: int | None) -> tuple[People, int]:
        faulty: list[FaultyStore] = []

        def wrap(store: DocumentStore) -> DocumentStore:
            faulty.append(FaultyStore(store))
            return faulty[0].as_store()

        agent = await People(NIGHT, wrap=wrap).begin("2026-01-06T21:00")
        await agent.notify("once")
        await agent.clock.advance(timedelta(hours=10))
        faulty[0].forget()
        if fails is not None:
            faulty[0].faults[fails] = "refused"
        await agent.until_idle()
        return agent, len(faulty[0].calls)

    agent, calls = await released(None)
    assert not (await agent.agent.notifications.preferences("c1")).held
    agent, _ = await released(calls)
    assert (await agent.agent.notifications.preferences("c1")).held
    await agent.notify("after")
    assert (agent.adapter.texts, agent.queue.messages[0].subject) == (["once"], "callback")
    await agent.settle(OVERDUE + EVERYTHING)
    assert agent.adapter.texts == ["once", "after"]


async def test_a_queue_that_fails_while_a_notification_is_held_is_told_again() -> None:
    agent = await People(NIGHT).begin("2026-01-06T21:00")
    send, failures = agent.queue.send, [QueueUnavailable("told to")]

    async def fail_once(message: QueueMessage) -> None:
        if failures:
            raise failures.pop()
        await send(message)

    agent.queue.send = fail_once  # type: ignore[method-assign]  # the queue's own copy of the fault
    with pytest.raises(QueueUnavailable):
        await agent.notify("once")
    await agent.notify("once")
    await agent.until("2026-01-07T07:00")
    assert agent.adapter.texts == ["once"]


# -- what the parts promise


async def deliver(
    agent: People, key: str, notice: Notice | None, find: Callable[[], Any] | None = None, attempt: int = 1
) -> bool:
    async def found() -> Any:
        return await agent.agent.conversations.get("c1")

    async def run(delivery: Any) -> None:
        async def say(context: TurnContext, state: TurnState) -> None:
            await context.send_activity(key)

        await agent.agent.proactive.continue_conversation(delivery.conversation, say, prepare=delivery.watch)

    item = WorkItem("occurrence", key, {}, attempt)
    deliveries = agent.agent._deliveries  # what schedules call, too
    return await deliveries.deliver(item, "c1", find or found, run, what="occurrence 'say'", notice=notice)


async def test_one_that_expires_while_it_waits_is_dropped() -> None:
    agent = await People(NIGHT).begin("2026-01-06T21:00")
    in_time = agent.clock.now() + timedelta(hours=11)
    assert not await deliver(agent, "short", Notice(expires_at=agent.clock.now() + timedelta(hours=1)))
    assert "it would be held until" in (await agent.report("short")).why
    assert not await deliver(agent, "long", Notice(expires_at=in_time))
    assert (await agent.report("long")).status == "held"
    await agent.clock.advance(timedelta(hours=11))
    assert not await deliver(agent, "long", Notice(expires_at=in_time))
    report = await agent.report("long")
    assert (report.status, report.why) == ("dropped", "dropped because it expired at 2026-01-07 08:00 UTC")
    assert agent.adapter.texts == []
    assert not (await agent.agent.notifications.preferences("c1")).held


async def test_what_finds_that_it_is_not_wanted_any_more_ends_with_its_reason() -> None:
    """For a schedule that was cancelled while its occurrence was on the queue."""
    agent = await People().begin()

    async def cancelled() -> Any:
        raise NotWanted("dropped because the schedule was cancelled")

    assert not await deliver(agent, "o1", Notice(), cancelled)
    report = await agent.report("o1")
    assert (report.status, report.why) == ("dropped", "dropped because the schedule was cancelled")
    assert await deliver(agent, "o2", Notice())
    assert not await deliver(agent, "o2", Notice(), cancelled)
    assert (await agent.report("o2")).status == "sent"


async def test_a_notification_to_somebody_without_preferences_writes_none() -> None:
    agent = await People(NIGHT).begin("2026-01-06T12:00")
    await agent.notify("lunch")
    assert agent.adapter.texts == ["lunch"]
    assert (await agent.store.query(USERS)).documents == []
