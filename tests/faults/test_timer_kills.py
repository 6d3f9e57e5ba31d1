"""Real processes tick over the same files, two at once, and each step of theirs is the last one of some (issue 7, R9).

Their clocks are apart, so each takes over what the other one holds. Each occurrence has one record in the ledger, and
comes once; one whose sender died while it sent may be reported instead, or as well, and so may one that was overtaken
by a clock that is ahead.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent_core import AgentApplication, TurnContext, TurnState
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.store.document_store import CONVERSATIONS, Where
from agent_core.store.sqlite_store import SqliteStore
from agent_core.testing import ManualClock, TestAdapter
from tests.faults.kill_worker import CONVERSATION, Life
from tests.faults.test_kill_matrix import Channel, Workers
from tests.serving import serve

START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
OUTAGE = 3 * HOUR + MINUTE


class Setting:
    """The channel, the workers, and the files of an agent with a schedule for every hour, which nobody looked at."""

    def __init__(self, channel: Channel, workers: Workers, template: Path) -> None:
        self.channel = channel
        self.workers = workers
        self.template = template

    async def life(self, name: str, start: datetime, kill_at: str = "") -> bool:
        """A process ticks, and works on the queue; whether it ended by itself."""
        data = self.template.parent / name
        return await self.workers.live(Life(str(data), name, start.isoformat(), kill_at, "tick"))

    async def check(self, name: str, doubts: int) -> None:
        """All came that had to; no more than so many were reported."""
        data = self.template.parent / name
        agent, store = _agent(data, START + 2 * OUTAGE)
        (schedule,) = [each async for each in agent.notifications.list()]
        keys = {schedule.key_of(START + number * HOUR) for number in (1, 2, 3, 4)}
        shown = Counter(text for _, _, text in self.channel.calls.get(name, []))
        letters = {letter.key: letter.reason async for letter in agent.dead_letters.list()}
        page = await store.query(CONVERSATIONS, partition=CONVERSATION, where=[Where("kind", "=", "delivery")])
        story = f"{name}: {shown} {letters} {schedule}"
        assert Counter(each.body["key"] for each in page.documents) == Counter(keys), story
        assert all(each.body["status"] in ("sent", "parked") for each in page.documents), story
        assert shown.keys() <= keys, story
        assert all(count == 1 for count in shown.values()), story
        assert keys - shown.keys() <= letters.keys(), story
        assert set(letters.values()) <= {"Unsure"}, story
        assert len(letters) <= doubts, story
        assert (schedule.status, schedule.claim) == ("done", None), story
        await store.close()
        shutil.rmtree(data)


def _agent(data: Path, now: datetime) -> tuple[AgentApplication, SqliteStore]:
    clock = ManualClock(now)
    store = SqliteStore(data / "store.db", clock.now)
    agent = AgentApplication(TestAdapter(clock), store, SqliteQueue(data / "queues.db", "work", now=clock.now))

    @agent.continuation("tell")
    async def tell(context: TurnContext, state: TurnState) -> None:
        raise AssertionError("it is run by the workers")

    return agent, store


@pytest.fixture(scope="module")
async def setting(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Setting]:
    channel, workers = Channel(), Workers()
    template = tmp_path_factory.mktemp("timers") / "template"
    template.mkdir()
    await workers.start()
    async with serve(channel.app()) as url:
        assert await workers.live(Life(str(template), "before", START.isoformat(), service_url=url))
        (template / "trace").unlink()
        agent, store = _agent(template, START)
        await agent.notifications.schedule(
            CONVERSATION, every=HOUR, until=START + 4 * HOUR, continuation="tell", misfire="all"
        )
        await store.close()
        yield Setting(channel, workers, template)
        await workers.close()


def _begin(setting: Setting, name: str) -> None:
    shutil.copytree(setting.template, setting.template.parent / name)


async def _end(setting: Setting, name: str) -> None:
    # Whoever died leaves its claim, locks and leases for a while, by a clock that may be ahead.
    for number in range(4):
        await setting.life(name, START + OUTAGE + timedelta(minutes=20) + number * HOUR)


async def _points(setting: Setting) -> list[str]:
    """Every fault point of a tick and the work it brings."""
    _begin(setting, "whole")
    assert await setting.life("whole", START + OUTAGE)
    trace = (setting.template.parent / "whole" / "trace").read_text().splitlines()
    await _end(setting, "whole")
    await setting.check("whole", doubts=0)
    return [line.split(" ", 1)[1] for line in trace if " end " not in line]


async def test_whichever_step_of_a_process_is_its_last_each_occurrence_comes_once_or_is_reported(
    setting: Setting,
) -> None:
    """Every point of one process, alone; and beside another one, with its clock ahead, behind or the same."""
    points = await _points(setting)
    for step in ("claim of a schedule 1", "copy 1", "copy 2", "copy 3", "advance 1", "claim 1", "sent 1", "POST 3"):
        assert {f"before {step}", f"after {step}"} <= set(points), points

    async def alone(number: int, point: str) -> None:
        name = f"alone{number}"
        _begin(setting, name)
        assert not await setting.life(name, START + OUTAGE, point), point
        await _end(setting, name)
        await setting.check(name, doubts=1)

    async def beside(number: int, point: str) -> None:
        name, ahead = f"beside{number}", (number % 3 - 1) * 10 * MINUTE
        _begin(setting, name)
        other = points[(number * 7) % len(points)] if number % 2 else ""
        await asyncio.gather(
            setting.life(name, START + OUTAGE, point), setting.life(name, START + OUTAGE + ahead, other)
        )
        await _end(setting, name)
        # Who waits moves its own clock, so a living process may be overtaken as well.
        await setting.check(name, doubts=4)

    await asyncio.gather(*(alone(number, point) for number, point in enumerate(points)))
    for number, point in enumerate(points):
        await beside(number, point)
