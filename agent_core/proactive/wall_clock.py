"""What a clock on a wall shows, and when it shows it: the rules for the days on which clocks change.

    gap   a local time that the clock skips is moved to the first moment after the gap (02:30 becomes 03:00)
    fold  a local time that the clock shows twice is the first of the two

docs/promises.md publishes them. Everything goes through UTC: arithmetic on times of one zone ignores its changes.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from agent_core.errors import InvalidSchedule

# No zone has two changes as close together, so an offset that is the same a day later was the same in between.
DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
# Of what comes from outside: arithmetic on these cannot leave what a datetime can hold.
FIRST_YEAR, LAST_YEAR = 1970, 2999


def find_zone(name: str, field: str) -> ZoneInfo:
    """The zone of that IANA name, such as `Europe/Paris`; InvalidSchedule naming `field` if there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        # OSError: `Europe` is a folder of the zone data.
        raise InvalidSchedule(
            f"{field!r} is {name!r:.80}, which is no IANA time zone; write one such as 'Europe/Paris' or 'UTC'.",
            field=field,
        ) from error


def moment_of(local: datetime, zone: ZoneInfo) -> datetime:
    """When the clock first shows that naive time, in UTC; if it never does, the end of the gap."""
    moment = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if local_time(moment, zone) == local:
        return moment
    # In a gap fold=0 takes the offset from before it, which is a moment after it; fold=1 is the other way round.
    before = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return next_change(zone, before, moment) or moment


def local_time(moment: datetime, zone: ZoneInfo) -> datetime:
    """What the clock shows at an aware time: naive, without a fold."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def next_change(zone: ZoneInfo, after: datetime, until: datetime) -> datetime | None:
    """The moment in `(after, until]` from which the zone has another offset; None if it keeps the one it has.

    Args:
        after, until: in UTC, at most a day apart.
    """
    ahead = offset(zone, after)
    if offset(zone, until) == ahead:
        return None
    # Changes happen at whole seconds.
    base = after.replace(microsecond=0)
    low, high = 0, -((base - until) // _SECOND)
    while high - low > 1:
        middle = (low + high) // 2
        if offset(zone, base + middle * _SECOND) == ahead:
            low = middle
        else:
            high = middle
    return base + high * _SECOND


def offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    """How far the clock is ahead of UTC then."""
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def checked_time(value: object, field: str) -> datetime:
    """An aware time in UTC or a naive one, within the years that can be computed with; else InvalidSchedule."""
    if not isinstance(value, datetime):
        raise InvalidSchedule(f"{field!r} is a {type(value).__name__} and no time; pass a datetime.", field=field)
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise InvalidSchedule(
            f"{field!r} is in the year {value.year}; it must be in one from {FIRST_YEAR} to {LAST_YEAR}.", field=field
        )
    return value.replace(tzinfo=None, fold=0) if value.utcoffset() is None else value.astimezone(UTC)


def parse_time(text: object, field: str) -> datetime:
    """The time of an ISO 8601 text, naive if it has no offset; InvalidSchedule naming `field` if it is none."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise InvalidSchedule(
            f"{field!r} is {text!r:.80}, which is no date and time; write one such as '2026-03-29T08:00:00Z', or "
            "without the Z and with a 'zone'.",
            field=field,
        ) from error
    return checked_time(moment, field)
