"""Two timer hosts, missed ticks, clocks ten minutes apart, failures and deaths between every two steps (issue 7, R9).

Whatever happens, each nominal time is decided about once: it is handed over, or dropped with a reason. What was handed
over has one record in the ledger and comes once. With AGENT_TESTS_LONG=1 in every order there is, else in some.
"""

import itertools
import os
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent_core.errors import StoreUnavailable
from agent_core.proactive.misfires import MisfirePolicy
from agent_core.proactive.recipients import UserRecipient
from agent_core.proactive.schedules import SHARDS, shard_of
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import SCHEDULES, Container, Page
from agent_core.store.memory_store import MemoryStore
from tests.faults.tick_world import FAULTS, Choose, World, every_way, some_ways
from tests.proactive.setting import Setting

LONG = bool(os.environ.get("AGENT_TESTS_LONG"))
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MISSED = {"a minute": MINUTE, "six hours": 6 * HOUR, "three days": 3 * DAY}
SKEWS = (timedelta(0), 10 * MINUTE, -10 * MINUTE)
POLICIES: tuple[MisfirePolicy, ...] = ("latest", "skip", "all")
# The clocks of Paris go back at 01:00 UTC, and forward at 01:00 UTC.
BACK = datetime(2026, 10, 25, 1, 0, tzinfo=UTC)
FORWARD = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)


def rules(missed: timedelta) -> dict[str, tuple[datetime, dict[str, Any]]]:
    """When it is, and what is scheduled then, so that some of it is due while nobody ticks, and some after that."""
    begin = FORWARD - missed / 2 - timedelta(seconds=30)
    every = {MINUTE: "* * * * *", 6 * HOUR: "0,30 0-4 * * *", 3 * DAY: "30 2,14 * * *"}[missed]
    ahead: dict[str, Any] = {"zone": "Europe/Paris", "until": begin + missed + max(2 * MINUTE, missed / 3)}
    start = BACK - missed / 2 - timedelta(seconds=30)
    return {
        "once": (begin, {"at": begin + timedelta(seconds=100)}),
        "interval": (begin, {"every": max(MINUTE, missed / 4), "until": ahead["until"]}),
        "forward": (begin, {"every": every, **ahead}),
        "back": (start, {"every": every, **ahead, "until": start + (ahead["until"] - begin)}),
    }


RULES = tuple(rules(MINUTE))


async def a_world(
    rule: str, missed: timedelta, skew: timedelta, policy: MisfirePolicy, folder: Path | None = None
) -> tuple[World, list[datetime]]:
    """Two hosts, and a schedule that nobody looked at for a while; with all its nominal times."""
    start, when = rules(missed)[rule]
    world = World(start, folder)
    first, _ = world.host(), world.host(skew)
    schedule = await world.schedule(first, **when, misfire=policy)
    assert schedule.next is not None
    nominal = schedule.recurrence.occurrences(min([*schedule.handed_over, schedule.next]), 1000)
    assert len(nominal) >= (1 if rule == "once" else 2)
    await world.clock.advance(missed)
    return world, nominal


async def ended(world: World, nominal: list[datetime]) -> None:
    """With a third host, which was not there: it comes to its end, and was right."""
    world.host()
    await world.finish()
    await world.check(nominal)
    await world.close()


CASES = [
    pytest.param(*case, id=" ".join(map(str, case)))
    for number, case in enumerate(itertools.product(RULES, MISSED, POLICIES))
    if LONG or number % 7 == 0
]


@pytest.mark.parametrize(("rule", "missed", "policy"), CASES)
async def test_whichever_step_of_a_tick_fails_or_is_the_last_each_time_comes_once_or_is_dropped(
    rule: str, missed: str, policy: MisfirePolicy
) -> None:
    """R9. Each step is not done, or done without an answer, or the host ends there; the other host ticks at once."""
    for skew in SKEWS:
        world, nominal = await a_world(rule, MISSED[missed], skew, policy)
        world.hosts[0].begin(world.hosts[0].tick())
        await world.interleave(lambda options: 0)
        steps = world.hosts[0].steps
        assert steps[:2] == ["query schedule", "claim"]
        assert "store schedule" in steps[2:4]
        await ended(world, nominal)
        for step, fault in itertools.product(range(len(steps)), FAULTS):
            world, nominal = await a_world(rule, MISSED[missed], skew, policy)
            host, other = world.hosts
            host.begin(host.tick())
            await host.settle()
            for _ in range(step):
                await host.step()
            await host.step(fault)
            await world.interleave(lambda options: 0)
            await other.tick()
            await ended(world, nominal)


async def _two_ticks(choose: Choose, policy: MisfirePolicy, skew: timedelta, faults: int) -> None:
    world, nominal = await a_world("interval", 6 * HOUR, skew, policy)
    for host in world.hosts:
        host.begin(host.tick())
    await world.interleave(choose, faults)
    await ended(world, nominal)


@pytest.mark.parametrize("policy", POLICIES if LONG else ["latest"])
@pytest.mark.parametrize("faults", [0, 1] if LONG else [0])
async def test_in_whatever_order_two_ticks_meet_each_time_comes_once_or_is_dropped(
    policy: MisfirePolicy, faults: int
) -> None:
    """R9. Every order of their steps; with one of the failures at each of the steps."""
    assert await every_way(partial(_two_ticks, policy=policy, skew=timedelta(0), faults=faults)) > 80


@pytest.mark.parametrize("skew", SKEWS, ids=str)
@pytest.mark.parametrize("faults", [0, 1, 2])
async def test_two_ticks_meet_with_clocks_apart_and_several_failures(skew: timedelta, faults: int) -> None:
    """R9. One whose clock is ahead finds what another one holds at once, and goes on with it."""
    for policy in POLICIES:
        run = partial(_two_ticks, policy=policy, skew=skew, faults=faults)
        await some_ways(run, 100 if LONG else 8, seed=faults)


@pytest.mark.parametrize("rule", RULES)
async def test_over_the_files_of_the_local_engine_it_is_the_same(tmp_path: Path, rule: str) -> None:
    """R9. The queue drops a message that it had within the hour, by the clock of whoever sends."""
    number = itertools.count()

    async def run(choose: Choose) -> None:
        missed, skew = tuple(MISSED.values())[choose(3)], SKEWS[choose(3)]
        folder = tmp_path / str(next(number))
        world, nominal = await a_world(rule, missed, skew, POLICIES[choose(3)], folder)
        for host in world.hosts:
            host.begin(host.tick())
        await world.interleave(choose, faults=2)
        await ended(world, nominal)

    await some_ways(run, 100 if LONG else 4, seed=RULES.index(rule))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("step", ["claim", "queue", "store schedule"])
async def test_what_fails_after_a_schedule_was_stored_is_not_told_to_whoever_made_it(step: str, fault: str) -> None:
    """It would be made again, and come twice. The timer brings what was not handed over."""
    world = World(FORWARD)
    host, _ = world.host(), world.host()
    at = FORWARD + MINUTE
    await host.adapter.say(host.agent, "hello")
    host.begin(host.agent.notifications.schedule("c1", at=at, continuation="say", value="old"))
    await host.settle()
    await host.step()
    for _ in range(["claim", "queue", "store schedule"].index(step)):
        await host.step()
    await host.step(fault)
    assert host.doing is not None
    if fault == "dead":
        stored = await world.observer.store.query(SCHEDULES)
        world.schedule_id = stored.documents[0].id
    else:
        assert isinstance(host.doing.result(), str), host.doing.result()
        world.schedule_id = host.doing.result()
    await ended(world, [at])


async def test_a_shard_that_fails_with_every_tick_does_not_hold_up_the_others() -> None:
    """R9. Six of sixteen shards are not reached: more than the timer works on at once."""
    broken = frozenset(SHARDS[:6])

    class BrokenShards(MemoryStore):
        async def query(self, container: Container, *, partition: str | None = None, **options: Any) -> Page:
            if partition in broken:
                raise StoreUnavailable("told to")
            return await super().query(container, partition=partition, **options)

    setting = Setting(open_store=BrokenShards)
    at = setting.clock.now() + HOUR
    made = [
        await setting.agent.notifications.schedule(UserRecipient(f"user{number}"), at=at, activity="x")
        for number in range(100)
    ]
    await setting.clock.advance(HOUR)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await setting.agent.notifications.send_due(setting.clock.now())
    handed_over = {WorkItem.from_message(message).payload["schedule"] for message in setting.queue.messages}
    assert handed_over == {each for each in made if shard_of(each) not in broken}
    assert 40 < len(handed_over) < 80


async def test_a_claim_of_a_long_tick_is_as_good_as_one_of_a_short_one() -> None:
    """Its lease begins with the claim: a tick a minute later leaves it alone."""
    world, nominal = await a_world("once", 6 * HOUR, timedelta(0), "latest")
    first, second = world.hosts
    began = first.clock.now()
    await world.clock.advance(timedelta(minutes=4))
    first.begin(first.agent.notifications.send_due(began))
    await first.settle()
    await first.step()
    await first.step()
    assert first.steps == ["query schedule", "claim"]
    await world.clock.advance(timedelta(seconds=50))
    assert await second.tick() == 0
    await world.interleave(lambda options: 0)
    await ended(world, nominal)
