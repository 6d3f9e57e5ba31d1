"""A schedule as JSON: what may be said of one over HTTP, on the command line or in a file, and how one is shown.

The JSON Schema of what may be said is docs/contracts/schedule.schema.json; the tests hold that it and this agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from agent_core.activity.activity import Activity
from agent_core.activity.json_text import JsonObject
from agent_core.errors import BadActivity, InvalidSchedule
from agent_core.proactive.callback_message import ACTIVITY_FIELDS
from agent_core.proactive.recipients import Recipient, recipient_from_dict, recipient_of
from agent_core.proactive.schedules import Schedule
from agent_core.proactive.wall_clock import parse_time

# What says when, what can be changed, and all that can be said.
WHEN = ("at", "every", "zone", "start", "until", "count", "excluding")
CHANGES = (
    *WHEN,
    *("activity", "text", "continuation", "value"),
    *("misfire", "grace", "expires", "urgent", "tag"),
)
FIELDS = ("to", "id", *CHANGES)
# ISO 8601 has many forms, of which other languages read this one.
_DATE = r"\d{4}-\d{2}-\d{2}"
_TIME = re.compile(_DATE + r"T\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})?", re.ASCII)
_DAY = re.compile(_DATE, re.ASCII)


def read_schedule(data: JsonObject) -> dict[str, Any]:
    """What `Notifications.schedule` takes, of `{"to": …, "at": …, "text": …}`; null counts as not given.

    Raises:
        InvalidSchedule: with the `field` to mend, an unknown one included.
    """
    _check_names(data, FIELDS)
    if data.get("to") is None:
        raise InvalidSchedule("'to' is missing: whom the schedule speaks to.", field="to")
    given = {name: value for name, value in data.items() if name not in ("to", *CHANGES)}
    return {"to": read_recipient(data["to"]), **given, **_read(data)}


def read_changes(data: JsonObject) -> dict[str, Any]:
    """What `Notifications.update` takes; null takes away what was said before. Raises InvalidSchedule."""
    _check_names(data, CHANGES)
    if not data:
        raise InvalidSchedule(f"There is nothing to change; say one of: {', '.join(CHANGES)}.", field="")
    return _read(data)


def read_when(data: JsonObject) -> dict[str, Any]:
    """What `Notifications.preview_of` takes: what says when, `to` for the recipient's zone, and `limit`."""
    _check_names(data, ("to", "limit", *WHEN))
    found = _read({name: value for name, value in data.items() if name in WHEN})
    if data.get("to") is not None:
        found["to"] = read_recipient(data["to"])
    if data.get("limit") is not None:
        found["limit"] = _whole(data["limit"], "limit")
    return found


def read_recipient(to: Any) -> Recipient:
    """The recipient of an object, or of a text, which is a conversation's id. Raises InvalidSchedule."""
    return recipient_of(to) if isinstance(to, str) else recipient_from_dict(to)


def summary(schedule: Schedule) -> JsonObject:
    """What is shown of one in a list: everything but what it says. What was said has the name it was said with."""
    zone = schedule.recurrence.zone
    following = schedule.next
    found = {
        "id": schedule.id,
        "status": schedule.status,
        "to": schedule.to.to_dict(),
        **{name: value for name, value in schedule.recurrence.to_dict().items() if name in WHEN},
        "next": _utc(following) if following is not None else None,
        "nextLocal": following.astimezone(ZoneInfo(zone)).isoformat() if following is not None and zone else None,
        "continuation": schedule.continuation,
        **schedule.misfires.to_dict(),
        "urgent": schedule.urgent,
        "tag": schedule.tag,
        "generation": schedule.generation,
        "created": _utc(schedule.created) if schedule.created is not None else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def shown(schedule: Schedule) -> JsonObject:
    """All of one that is for people: what it says as well, and what was handed over and dropped last."""
    said = {"activity": schedule.activity, "value": schedule.value}
    return {
        **summary(schedule),
        **{name: value for name, value in said.items() if value is not None},
        "handedOver": [_utc(due) for due in schedule.handed_over],
        "dropped": [
            {
                "since": _utc(stretch.since),
                "before": _utc(stretch.before),
                "reason": stretch.reason,
                "at": _utc(stretch.at),
            }
            for stretch in schedule.dropped
        ],
    }


def occurrences_shown(dues: list[datetime], zone: str | None) -> list[JsonObject]:
    """Nominal times, in UTC and as the clock in the zone shows them."""
    local = ZoneInfo(zone) if zone else None
    return [
        {"at": _utc(due), **({"local": due.astimezone(local).isoformat()} if local is not None else {})} for due in dues
    ]


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _check_names(data: JsonObject, known: tuple[str, ...]) -> None:
    for name in data:
        if name not in known:
            raise InvalidSchedule(f"{name!r:.80} is unknown here; known are {', '.join(known)}.", field=name[:80])


def _read(data: JsonObject) -> dict[str, Any]:
    """The arguments; those that are as JSON has them are checked where they are used."""
    if data.get("text") is not None and data.get("activity") is not None:
        raise InvalidSchedule("Give 'text' or 'activity', not both.", field="text")
    values: dict[str, Any] = {}
    for name in CHANGES:
        if name in data:
            value = data[name]
            read = _READERS.get(name)
            # What is said as text does not take away what is said as an activity, nor the other way round.
            target = "activity" if name == "text" else name
            if target == "activity" and value is None and values.get("activity") is not None:
                continue
            values[target] = value if read is None or value is None else read(value, name)
    for name in ("excluding", "misfire", "grace", "urgent"):
        if name in values and values[name] is None:
            raise InvalidSchedule(f"{name!r} cannot be null; leave it out.", field=name)
    return values


def _time(value: Any, name: str) -> datetime:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise InvalidSchedule(
            f"{name!r} is {value!r:.80}, which is no date and time; write one such as '2026-03-29T08:00:00Z', or "
            "without the Z and with a 'zone'.",
            field=name,
        )
    return parse_time(value, name)


def _days(value: Any, name: str) -> list[date]:
    if isinstance(value, list) and all(isinstance(each, str) and _DAY.fullmatch(each) for each in value):
        try:
            return [date.fromisoformat(each) for each in value]
        except ValueError as error:
            raise InvalidSchedule(f"{name!r} has a date that no calendar has: {error}.", field=name) from error
    raise InvalidSchedule(f"{name!r} is a list of dates, such as ['2026-12-25'].", field=name)


def _whole(value: Any, name: str) -> Any:
    """JSON does not tell 5.0 from 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _name(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidSchedule(f"{name!r} must be a text with something in it.", field=name)
    return value


def _activity(value: Any, name: str) -> Activity:
    """How a message looks, and never where it goes or who says it: as for publishers of callbacks."""
    if not isinstance(value, dict):
        raise InvalidSchedule(f"{name!r} must be an object; a text is 'text'.", field=name)
    if unknown := sorted(value.keys() - ACTIVITY_FIELDS):
        raise InvalidSchedule(
            f"{name!r} cannot have {unknown[0]!r:.80}; it can have: {', '.join(sorted(ACTIVITY_FIELDS))}.", field=name
        )
    if value.get("type", "message") != "message":
        raise InvalidSchedule(f"{name!r} must be a message.", field=name)
    try:
        return Activity.from_dict({**value, "type": "message"})
    except BadActivity as error:
        raise InvalidSchedule(f"In {name!r}, {error}.", field=name) from error


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "at": _time,
    "start": _time,
    "until": _time,
    "count": _whole,
    "excluding": _days,
    "activity": _activity,
    "text": _name,
    "continuation": _name,
}
