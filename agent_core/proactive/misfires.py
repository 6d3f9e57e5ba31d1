"""What becomes of occurrences that nobody was there for: handed over late, or dropped with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from agent_core.errors import InvalidSchedule
from agent_core.proactive.recurrence import Recurrence, duration_text, parse_duration

MisfirePolicy = Literal["latest", "skip", "all"]
DropReason = Literal["expired", "late", "superseded", "too many"]

# What `all` hands over at once; also what is tolerated at once within the grace.
MAX_AT_ONCE = 100
_RESOLUTION = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)
_LONGEST = timedelta(days=3660)
GRACE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Misfires:
    """What to do with occurrences that are late.

    Attributes:
        policy: `latest` hands over the newest one that is due and drops the others; `skip` drops those that are late by
            more than `grace`; `all` hands over all. None hands over more than the newest 100 at once.
        grace: how late one may be without being late. A timer ticks, so more than a tick.
        expires: how long after its time one is still worth sending, whatever the policy; None is for ever.
    """

    policy: MisfirePolicy = "latest"
    grace: timedelta = GRACE
    expires: timedelta | None = None

    def __post_init__(self) -> None:
        if self.policy not in get_args(MisfirePolicy):
            raise InvalidSchedule(f"'misfire' is {self.policy!r:.80}; say latest, skip or all.", field="misfire")
        if self.grace < timedelta(0):
            raise InvalidSchedule("'grace' is negative.", field="grace")
        if self.expires is not None and self.expires <= timedelta(0):
            raise InvalidSchedule("'expires' must be later than the time itself.", field="expires")
        for field, span in (("grace", self.grace), ("expires", self.expires)):
            if span is not None and (span > _LONGEST or span % _SECOND):
                raise InvalidSchedule(f"{field!r} is {span}; give whole seconds, ten years at most.", field=field)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        found = {"misfire": self.policy, "grace": duration_text(self.grace)}
        return found | ({"expires": duration_text(self.expires)} if self.expires is not None else {})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Misfires:
        """What `to_dict` wrote. Raises InvalidSchedule with the `field` to mend."""
        expires = data.get("expires")
        return cls(
            data.get("misfire", "latest"),
            parse_duration(data["grace"], "grace") if "grace" in data else GRACE,
            parse_duration(expires, "expires") if expires is not None else None,
        )


@dataclass(frozen=True, slots=True)
class Dropped:
    """Every occurrence from `since` on that is earlier than `before`.

    A stretch and not a list: an outage of a week drops ten thousand of a schedule for every minute.
    """

    since: datetime
    before: datetime
    reason: DropReason


@dataclass(frozen=True, slots=True)
class Tick:
    """What one look at a schedule finds.

    Every nominal time from the schedule's `due` to now is in `hand_over` or in one of `dropped`, and in only one.

    Attributes:
        hand_over: nominal times, oldest first.
        dropped: oldest first; the stretches do not overlap.
        due: the nominal time to look at next; None when all is done.
    """

    hand_over: tuple[datetime, ...]
    dropped: tuple[Dropped, ...]
    due: datetime | None


def tick(recurrence: Recurrence, due: datetime, now: datetime, misfires: Misfires) -> Tick:
    """Decide about what is due.

    The result follows from the arguments alone, and its `due` is never earlier than the one given: whoever stores it
    with the ETag that `due` was read with handles each occurrence once, whether timers run twice, late or with a clock
    that went back. Who hands over before he stores keeps `now` with his claim: should he die in between, the next one
    repeats the same decision instead of making another.

    Args:
        due: the first nominal time that nobody has decided about.
    """
    if due > now:
        return Tick((), (), due)
    alive = due if misfires.expires is None else max(due, now - misfires.expires + _RESOLUTION)
    wanted = max(alive, now - misfires.grace) if misfires.policy == "skip" else alive
    limit = 1 if misfires.policy == "latest" else MAX_AT_ONCE
    kept, following = _newest(recurrence, wanted, now, limit)
    if kept and kept[0] == due:
        return Tick(kept, (), following)

    end = kept[0] if kept else now + _RESOLUTION
    stretches: tuple[tuple[datetime, datetime, DropReason], ...] = (
        (due, min(alive, end), "expired"),
        (alive, min(wanted, end), "late"),
        (wanted, end, "superseded" if misfires.policy == "latest" else "too many"),
    )
    dropped = []
    for since, before, reason in stretches:
        first = recurrence.next_after(since - _RESOLUTION)
        if first is not None and first < before:
            dropped.append(Dropped(first, before, reason))
    return Tick(kept, tuple(dropped), following)


def _newest(
    recurrence: Recurrence, since: datetime, now: datetime, limit: int
) -> tuple[tuple[datetime, ...], datetime | None]:
    """The newest `limit` nominal times from `since` to `now`, ascending, and the one after now.

    It looks back in growing steps: one that was missed for a year is not walked through minute by minute.
    """
    span = timedelta(minutes=1)
    while True:
        begin = max(since, now - span)
        found: list[datetime] = []
        following = None
        for moment in recurrence.after(begin - _RESOLUTION):
            if moment > now:
                following = moment
                break
            found.append(moment)
        if len(found) >= limit or begin == since:
            return tuple(found[-limit:]), following
        span *= 4
