"""Somebody cancels, changes or pauses a schedule while a timer hands it over and a worker delivers it (issue 7).

Three hosts, each of which does one of these things, in every order of their steps, with the time passing in between.
"""

import os
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from agent_core.store.document_store import parse_time
from tests.faults.tick_world import Choose, Host, World, every_way, some_ways

LONG = bool(os.environ.get("AGENT_TESTS_LONG"))
START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
SKEWS = (timedelta(0), 10 * MINUTE, -10 * MINUTE)


async def _work(host: Host) -> None:
    """Do what is due on the queue, until nothing is."""
    while due := await host.queue.take_due(host.clock.now()):
        for message in due:
            await host.agent.do_work(message)


async def _a_world(skew: timedelta, **when: object) -> tuple[World, Host, Host, Host]:
    """A timer, a worker and somebody who changes things; the clocks of the first and the last differ by so much."""
    world = World(START)
    timer, worker, user = world.host(), world.host(), world.host(skew)
    await world.schedule(timer, **when)
    return world, timer, worker, user


def _steps(world: World, host: Host) -> list[int]:
    """When, in the order of all steps, this host took one."""
    return [number for number, (who, _) in enumerate(world.log) if who is host]


def _first(world: World, host: Host, label: str) -> int:
    """When this host did this for the first time, in the order of all steps."""
    return next(number for number, each in enumerate(world.log) if each == (host, label))


async def _cancelled_while_it_is_delivered(choose: Choose, skew: timedelta, action: str) -> None:
    """A message lies on the queue, and its time comes."""
    world, _, worker, user = await _a_world(skew, at=START + MINUTE)
    await world.clock.advance(MINUTE)
    stop = user.agent.notifications.cancel if action == "cancel" else user.agent.notifications.pause
    worker.begin(_work(worker))
    user.begin(stop(world.schedule_id))
    await world.interleave(choose)
    stopped = user.doing is not None and user.doing.result()
    assert len(world.texts) <= 1
    if stopped and world.texts:
        # It had begun: the ledger had it when the schedule was stopped.
        assert _first(world, worker, "ledger claimed") < _first(world, user, "store schedule"), world.log
    if not stopped:
        assert world.texts
    before = world.texts
    await world.clock.advance(5 * MINUTE)
    for host in world.hosts:
        await host.tick()
        await _work(host)
    assert world.texts == before
    await world.close()


@pytest.mark.parametrize("action", ["cancel", "pause"])
@pytest.mark.parametrize("skew", SKEWS, ids=str)
async def test_what_was_cancelled_is_not_sent_unless_it_had_begun(skew: timedelta, action: str) -> None:
    assert await every_way(partial(_cancelled_while_it_is_delivered, skew=skew, action=action)) > 10


async def _changed_meanwhile(choose: Choose, skew: timedelta, action: str, *, ticks: bool, works: bool) -> None:
    """Every minute; the queue finds that the first one is due, and whoever changes the schedule perhaps not."""
    world, timer, worker, user = await _a_world(skew, every=MINUTE, until=START + 3 * MINUTE)
    await world.clock.advance(MINUTE - SECOND)
    (message,) = await worker.queue.take_due(worker.clock.now() + SECOND)
    if choose(2):
        await world.clock.advance(SECOND)
    if ticks:
        timer.begin(timer.tick())
    if works:
        worker.begin(worker.agent.do_work(message))
    user.begin(_change(user, world.schedule_id, action))
    await world.interleave(choose)
    assert user.doing is not None
    assert user.doing.result()
    if not works:
        await worker.agent.do_work(message)
    for _ in range(5):
        await timer.tick()
        await _work(worker)
        await world.clock.advance(MINUTE)
    nominal = [START + number * MINUTE for number in (1, 2, 3)]
    came = [parse_time(text.split(":", 3)[-1]) for text in world.texts]
    assert len(came) == len(set(came)), (world.texts, world.log)
    changed = (await world.stored()).changed
    assert changed is not None
    for due in nominal:
        if due > changed:
            assert due in came, (world.texts, world.log)
    # What had begun comes as it was; all that comes by the new generation has the new content.
    for text in world.texts:
        content, key = text.split(" ")
        assert content == ("old" if key.split(":")[2] == "1" or action != "update" else "new")
    await world.close()


async def _change(user: Host, schedule_id: str, action: str) -> bool:
    notifications = user.agent.notifications
    if action == "update":
        return await notifications.update(schedule_id, continuation="say", value="new")
    return await notifications.pause(schedule_id) and await notifications.resume(schedule_id)


@pytest.mark.parametrize("action", ["update", "pause and resume"])
@pytest.mark.parametrize("skew", SKEWS, ids=str)
@pytest.mark.parametrize("meanwhile", ["delivered", "handed over", "both"])
async def test_what_was_changed_comes_once_and_anew_if_its_time_was_still_to_come(
    skew: timedelta, action: str, meanwhile: str
) -> None:
    ticks, works = meanwhile != "delivered", meanwhile != "handed over"
    run = partial(_changed_meanwhile, skew=skew, action=action, ticks=ticks, works=works)
    if LONG and action == "update" and not (ticks and works):
        assert await every_way(run) > 50
    else:
        await some_ways(run, 300 if LONG else 30, seed=1)
