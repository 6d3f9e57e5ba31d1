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

from agent_core.proactive.misfires import MisfirePolicy
from tests.faults.tick_world import FAULTS, Choose, World, every_way, some_ways

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
    ahead = {"zone": "Europe/Paris", "until": begin + missed + max(2 * MINUTE, missed / 3)}
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
        await some_ways(run, 300 if LONG else 8, seed=faults)


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
