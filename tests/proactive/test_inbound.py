"""An incoming activity is answered once, however often it is posted and whatever the store does meanwhile."""

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent_core import AgentApplication, TurnContext, TurnState
from agent_core.activity.activity import Activity
from agent_core.errors import Busy, NotSupported, StoreUnavailable
from agent_core.proactive.inbound import LEASE, PATIENCE
from agent_core.proactive.work import turn_payload
from agent_core.store.document_store import CONVERSATIONS, USERS, Where
from agent_core.store.memory_store import MemoryStore
from agent_core.store.sqlite_store import SqliteStore
from agent_core.testing import MemoryQueue, TestAdapter
from agent_core.turn.channel_adapter import Answer
from agent_core.turn.claims_identity import ClaimsIdentity
from tests.faulty_store import Fault, FaultyStore
from tests.proactive.setting import Setting


class Counting(Setting):
    """An agent that counts what it heard, over a store that can fail."""

    def __init__(self) -> None:
        self.faulty: FaultyStore
        super().__init__(wrap=self._wrap)
        self.runs = 0
        self.agent.message()(self.count)

    async def count(self, context: TurnContext, state: TurnState) -> None:
        """The handler of every message."""
        self.runs += 1
        state.conversation["count"] = state.conversation.get("count", 0) + 1
        state.user["count"] = state.user.get("count", 0) + 1
        await context.send_activity(f"{state.conversation['count']}")

    def _wrap(self, store: Any) -> Any:
        self.faulty = FaultyStore(store)
        return self.faulty.as_store()

    async def post(self, activity: Activity, agent: AgentApplication | None = None) -> Answer:
        """Post as a channel would: the answer is that of the turn, or of the copy before it."""
        agent = agent or self.agent
        context = TurnContext(
            self.adapter, activity, now=self.adapter.now(), callbacks=agent.callbacks, runtime=self.adapter
        )

        async def turn() -> Answer:
            await self.adapter.run_turn(context, agent.on_turn, agent.on_turn_error)
            response = context.invoke_response
            return Answer(response.status or 200, response.body) if response else Answer(202)

        return await agent.answer_once(context, turn)

    async def post_until_heard(self, activity: Activity) -> None:
        """Post it again and again, as a channel does while the answer is 503."""
        for _ in range(10):
            try:
                await self.clock.run(self.post(activity))
                return
            except (StoreUnavailable, Busy):
                await self.clock.advance(timedelta(seconds=15))
        raise AssertionError("the activity was never handled")

    async def state(self) -> tuple[Any, Any]:
        """What the conversation and the user count."""
        before = self.runs
        await self.adapter.process(self.agent, self.adapter.activity("typing"))
        assert self.runs == before
        conversation = await self.agent.proactive.get_conversation("c1")
        assert conversation is not None
        page = await self.store.query(USERS, where=[Where("kind", "=", "state")])
        return conversation.state.get("count"), page.documents[0].body["state"]["count"] if page.documents else None


async def settle() -> None:
    """Let everything go on that can."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
def setting() -> Counting:
    return Counting()


async def test_a_copy_of_an_answered_activity_runs_nothing_and_is_answered_the_same(setting: Counting) -> None:
    """P1.8, A2033."""

    @setting.agent.invoke("number")
    async def number(context: TurnContext, state: TurnState) -> dict[str, int]:
        setting.runs += 1
        return {"number": setting.runs}

    message, invoke = setting.adapter.activity(text="hi"), setting.adapter.activity("invoke", name="number")
    for activity in (message, invoke):
        first = await setting.post(activity)
        assert [await setting.post(activity) for _ in range(3)] == [first] * 3
    assert (await setting.post(invoke)).body == {"number": 2}
    assert (setting.runs, setting.adapter.texts) == (2, ["1"])


async def test_a_copy_that_comes_while_the_first_runs_waits_for_it_and_is_answered_the_same(setting: Counting) -> None:
    go_on = asyncio.Event()

    @setting.agent.invoke("slow")
    async def slow(context: TurnContext, state: TurnState) -> int:
        setting.runs += 1
        await go_on.wait()
        return setting.runs

    activity = setting.adapter.activity("invoke", name="slow")
    first = asyncio.create_task(setting.post(activity))
    await settle()
    copies = [asyncio.create_task(setting.post(activity)) for _ in range(3)]
    await settle()
    await setting.clock.advance(timedelta(seconds=3))
    assert setting.runs == 1
    go_on.set()
    await first
    await setting.clock.advance(timedelta(seconds=1))
    assert [(await copy).body for copy in copies] == [1, 1, 1]
    assert setting.runs == 1


async def test_a_copy_does_not_wait_longer_than_the_channel_does(setting: Counting) -> None:
    @setting.agent.event("slow")
    async def slow(context: TurnContext, state: TurnState) -> None:
        setting.runs += 1
        await setting.clock.sleep(timedelta(minutes=3))

    activity = setting.adapter.activity("event", name="slow")
    first = asyncio.create_task(setting.post(activity))
    await settle()
    await setting.clock.advance(timedelta(minutes=1))
    copy = asyncio.create_task(setting.post(activity))
    await settle()
    await setting.clock.advance(PATIENCE + timedelta(seconds=1))
    with pytest.raises(Busy):
        await copy
    # The lease of a turn that runs is renewed: nobody takes it over, however long it takes.
    await setting.clock.advance(timedelta(minutes=3))
    await settle()
    assert (await first).status == (await setting.post(activity)).status == 202
    assert setting.runs == 1


async def test_a_died_turn_is_taken_over_by_one_of_the_copies_when_its_lease_is_over(setting: Counting) -> None:
    never = asyncio.Event()

    @setting.agent.event("deadly")
    async def die(context: TurnContext, state: TurnState) -> None:
        setting.runs += 1
        if setting.runs == 1:
            await never.wait()

    activity = setting.adapter.activity("event", name="deadly")
    dying = asyncio.create_task(setting.post(activity))
    await settle()
    dying.cancel()
    await setting.clock.advance(LEASE - timedelta(seconds=2))
    assert setting.runs == 1
    copies = [asyncio.create_task(setting.post(activity)) for _ in range(2)]
    await settle()
    assert setting.runs == 1
    await setting.clock.advance(timedelta(seconds=4))
    await settle()
    await setting.clock.advance(timedelta(seconds=1))
    assert [(await copy).status for copy in copies] == [202, 202]
    assert setting.runs == 2


class _Middleware:
    def __init__(self, before: Callable[[TurnContext], Awaitable[None]]) -> None:
        self._before = before

    async def on_turn(self, context: TurnContext, logic: Callable[[], Awaitable[None]]) -> None:
        await self._before(context)
        await logic()


async def test_of_two_hosts_with_one_store_one_runs_the_turn(tmp_path: Path) -> None:
    setting = Counting()
    stores = [SqliteStore(tmp_path / "documents.db", setting.clock.now) for _ in range(2)]
    runs = []

    def agent(store: SqliteStore) -> AgentApplication:
        agent = AgentApplication(TestAdapter(setting.clock), store, MemoryQueue(setting.clock))

        @agent.message()
        async def run(context: TurnContext, state: TurnState) -> None:
            runs.append(context)

        return agent

    agents = [agent(store) for store in stores]
    for number in range(10):
        activity = setting.adapter.activity(text=str(number))
        tasks = [asyncio.create_task(setting.post(activity, each)) for each in agents * 2]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.001)  # the stores work in threads
            await setting.clock.advance(timedelta(milliseconds=500))
        assert {(await task).status for task in tasks} == {202}
    assert len(runs) == 10
    for store in stores:
        await store.close()


async def test_an_activity_that_failed_before_anything_was_said_can_be_tried_again_at_once(setting: Counting) -> None:
    failures = [StoreUnavailable("for a moment")]

    async def fail(_: TurnContext) -> None:
        if failures:
            raise failures.pop()

    setting.adapter.use(_Middleware(fail))
    activity = setting.adapter.activity(text="hi")
    with pytest.raises(StoreUnavailable):
        await setting.post(activity)
    assert (await setting.post(activity)).status == 202
    assert setting.adapter.texts == ["1"]


async def test_edits_of_one_message_and_activities_without_an_id_are_no_copies(setting: Counting) -> None:
    seen = []

    @setting.agent.activity("messageUpdate")
    async def edited(context: TurnContext, state: TurnState) -> None:
        seen.append(context.activity.text)

    for second in ("01", "02", "02"):
        edit = setting.adapter.activity(
            "messageUpdate", id="m1", text=second, timestamp=f"2026-01-05T12:00:{second}.0000000Z"
        )
        await setting.post(edit)
    assert seen == ["01", "02"]
    for _ in range(2):
        await setting.post(setting.adapter.activity(id=None, text="hi"))
    assert setting.runs == 2


async def test_each_edit_of_a_message_is_a_long_running_turn_of_its_own(setting: Counting) -> None:
    seen = []

    @setting.agent.activity("messageUpdate", long_running=True)
    async def edited(context: TurnContext, state: TurnState) -> None:
        seen.append(context.activity.text)

    for second in ("01", "02", "02"):
        timestamp = f"2026-01-05T12:00:{second}.0000000Z"
        edit = setting.adapter.activity("messageUpdate", id="m1", text=second, timestamp=timestamp)
        await setting.agent.defer(edit, ClaimsIdentity())
    while await setting.work():
        pass
    assert seen == ["01", "02"]


def test_what_a_turn_needs_later_is_kept_without_the_token_that_slack_sends_along() -> None:
    activity = Activity.from_dict({"type": "message", "channelData": {"ApiToken": "xoxb", "SlackMessage": {"a": 1}}})
    assert turn_payload(activity, ClaimsIdentity())["activity"]["channelData"] == {"SlackMessage": {"a": 1}}
    assert activity.channel_data == {"ApiToken": "xoxb", "SlackMessage": {"a": 1}}, "the turn itself still has it"


async def test_one_activity_id_in_two_conversations_or_on_two_channels_is_two_activities(setting: Counting) -> None:
    other = TestAdapter(setting.clock, "webchat")
    for activity in (
        setting.adapter.activity(id="1", text="a"),
        setting.adapter.activity(id="1", text="b", conversation={"id": "c2"}),
        other.activity(id="1", text="c"),
    ):
        await setting.post(activity)
    assert setting.runs == 3


async def test_a_hundred_turns_at_once_that_each_add_a_key_lose_none(setting: Counting) -> None:
    @setting.agent.event(re.compile("add .*"))
    async def add(context: TurnContext, state: TurnState) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        state.conversation[context.activity.name or ""] = True
        state.user[context.activity.name or ""] = True

    names = [f"add {number}" for number in range(100)]
    await asyncio.gather(*(setting.post(setting.adapter.activity("event", name=name)) for name in names))
    conversation = await setting.agent.proactive.get_conversation("c1")
    assert conversation is not None
    assert set(conversation.state) == set(names)
    user = (await setting.store.query(USERS, where=[Where("kind", "=", "state")])).documents[0]
    assert set(user.body["state"]) == set(names)


async def test_a_turn_costs_two_round_trips_and_nothing_for_what_did_not_change(setting: Counting) -> None:
    """The claim beside the reads, and one batch; the user's state is in another container and goes beside it."""

    @setting.agent.event("nothing")
    async def nothing(context: TurnContext, state: TurnState) -> None: ...

    costs = {}
    for name, activity in {
        "first contact": setting.adapter.activity(text="hi"),
        "state changes": setting.adapter.activity(text="hi"),
        "nothing changes": setting.adapter.activity("event", name="nothing"),
    }.items():
        setting.faulty.forget()
        await setting.post(activity)
        costs[name] = setting.faulty.calls.copy()
    opening = ["create", "read", "read"]
    assert sorted(costs["nothing changes"][:3]) == opening
    assert costs["nothing changes"][3:] == ["batch"]
    assert sorted(costs["state changes"][:3]) == opening
    assert sorted(costs["state changes"][3:]) == ["batch", "replace"]
    # A conversation that is new is stored before its handler starts anything: one round trip more.
    assert sorted(costs["first contact"][:3]) == opening
    assert costs["first contact"][3] == "create"
    assert sorted(costs["first contact"][4:]) == ["batch", "create"]
    assert all("query" not in calls for calls in costs.values())


@pytest.mark.parametrize("fault", ["refused", "lost", "once more"])
async def test_a_fault_at_any_store_call_of_a_turn_loses_and_doubles_nothing(fault: Fault) -> None:
    """The channel posts until it is not told 503; then the user has one answer, and the state counts one message."""
    for number in itertools.count(1):
        setting = Counting()
        await setting.post(setting.adapter.activity(text="before"))
        setting.faulty.forget()
        setting.faulty.faults[number] = fault
        await setting.post_until_heard(setting.adapter.activity(text="hi"))
        done = len(setting.faulty.calls) < number
        setting.faulty.forget()
        while await setting.work():
            pass
        assert setting.adapter.texts == ["1", "2"], (number, fault)
        assert await setting.state() == (2, 2), (number, fault)
        assert [each async for each in setting.agent.dead_letters.list()] == []
        if done:
            break
    assert number > 5


@pytest.mark.parametrize("fault", ["refused", "lost"])
async def test_two_faults_at_any_store_calls_of_a_turn_lose_and_double_nothing(fault: Fault) -> None:
    for first, gap in itertools.product(range(1, 9), range(1, 4)):
        setting = Counting()
        await setting.post(setting.adapter.activity(text="before"))
        setting.faulty.forget()
        setting.faulty.faults = {first: fault, first + gap: fault}
        await setting.post_until_heard(setting.adapter.activity(text="hi"))
        setting.faulty.forget()
        while await setting.work():
            pass
        assert setting.adapter.texts == ["1", "2"], (first, gap, fault)
        assert await setting.state() == (2, 2), (first, gap, fault)


async def test_state_that_cannot_be_saved_after_the_answer_waits_on_the_queue_and_never_undoes_newer_state(
    setting: Counting,
) -> None:
    @setting.agent.event("colour")
    async def colour(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("noted")
        state.conversation.update(context.activity.value)
        setting.faulty.down = context.activity.value.get("late", False)

    def event(**value: Any) -> Activity:
        return setting.adapter.activity("event", name="colour", value=value)

    await setting.post(event(colour="red", size=1))
    await setting.post(event(colour="green", size=2, late=True))
    setting.faulty.down = False
    await setting.post(event(colour="blue"))
    # The store fails once more when the late one comes; it is tried again.
    setting.faulty.down = True
    await setting.work()
    setting.faulty.down = False
    await setting.clock.advance(timedelta(seconds=1))
    await setting.work()
    conversation = await setting.agent.proactive.get_conversation("c1")
    assert conversation is not None
    assert conversation.state == {"colour": "blue", "size": 2, "late": True}


async def test_late_state_that_never_gets_into_the_store_ends_as_a_dead_letter(setting: Counting) -> None:
    await setting.post(setting.adapter.activity(text="before"))
    setting.faulty.calls.clear()
    setting.faulty.faults = dict.fromkeys(range(4, 200), "refused")
    await setting.post(setting.adapter.activity(text="hi"))
    for _ in range(6):
        assert await setting.work() == 1
        await setting.clock.advance(timedelta(hours=2))
    setting.faulty.faults = {len(setting.faulty.calls) + 1: "refused"}
    assert await setting.work() == 1
    (letter,) = await setting.dead_letters()
    assert (letter.what, letter.reason, letter.attempts) == ("state of a turn", "StoreUnavailable", 7)


async def test_a_turn_that_was_taken_over_while_it_stood_still_does_not_overwrite_what_came_after(
    setting: Counting,
) -> None:
    """Fencing: its process stood still for longer than the lease, and then goes on as if nothing had been."""
    store = MemoryStore(setting.clock.now)
    go_on, runs = asyncio.Event(), itertools.count(1)
    agent = AgentApplication(setting.adapter, store, setting.queue)

    @agent.event("slow")
    async def slow(context: TurnContext, state: TurnState) -> None:
        run = next(runs)
        if run == 1:
            await go_on.wait()
        state.conversation["run"] = run

    activity = setting.adapter.activity("event", name="slow")
    first = asyncio.create_task(setting.post(activity, agent))
    await settle()
    # It stands still: its lease is not renewed, though the time goes on.
    page = await store.query(CONVERSATIONS, partition="c1", where=[Where("kind", "=", "claim")])
    claim = page.documents[0]
    await store.replace(CONVERSATIONS, {**claim.body, "heldUntil": "2020-01-01T00:00:00.000000Z"}, claim.etag)
    assert (await setting.post(activity, agent)).status == 202
    go_on.set()
    assert (await first).status == 202
    conversation = await agent.proactive.get_conversation("c1")
    assert conversation is not None
    assert conversation.state == {"run": 2}


async def test_what_is_remembered_of_a_channels_user_is_not_shown_to_an_agent_that_names_him(setting: Counting) -> None:
    """A calling agent chooses channel and user id of what it sends; its users are its own."""
    parent = ClaimsIdentity({"ver": "2.0", "aud": "app", "azp": "parent"}, service_url_verified=True)
    await setting.post(setting.adapter.activity(text="hi"))
    seen = []

    @setting.agent.event("look")
    async def look(context: TurnContext, state: TurnState) -> None:
        seen.append(dict(state.user))
        with pytest.raises(NotSupported, match="signs them in itself"):
            await context.user_token("graph")

    activity = setting.adapter.activity("event", name="look", conversation={"id": "of the agent"})
    await setting.adapter.process(setting.agent, activity, parent)
    assert seen == [{}]
