"""What is asked of notifications from outside of the process, over HTTP or on the command line: JSON in, JSON out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, get_args

from agent_core.activity.conversation_reference import split_channel_id
from agent_core.activity.json_text import JsonObject
from agent_core.errors import InvalidSchedule, ScheduleConflict, ScheduleNotFound
from agent_core.proactive.notifications import Notifications
from agent_core.proactive.recipients import ConversationRecipient, Recipient, UserRecipient
from agent_core.proactive.schedule_json import (
    occurrences_shown,
    read_changes,
    read_schedule,
    read_when,
    shown,
    summary,
)
from agent_core.proactive.schedules import Schedule, Status
from agent_core.store.document_rules import MAX_LIMIT

FILTERS = ("conversation", "channel", "user", "channelUser", "tag", "status", "limit", "continuation")
PAGE = 100


class ScheduleRequests:
    """Notifications for those who have no Python: what a turn left for itself is not among them.

    Everything raises InvalidSchedule for what was said wrongly, ScheduleNotFound, and StoreUnavailable.
    """

    def __init__(self, notifications: Notifications) -> None:
        self._notifications = notifications

    async def create(self, data: JsonObject) -> JsonObject:
        """Make one, and show it. Raises like `Notifications.schedule`."""
        return shown(await self._found(await self._notifications.schedule(**read_schedule(data))))

    async def get(self, schedule_id: str) -> JsonObject:
        """Show one."""
        return shown(await self._found(schedule_id))

    async def page(self, query: Mapping[str, str]) -> JsonObject:
        """Some of those that match, in no promised order: `{"schedules": […], "continuation": …}`, without what they
        say. A page may have fewer than `limit`; the continuation asks for the rest, and is left out at the end.

        Args:
            query: any of `FILTERS`; `limit` is 1 to 1000, 100 if it is left out.
        """
        _check_query(query, FILTERS)
        status = query.get("status")
        if status is not None and status not in get_args(Status):
            raise InvalidSchedule(
                f"'status' is {status!r:.80}; it is one of {', '.join(get_args(Status))}.", field="status"
            )
        limit = whole(query.get("limit"), PAGE)
        if not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
            raise InvalidSchedule(f"'limit' is {limit!r:.80}; a page has 1 to {MAX_LIMIT}.", field="limit")
        try:
            found = await self._notifications.page(
                _recipient(query),
                tag=query.get("tag"),
                status=status,  # type: ignore[arg-type]  # it was just checked
                limit=limit,
                continuation=query.get("continuation"),
            )
        except InvalidSchedule:
            raise
        except (ValueError, RecursionError) as error:
            raise InvalidSchedule(str(error), field="continuation") from error
        channel = query.get("channel")
        schedules = [summary(each) for each in found.schedules if channel is None or _is_on(each.to, channel)]
        return {"schedules": schedules, **({"continuation": found.continuation} if found.continuation else {})}

    async def change(self, schedule_id: str, data: JsonObject) -> JsonObject:
        """Change one, and show it. Raises like `Notifications.update`, and ScheduleConflict if it has ended."""
        changes = read_changes(data)
        await self._found(schedule_id)
        if await self._notifications.update(schedule_id, **changes):
            return shown(await self._found(schedule_id))
        raise _ended(await self._found(schedule_id))

    async def cancel(self, schedule_id: str) -> JsonObject:
        """Stop one; once more does nothing. Raises ScheduleConflict if all of it was delivered."""
        return await self._become(schedule_id, "cancelled", self._notifications.cancel)

    async def pause(self, schedule_id: str) -> JsonObject:
        """Stop one until `resume`; once more does nothing. Raises ScheduleConflict if it has ended."""
        return await self._become(schedule_id, "paused", self._notifications.pause)

    async def resume(self, schedule_id: str) -> JsonObject:
        """Go on with one; once more does nothing. Raises ScheduleConflict if it has ended."""
        return await self._become(schedule_id, "scheduled", self._notifications.resume)

    async def occurrences(self, schedule_id: str, limit: str | None = None) -> JsonObject:
        """The next occurrences of one: `{"occurrences": [{"at": …, "local": …}]}`; none if it is paused or over."""
        schedule = await self._found(schedule_id)
        dues = await self._notifications.preview(schedule_id, whole(limit, 10))
        return {"occurrences": occurrences_shown(dues, schedule.recurrence.zone)}

    async def preview(self, data: JsonObject) -> JsonObject:
        """The same of one that is not stored: what says when, maybe `to` for the recipient's zone, and `limit`."""
        dues, zone = await self._notifications.preview_of(**read_when(data))
        return {"occurrences": occurrences_shown(dues, zone)}

    async def _become(self, schedule_id: str, status: Status, action: Callable[[str], Awaitable[bool]]) -> JsonObject:
        known = await self._found(schedule_id)
        if known.status == status:
            return shown(known)
        done = await action(schedule_id)
        known = await self._found(schedule_id)
        # Somebody else may have been faster with the same.
        if done or known.status == status:
            return shown(known)
        raise _ended(known)

    async def _found(self, schedule_id: str) -> Schedule:
        try:
            found = await self._notifications.get(schedule_id)
        except InvalidSchedule as error:
            raise ScheduleConflict(
                f"Schedule {schedule_id!r} cannot be used any more, make a new one: {error}", code="Unusable"
            ) from error
        if found is None or not found.is_notification:
            raise ScheduleNotFound(schedule_id)
        return found


def whole(text: str | None, otherwise: int) -> Any:
    """The number of a text; what is none stays as it is, and is refused where it is used."""
    if text is None:
        return otherwise
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else text


def _check_query(query: Mapping[str, str], known: tuple[str, ...]) -> None:
    # A filter with a slip of the pen would leave everything in.
    for name in query:
        if name not in known:
            raise InvalidSchedule(f"{name!r:.80} is unknown here; known are {', '.join(known)}.", field=name)


def _recipient(query: Mapping[str, str]) -> Recipient | None:
    conversation, user, on_channel = (query.get(name) for name in ("conversation", "user", "channelUser"))
    if sum(each is not None for each in (conversation, user, on_channel)) > 1:
        raise InvalidSchedule("Ask for a 'conversation', a 'user' or a 'channelUser'.", field="conversation")
    try:
        if conversation is not None:
            return ConversationRecipient(conversation)
        if user is not None:
            return UserRecipient(user)
        return UserRecipient(user_id=on_channel, channel_id=query.get("channel")) if on_channel is not None else None
    except InvalidSchedule as error:
        field = "conversation" if conversation is not None else "user" if user is not None else "channelUser"
        raise InvalidSchedule(f"{field!r} names nobody: {error}", field=field) from error


def _is_on(to: Recipient, channel_id: str) -> bool:
    return split_channel_id(to.channel_id)[0] == split_channel_id(channel_id)[0]


def _ended(schedule: Schedule) -> ScheduleConflict:
    return ScheduleConflict(
        f"Schedule {schedule.id!r} is {schedule.status}, and nothing of it is still to come: make a new one, or give "
        "one that is done a new time.",
        code="Ended",
    )
