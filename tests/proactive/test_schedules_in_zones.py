"""R10 by the path that users take: schedules are stored, the timer ticks for a year, each goes by its zone's clock.

It ticks once a day, and each minute around every change of a clock. In four zones; with AGENT_TESTS_LONG=1 in the
sample of `test_all_zones`, which has the rules for every zone.
"""

from __future__ import annotations

import os
from collections import defaultdict
from datetime import UTC, datetime, timedelta

from agent_core.proactive.recipients import UserRecipient
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import parse_time
from tests.proactive.setting import Setting
from tests.proactive.test_all_zones import ODD
from tests.proactive.zone_oracle import DAY, Clock, minutes, moment

ZONES = ODD if os.environ.get("AGENT_TESTS_LONG") else ODD[4:5] + ODD[6:7] + ODD[10:11] + ODD[12:13]
BEGIN = datetime(2026, 1, 6, 12, 0, tzinfo=UTC)
END = BEGIN + timedelta(days=366)
AROUND = 40
EVERY = timedelta(hours=25)
# 02:30, which the clocks of most zones skip once and show twice once; and near midnight, for the others.
DAILY = (150, 1415)


def _ticks(zones: list[str]) -> list[datetime]:
    daily = {BEGIN + number * timedelta(days=1) for number in range(368)}
    return sorted(daily | {moment(change + minute) for change in _changes(zones) for minute in range(-AROUND, AROUND)})


def _changes(zones: list[str]) -> set[int]:
    return {each for zone in zones for each in Clock(zone).changes() if BEGIN < moment(each) < END}


def _days(clock: Clock, at: int) -> list[datetime]:
    """That time of each local day, by the oracle."""
    first = clock.shown(minutes(BEGIN)) // DAY * DAY
    found = [moment(clock.first(first + number * DAY + at)) for number in range(-1, 369)]
    return [due for due in found if BEGIN <= due <= END]


async def test_in_a_year_of_ticks_each_zone_has_one_occurrence_for_each_local_day_and_intervals_follow_utc() -> None:
    """R10. `misfire="all"`, so that one that the daily tick finds late comes too; around the changes none is late."""
    setting, zones = Setting(), list(ZONES)
    await setting.clock.advance(BEGIN - setting.clock.now())
    expected: dict[str, list[datetime]] = {}
    for zone in zones:
        to = UserRecipient(zone)
        for at in DAILY:
            every = f"{at % 60} {at // 60} * * *"
            made = await setting.agent.notifications.schedule(
                to, every=every, zone=zone, until=END, activity="x", misfire="all"
            )
            expected[made] = _days(Clock(zone), at)
        made = await setting.agent.notifications.schedule(
            to, every=EVERY, zone=zone, until=END, activity="x", misfire="all"
        )
        expected[made] = [BEGIN + number * EVERY for number in range(1, (END - BEGIN) // EVERY + 1)]

    changes = [moment(change) for change in _changes(zones)]
    found: dict[str, list[datetime]] = defaultdict(list)
    for now in _ticks(zones):
        await setting.clock.advance(max(timedelta(0), now - setting.clock.now()))
        await setting.agent.notifications.send_due(setting.clock.now())
        for message in setting.queue.messages:
            payload = WorkItem.from_message(message).payload
            due = parse_time(payload["due"])
            assert message.scheduled_enqueue_time == due
            found[payload["schedule"]].append(due)
            inside = timedelta(minutes=AROUND - 2)
            if any(change - inside <= due < change + inside for change in changes):
                assert now <= due, f"{payload} was handed over at {now}"
        setting.queue.messages.clear()
    assert len(found) == 3 * len(zones)
    for made, dues in expected.items():
        schedule = await setting.agent.notifications.get(made)
        assert schedule is not None
        assert found[made] == dues, schedule.recurrence
        assert schedule.status == "done"
