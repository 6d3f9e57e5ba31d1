"""What callers say of a schedule: to whom, when and what; checked before anything is stored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime, timedelta
from typing import Any, TypedDict

from agent_core.activity.activity import Activity
from agent_core.activity.json_text import dump
from agent_core.activity.message_factory import MessageFactory
from agent_core.errors import InvalidSchedule, NotAllowed
from agent_core.proactive.continuations import Continuations
from agent_core.proactive.conversations import Conversations
from agent_core.proactive.directory import ConversationDirectory
from agent_core.proactive.misfires import MisfirePolicy, Misfires
from agent_core.proactive.recipients import (
    ConversationRecipient,
    NewConversation,
    Recipient,
    To,
    UserRecipient,
    newest_personal,
    recipient_of,
)
from agent_core.proactive.recurrence import Recurrence, parse_duration
from agent_core.proactive.schedules import Schedule
from agent_core.store.document_store import is_storable

# What a schedule brings must fit beside the rest of its document, and into a message of a channel.
MAX_CONTENT = 100_000


class When(TypedDict, total=False):
    """What says when; see `Notifications.schedule`."""

    at: datetime | None
    every: str | timedelta | None
    zone: str | None
    start: datetime | None
    until: datetime | None
    count: int | None
    excluding: Collection[date]


class Changes(When, total=False):
    """What can be changed in a schedule; see `Notifications.schedule`."""

    activity: Activity | str | None
    continuation: str | None
    value: Any
    misfire: MisfirePolicy
    grace: timedelta | str
    expires: timedelta | str | None
    urgent: bool
    tag: str | None


class ScheduleTerms:
    """Makes of a caller's words what a schedule is made of. Raises InvalidSchedule with the `field` to mend."""

    def __init__(
        self,
        conversations: Conversations,
        directory: ConversationDirectory,
        continuations: Continuations | None,
        check_service_url: Callable[[str], None],
    ) -> None:
        self._conversations = conversations
        self._directory = directory
        self._continuations = continuations
        self._check_service_url = check_service_url

    async def recipient(self, to: To) -> Recipient:
        """To whom; a conversation must be known, and a new one where conversations may be begun."""
        if isinstance(to, str | ConversationRecipient):
            named = recipient_of(to)
            assert isinstance(named, ConversationRecipient)
            found = await self._conversations.find(named.conversation_id, named.channel_id)
            return ConversationRecipient(found.id, found.reference.channel_id)
        if isinstance(to, NewConversation):
            try:
                self._check_service_url(to.service_url)
            except NotAllowed as error:
                raise InvalidSchedule(f"Nothing can be created there: {error}", field="to") from error
        return recipient_of(to)

    async def recurrence(self, when: When, recipient: Recipient | None, now: datetime) -> Recurrence:
        """When; in the recipient's own zone where one is needed and none is said."""
        given: dict[str, Any] = {"excluding": (), **when}
        every = given.get("every")
        if isinstance(every, str) and every[:1] in ("P", "p"):
            given["every"] = every = parse_duration(every, "every")
        clocks = [given.get(name) for name in ("at", "start", "until")]
        naive = any(isinstance(clock, datetime) and clock.tzinfo is None for clock in clocks)
        if given.get("zone") is None and (naive or isinstance(every, str)):
            given["zone"] = await self._zone_of(recipient)
        if every is not None and given.get("start") is None:
            # Cron has a time of its own; an interval begins when it has passed once.
            given["start"] = now + every if isinstance(every, timedelta) else now
        return Recurrence(**given)

    async def _zone_of(self, recipient: Recipient | None) -> str | None:
        """The recipient's own zone, None if it is not known; the recurrence then says what is needed."""
        if isinstance(recipient, ConversationRecipient):
            return (await self._conversations.find(recipient.conversation_id, recipient.channel_id)).time_zone
        if isinstance(recipient, UserRecipient):
            found = await newest_personal(self._directory, recipient)
            return found.time_zone if found is not None else None
        return None

    def content(self, activity: Activity | str | None, continuation: str | None, value: Any) -> dict[str, Any]:
        """What, as it is stored."""
        if (activity is None) == (continuation is None):
            raise InvalidSchedule("Give either 'activity' or 'continuation'", field="activity")
        if continuation is not None and self._continuations is not None:
            _ = self._continuations[continuation]
        if value is not None and continuation is None:
            raise InvalidSchedule("'value' goes with 'continuation'; put it into the activity", field="value")
        message = MessageFactory.text(activity) if isinstance(activity, str) else activity
        content = {
            "activity": message.to_dict() if message is not None else None,
            "continuation": continuation,
            "value": value,
        }
        for field, part in content.items():
            try:
                size = len(dump(part))
            except (TypeError, ValueError, RecursionError) as error:
                raise InvalidSchedule(f"{field!r} is not JSON: {error}", field=field) from error
            if size > MAX_CONTENT:
                raise InvalidSchedule(
                    f"{field!r} has {size:,} bytes, and {MAX_CONTENT:,} is the most; store it, and say its key.",
                    field=field,
                )
        return content

    def changed(self, known: Schedule, changes: Mapping[str, Any]) -> dict[str, Any]:
        """What changes say, but for the times."""
        values: dict[str, Any] = {}
        if changes.keys() & {"activity", "continuation", "value"}:
            says_more = changes.get("activity") is not None or changes.get("continuation") is not None
            before = {} if says_more else {"activity": _activity(known), "continuation": known.continuation}
            content = {"activity": None, "continuation": None, "value": known.value if known.continuation else None}
            content |= before | {
                name: changes[name] for name in ("activity", "continuation", "value") if name in changes
            }
            if content["continuation"] is None and "value" not in changes:
                content["value"] = None
            values |= self.content(**content)
        if changes.keys() & {"misfire", "grace", "expires"}:
            expires = changes.get("expires", known.misfires.expires)
            values["misfires"] = Misfires(
                changes.get("misfire", known.misfires.policy),
                span(changes.get("grace", known.misfires.grace), "grace"),
                None if expires is None else span(expires, "expires"),
            )
        if "urgent" in changes:
            values["urgent"] = checked_bool(changes["urgent"])
        if "tag" in changes:
            values["tag"] = checked_tag(changes["tag"])
        return values


def first(recurrence: Recurrence, now: datetime) -> datetime:
    """When a schedule that is made now is first due; InvalidSchedule if it never is."""
    due = recurrence.first_due(now)
    if due is None:
        field = "count" if recurrence.count is not None else "until"
        raise InvalidSchedule(f"{field!r} leaves no occurrence from now on; nothing would ever be sent.", field=field)
    return due


def merged(recurrence: Recurrence, changes: Mapping[str, Any]) -> When:
    """The times as they were said and changed: `at` and `every` take each other's place, and so do the two ends."""
    before = {name: getattr(recurrence, name) for name in When.__annotations__}
    if changes.get("at") is not None:
        before = {"zone": recurrence.zone}
    elif changes.get("every") is not None:
        before["at"] = None
    if changes.get("count") is not None:
        before.pop("until", None)
    elif changes.get("until") is not None:
        before.pop("count", None)
    merged: When = {**before, **{name: changes[name] for name in When.__annotations__ if name in changes}}  # type: ignore[typeddict-item]  # the names are When's
    return merged


def _activity(schedule: Schedule) -> Activity | None:
    return Activity.from_dict(schedule.activity) if schedule.activity is not None else None


def span(value: timedelta | str, field: str) -> timedelta:
    """A timedelta, also from what ISO 8601 writes for it."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise InvalidSchedule(f"{field!r} must be a timedelta, or text such as 'PT10M'.", field=field)
    return parse_duration(value, field)


def checked_bool(urgent: object) -> bool:
    """What is said to be urgent."""
    if not isinstance(urgent, bool):
        raise InvalidSchedule("'urgent' is true or false.", field="urgent")
    return urgent


def checked_tag(tag: object) -> str | None:
    """A tag that every store can look for."""
    if tag is not None and (not isinstance(tag, str) or not is_storable(tag)):
        raise InvalidSchedule("'tag' is a text of 1 to 1000 characters.", field="tag")
    return tag
