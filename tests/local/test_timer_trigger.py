"""Timer triggers: when they fire, and what their functions are told."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import azure.functions as func
import pytest
from azure.functions.timer import TimerRequest

from agent_core.hosting import clock as app_clock
from agent_core.local.ncrontab import InvalidTimerSchedule
from agent_core.testing import ManualClock
from tests.local.running import running, until

START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Fired:
    """An app with one timer, and what its function was told at which time."""

    def __init__(self, schedule: str, *, run_on_startup: bool = False, use_monitor: bool | None = None) -> None:
        self.app = func.FunctionApp()
        self.times: list[datetime] = []
        self.requests: list[TimerRequest] = []
        self.error: Exception | None = None
        self.returned: object = None
        self.blocked: asyncio.Event | None = None

        @self.app.timer_trigger("timer", schedule, run_on_startup=run_on_startup, use_monitor=use_monitor)
        async def tick(timer: func.TimerRequest) -> object:
            self.times.append(app_clock.now())
            assert isinstance(timer, TimerRequest)
            self.requests.append(timer)
            if self.blocked is not None:
                await self.blocked.wait()
            if self.error is not None:
                raise self.error
            return self.returned

    @property
    def minutes(self) -> list[float]:
        return [(moment - START) / MINUTE for moment in self.times]


async def test_a_timer_fires_at_each_time_of_its_schedule(tmp_path: Path) -> None:
    fired = Fired("0 */5 * * * *")
    clock = ManualClock(START)
    async with running(fired.app, tmp_path, clock=clock):
        await clock.advance(17 * MINUTE)
        assert fired.minutes == [5, 10, 15]


async def test_the_schedule_may_be_a_setting(tmp_path: Path) -> None:
    fired = Fired("%SCHEDULE%")
    clock = ManualClock(START)
    async with running(fired.app, tmp_path, clock=clock, settings={"SCHEDULE": "30 * * * * *"}):
        await clock.advance(MINUTE)
    assert fired.minutes == [0.5]


async def test_a_function_is_told_when_it_ran_last_and_runs_next(tmp_path: Path) -> None:
    fired = Fired("0 */5 * * * *")
    clock = ManualClock(START)
    async with running(fired.app, tmp_path, clock=clock):
        await clock.advance(10 * MINUTE)
    first, second = fired.requests
    assert (first.past_due, first.schedule) == (False, {"AdjustForDST": True})
    assert first.schedule_status["Last"] == "0001-01-01T00:00:00+00:00"
    assert first.schedule_status["Next"] == "2026-01-05T12:05:00+00:00"
    assert second.schedule_status == {
        "Last": "2026-01-05T12:05:00+00:00",
        "Next": "2026-01-05T12:10:00+00:00",
        "LastUpdated": "2026-01-05T12:05:00+00:00",
    }


@pytest.mark.parametrize(("schedule", "use_monitor"), [("*/30 * * * * *", None), ("0 * * * * *", False)])
async def test_without_a_monitor_there_is_no_status(tmp_path: Path, schedule: str, use_monitor: bool | None) -> None:
    """It is off where it is told to be, and below a minute."""
    fired = Fired(schedule, use_monitor=use_monitor)
    clock = ManualClock(START)
    async with running(fired.app, tmp_path, clock=clock):
        await clock.advance(MINUTE)
    assert fired.requests[0].schedule_status == {}


async def test_a_timer_can_fire_at_the_start(tmp_path: Path) -> None:
    fired = Fired("0 */5 * * * *", run_on_startup=True)
    clock = ManualClock(START)
    async with running(fired.app, tmp_path, clock=clock):
        await until(lambda: fired.minutes == [0])
        await clock.advance(5 * MINUTE)
    assert fired.minutes == [0, 5]


async def test_runs_do_not_overlap_and_what_was_missed_is_made_up_for_once(tmp_path: Path) -> None:
    fired = Fired("0 */5 * * * *")
    fired.blocked = asyncio.Event()
    clock = ManualClock(START)
    async with running(fired.app, tmp_path, clock=clock):
        await clock.advance(18 * MINUTE)
        assert fired.minutes == [5]
        fired.blocked.set()
        await until(lambda: len(fired.times) == 2)
        await clock.advance(2 * MINUTE)
    assert fired.minutes == [5, 18, 20]


async def test_a_failed_run_waits_for_the_next_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fired = Fired("0 */5 * * * *")
    fired.error = LookupError("why")
    clock = ManualClock(START)
    async with running(fired.app, tmp_path, clock=clock):
        await clock.advance(9 * MINUTE)
        assert fired.minutes == [5]
        fired.error = None
        await clock.advance(MINUTE)
    assert fired.minutes == [5, 10]
    [failure] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert failure.getMessage() == "Function tick failed"
    assert failure.exc_info is not None


async def test_a_timer_that_returns_something_has_failed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fired = Fired("0 * * * * *")
    fired.returned = "done"
    clock = ManualClock(START)
    async with running(fired.app, tmp_path, clock=clock):
        await clock.advance(MINUTE)
    assert "no $return binding" in caplog.text


async def test_a_run_that_ends_within_a_second_of_the_stop_is_waited_for(tmp_path: Path) -> None:
    ended: list[bool] = []
    started = asyncio.Event()
    app = func.FunctionApp()

    @app.timer_trigger("timer", "0 * * * * *", run_on_startup=True)
    async def tick(timer: func.TimerRequest) -> None:
        started.set()
        await asyncio.sleep(0.5)
        ended.append(True)

    async with running(app, tmp_path):
        await started.wait()
    assert ended == [True]


async def test_a_schedule_that_is_none_stops_the_engine_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(InvalidTimerSchedule, match="5 fields"):
        async with running(Fired("*/5 * * * *").app, tmp_path):
            pass
