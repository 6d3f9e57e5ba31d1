"""When people want to hear from an agent: quiet hours, working days, how often a day, and not at all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from agent_core.errors import InvalidSchedule
from agent_core.proactive.wall_clock import DAY, find_zone, local_time, moment_of, next_change, offset

Outcome = Literal["send", "hold", "drop"]

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MAX_HOLIDAYS = 366
# Rules that leave no moment must not be searched for ever.
_HORIZON = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class QuietHours:
    """When not to disturb, by the clock of one zone: of a recipient, or of an app for all of its recipients.

    A moment is quiet if the clock then shows a quiet time or a day that is none to disturb on; so what a change of
    clocks skips is not there, and what it repeats is quiet twice.

    Attributes:
        zone: an IANA name.
        begin, end: quiet from `begin`, itself included, to `end`, itself not, over midnight if `end` is the earlier;
            in whole minutes. Both or neither.
        days: on which to disturb, of `mon tue wed thu fri sat sun`; all others are quiet from midnight to midnight.
        holidays: local dates that are quiet as well, 366 at most.
        a_day: how many messages a local day may have; None is any number.

    Raises:
        InvalidSchedule: with the `field` to mend.
    """

    zone: str
    begin: time | None = None
    end: time | None = None
    days: Collection[str] = WEEKDAYS
    holidays: Collection[date] = frozenset()
    a_day: int | None = None

    def __post_init__(self) -> None:
        find_zone(self.zone, "zone")
        for field, value, other in (("begin", self.begin, self.end), ("end", self.end, self.begin)):
            if value is None and other is not None:
                raise InvalidSchedule("Quiet hours need both a 'begin' and an 'end'.", field=field)
            if value is not None and (value.tzinfo is not None or value.second or value.microsecond):
                raise InvalidSchedule(f"{field!r} is a time of the clock in 'zone', in whole minutes.", field=field)
        if self.begin is not None and self.begin == self.end:
            raise InvalidSchedule("'end' is 'begin', so no hour or every hour is quiet; leave both out.", field="end")
        if not self.days or not set(self.days) <= set(WEEKDAYS):
            raise InvalidSchedule(f"'days' are one or more of {', '.join(WEEKDAYS)}.", field="days")
        dates = [day for day in self.holidays if not isinstance(day, datetime)]
        if len(dates) < len(self.holidays) or len(dates) > _MAX_HOLIDAYS:
            raise InvalidSchedule(f"'holidays' takes dates without a time, {_MAX_HOLIDAYS} at most.", field="holidays")
        if self.a_day is not None and (type(self.a_day) is not int or self.a_day < 1):
            raise InvalidSchedule("'a_day' is a number from 1 on; who wants nothing opts out.", field="a_day")
        object.__setattr__(self, "days", tuple(day for day in WEEKDAYS if day in self.days))
        object.__setattr__(self, "holidays", frozenset(dates))

    def allowed_at(self, now: datetime) -> datetime | None:
        """`now` if it is not quiet, else the first moment that is not; in UTC; None if there is none in 400 days."""
        return first_allowed([self], now)

    def why_quiet(self, moment: datetime) -> str | None:
        """What makes it quiet then, for people to read; None if nothing does."""
        return self._why_quiet(local_time(moment, self._zone))

    def local_day(self, moment: datetime) -> date:
        """The day whose messages `a_day` counts."""
        return local_time(moment, self._zone).date()

    @property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.zone)

    def _why_quiet(self, local: datetime) -> str | None:
        if local.date() in self.holidays:
            return f"{local:%Y-%m-%d} is a holiday in {self.zone}"
        if WEEKDAYS[local.weekday()] not in self.days:
            return f"{local:%A} is no working day in {self.zone}"
        if self.begin is None or self.end is None:
            return None
        shown = local.time()
        # Quiet over midnight is what the rest of the day is not.
        if (min(self.begin, self.end) <= shown < max(self.begin, self.end)) != (self.begin < self.end):
            return None
        return f"quiet hours {self.begin:%H:%M}-{self.end:%H:%M} {self.zone}"

    def next_day(self, moment: datetime) -> datetime:
        """When the next local day begins, in UTC."""
        tomorrow = self.local_day(moment) + DAY
        return moment_of(datetime.combine(tomorrow, time()), self._zone)

    def next_edge(self, moment: datetime) -> datetime:
        """A later moment, in UTC, up to which it stays quiet or not, as it is at `moment` (in UTC too)."""
        zone = self._zone
        ahead = offset(zone, moment)
        local = moment.replace(tzinfo=None) + ahead
        midnight = datetime.combine(local.date(), time())
        edges = [midnight + DAY]
        if self.begin is not None and self.end is not None:
            edges += [midnight + timedelta(hours=at.hour, minutes=at.minute) for at in (self.begin, self.end)]
        edge = min(at for at in edges if at > local).replace(tzinfo=UTC) - ahead
        return next_change(zone, moment, edge) or edge

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        found: dict[str, Any] = {"zone": self.zone}
        if self.begin is not None and self.end is not None:
            found |= {"begin": f"{self.begin:%H:%M}", "end": f"{self.end:%H:%M}"}
        if len(self.days) < len(WEEKDAYS):
            found["days"] = list(self.days)
        if self.holidays:
            found["holidays"] = [day.isoformat() for day in sorted(self.holidays)]
        if self.a_day is not None:
            found["a_day"] = self.a_day
        return found

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> QuietHours:
        """What `to_dict` wrote, or somebody else by the same rules.

        Raises:
            InvalidSchedule: with the `field` to mend, an unknown one included.
        """
        values = dict(data)
        for field, value in values.items():
            if field not in cls.__slots__:
                raise InvalidSchedule(f"{field!r:.80} is unknown; known are {', '.join(cls.__slots__)}.", field=field)
            try:
                if field in ("begin", "end") and value is not None:
                    values[field] = time.fromisoformat(value)
                elif field == "holidays":
                    values[field] = frozenset(date.fromisoformat(day) for day in value)
                elif field == "days":
                    values[field] = frozenset(value)
            except (ValueError, TypeError) as error:
                raise InvalidSchedule(
                    f"{field!r} is {value!r:.80}; times are written '20:00', dates '2026-12-25', and days "
                    f"{list(WEEKDAYS[:2])}.",
                    field=field,
                ) from error
        return cls(**{"zone": "", **values})


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with one message now, and why.

    Attributes:
        reason: a sentence for whoever asks why a message came, waits or did not come; it has no text of the message.
        at: in UTC, if it is held: when to decide again.
    """

    outcome: Outcome
    reason: str
    at: datetime | None = None


def decide(
    now: datetime,
    rules: Sequence[QuietHours],
    *,
    sent: Collection[datetime] = (),
    urgent: bool = False,
    opted_out: bool = False,
    expires_at: datetime | None = None,
) -> Decision:
    """Send a message now, hold it or drop it.

    Held messages are decided about again when their time comes, so counts and changed rules hold then too. Those of one
    recipient get the same `at`: hand them over by their nominal times, and the order is kept.

    Args:
        rules: the app's and the recipient's; all of them must allow it.
        sent: when messages came to this recipient, those of the last two days at least.
        urgent: passes quiet hours and the number a day, not an opt-out.
        expires_at: not worth sending from then on.
    """
    if opted_out:
        return Decision("drop", "dropped because the recipient opted out")
    if expires_at is not None and now >= expires_at:
        return Decision("drop", f"dropped because it expired at {_minute(expires_at)}")
    obstacle = next((why for rule in rules if (why := rule.why_quiet(now))), None)
    begin = now
    for rule in rules:
        today = rule.local_day(now)
        if rule.a_day is not None and (came := sum(rule.local_day(at) == today for at in sent)) >= rule.a_day:
            obstacle = obstacle or f"{came} came on {today}, and {rule.a_day} a day is the limit"
            begin = max(begin, rule.next_day(now))
    if obstacle is None:
        return Decision("send", "sent: nothing was in its way")
    if urgent:
        return Decision("send", f"sent because it is urgent, in spite of {obstacle}")
    at = first_allowed(rules, begin)
    if at is None:
        return Decision("drop", f"dropped because the rules allow no moment in {_HORIZON.days} days; now: {obstacle}")
    if expires_at is not None and at >= expires_at:
        held = f"it would be held until {_minute(at)} because {obstacle}"
        return Decision("drop", f"dropped because it expires at {_minute(expires_at)}: {held}")
    return Decision("hold", f"held until {_minute(at)} because {obstacle}", at)


def first_allowed(rules: Sequence[QuietHours], now: datetime) -> datetime | None:
    """The first moment from `now` on that no rule makes quiet, in UTC; None if there is none within 400 days."""
    moment = now = now.astimezone(UTC)
    while moment <= now + _HORIZON:
        quiet = [rule for rule in rules if rule.why_quiet(moment)]
        if not quiet:
            return moment
        # Until each of these has an edge it stays quiet.
        moment = max(rule.next_edge(moment) for rule in quiet)
    return None


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
