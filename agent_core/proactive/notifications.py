"""Notifications: the agent speaks when a time has come. What can be said about that time, changed and looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any, Unpack

from agent_core.activity.activity import Activity
from agent_core.activity.conversation_reference import ConversationReference
from agent_core.errors import DocumentExists, ScheduleConflict
from agent_core.proactive.continuations import Continuations
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.conversations import Conversations
from agent_core.proactive.directory import ConversationDirectory
from agent_core.proactive.ledger import Ledger
from agent_core.proactive.misfires import GRACE, MisfirePolicy, Misfires
from agent_core.proactive.occurrences import place_of
from agent_core.proactive.preferences import Preferences, PreferenceStore
from agent_core.proactive.quiet_hours import QuietHours
from agent_core.proactive.recipients import (
    ConversationRecipient,
    To,
    recipient_of,
)
from agent_core.proactive.recurrence import checked_limit
from agent_core.proactive.schedule_terms import (
    Changes,
    ScheduleTerms,
    When,
    checked_bool,
    checked_tag,
    first,
    merged,
    span,
)
from agent_core.proactive.schedules import Schedule, SchedulePage, Schedules, Status, chosen_id, digest, new_id
from agent_core.proactive.timer import Timer, decide
from agent_core.store.document_store import Where, id_for
from agent_core.turn.turn_context import TurnContext


class Notifications:
    """Schedules what is to be said, changes and lists it, and hands over what is due."""

    def __init__(
        self,
        schedules: Schedules,
        timer: Timer,
        conversations: Conversations,
        directory: ConversationDirectory,
        ledger: Ledger,
        *,
        preferences: PreferenceStore,
        continuations: Continuations | None,
        check_service_url: Callable[[str], None],
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        """Without `continuations`, as in an operator's process, any name is taken for one.

        Args:
            check_service_url: the adapter's; raises NotAllowed where no conversation may be begun.
        """
        self._schedules = schedules
        self._timer = timer
        self._ledger = ledger
        self._terms = ScheduleTerms(conversations, directory, continuations, check_service_url)
        self._preferences = preferences
        self._now = now
        self._new_id = new_id

    async def schedule(
        self,
        to: To,
        *,
        at: datetime | None = None,
        every: str | timedelta | None = None,
        zone: str | None = None,
        start: datetime | None = None,
        until: datetime | None = None,
        count: int | None = None,
        excluding: Collection[date] = (),
        activity: Activity | str | None = None,
        continuation: str | None = None,
        value: Any = None,
        misfire: MisfirePolicy = "latest",
        grace: timedelta | str = GRACE,
        expires: timedelta | str | None = None,
        urgent: bool = False,
        tag: str | None = None,
        id: str | None = None,
    ) -> str:
        """Say something, or run a continuation, at a time or at times that recur.

            await notifications.schedule(context, at=context.now + timedelta(hours=1), activity="Tea!")
            await notifications.schedule(to, every="0 9 * * MON-FRI", zone="Europe/Paris", continuation="standup")
            await notifications.schedule(UserRecipient("8b7c…"), every=timedelta(hours=6), count=4, activity="Drink.")

        Args:
            to: a turn's `context`, for its conversation: a turn that is run again, because it failed or died, does not
                leave it twice, whatever it says the second time. Or a conversation (a reference, or a stored one's id),
                a `UserRecipient` or a `NewConversation`.
            at: one time: aware; or naive, which is what the clock shows in `zone`. One that has passed is due at once.
            every: times that recur: a cron expression of five fields, by the clock in `zone`; or an interval of a
                minute at least, counted in UTC, as a timedelta or as ISO 8601 writes it.
            zone: an IANA name. Left out where one is needed, it is the recipient's own, if that is known, as it is now.
            start: no occurrence before it; an interval has its first one then. Now, or one interval from now.
            until: no occurrence after it.
            count: how many there are, 10,000 at most.
            excluding: local dates without an occurrence, 366 at most.
            activity: what to send; or
            continuation: the name of what to run, with `value` in its activity.
            misfire: what becomes of those that nobody was there for: `latest` sends the newest and drops the others,
                `skip` drops those that are late by more than `grace`, `all` sends all, the newest 100 at most.
            grace: how late one may be without being late.
            expires: how long after its time one is still worth sending, whatever it waits for.
            urgent: passes quiet hours and the number a day, never an opt-out.
            tag: a name to list it by.
            id: a name of the caller's own for it, 1 to 64 characters of A-Z a-z 0-9 . _ ~ - that are used once for a
                recipient: whoever does not know whether it was stored says the same again, and it is there once. That
                holds while it is kept, which is two weeks after its end.

        Returns:
            The schedule's id, which has the name in it. When this returns the schedule survives. Of two callers at once
            with one name and the same content, both get the one schedule; with other content the second is refused.

        Raises:
            InvalidSchedule: a ValueError with the `field` to mend; nothing is stored.
            ScheduleConflict: `id` names a schedule that was made of something else; nothing is stored.
            ConversationNotFound: the conversation, or the one that tells the recipient's zone; nothing is stored.
            ContinuationNotFound: nothing is stored.
            StoreUnavailable: it may be stored or not.
        """
        when: When = {
            "at": at,
            "every": every,
            "zone": zone,
            "start": start,
            "until": until,
            "count": count,
            "excluding": excluding,
        }
        content = self._terms.content(activity, continuation, value)
        misfires = Misfires(misfire, span(grace, "grace"), None if expires is None else span(expires, "expires"))
        schedule_id, request = new_id(named := recipient_of(to), self._new_id()), None
        once = to.name_for_later() if isinstance(to, TurnContext) and id is None else None
        if once is not None:
            schedule_id = new_id(named, id_for("turn", once).replace("|", "-"))
            if await self._schedules.get(schedule_id) is not None:
                return schedule_id
        if id is not None:
            said = {**when, "excluding": sorted(map(str, excluding)), **content, **misfires.to_dict()}
            schedule_id = chosen_id(named, id)
            request = digest({**said, "to": named.to_dict(), "urgent": urgent, "tag": tag})
            if await self._was_made(schedule_id, request):
                return schedule_id
        recipient = await self._terms.recipient(to)
        now = self._now()
        recurrence = await self._terms.recurrence(when, recipient, now)
        schedule = Schedule(
            id=schedule_id,
            to=recipient,
            recurrence=recurrence,
            next=first(recurrence, now),
            misfires=misfires,
            urgent=checked_bool(urgent),
            tag=checked_tag(tag),
            created=now,
            request=request,
            **content,
        )
        try:
            await self._timer.hand_over_now(await self._schedules.add(schedule))
        except DocumentExists:
            if once is None and (request is None or not await self._was_made(schedule_id, request)):
                raise
        return schedule_id

    async def update(self, schedule_id: str, **changes: Unpack[Changes]) -> bool:
        """Change a schedule; what it left on the queue is not delivered, but comes anew if its time is still to come.

        Whatever is not given stays. A new `at` or `every` takes the place of the other. One that is done can be given a
        new time. What has begun to be delivered in this very moment comes as it was.

        Returns:
            False if there is none, it was cancelled, or nothing of it is still to come and no new time is given.

        Raises:
            Like `schedule`; nothing is changed then.
        """
        timed = changes.keys() & When.__annotations__.keys()
        while True:
            known = await self._known(schedule_id)
            if known is None or known.status in ("cancelled", "unusable"):
                return False
            now = self._now()
            values = self._terms.changed(known, changes)
            if timed:
                recurrence = await self._terms.recurrence(merged(known.recurrence, changes), known.to, now)
                values |= {"recurrence": recurrence, "next": first(recurrence, now)}
            elif (following := _still_to_come(known, now)) is not None:
                values["next"] = following
            else:
                return False
            status: Status = "paused" if known.status == "paused" else "scheduled"
            if await self._write(known, known.change(now, status=status, **values)):
                return True

    async def cancel(self, schedule_id: str) -> bool:
        """Stop it, even what is already on the queue; False if there is none, or all of it was delivered."""
        return await self._stop(schedule_id, "cancelled")

    async def pause(self, schedule_id: str) -> bool:
        """Stop it until `resume`, what is already on the queue too; False if nothing of it is to come."""
        return await self._stop(schedule_id, "paused")

    async def resume(self, schedule_id: str) -> bool:
        """Go on after `pause`; False if it is not paused.

        What recurs goes on with the next time from now. A single time that has passed meanwhile is late, and its
        `misfire` says what that means.
        """
        while True:
            known = await self._known(schedule_id)
            if known is None or known.status != "paused":
                return False
            now = self._now()
            following = known.next if known.recurrence.at is not None else known.recurrence.first_due(now)
            status: Status = "scheduled" if following is not None else "done"
            if await self._write(known, known.change(now, status=status, next=following)):
                return True

    async def get(self, schedule_id: str) -> Schedule | None:
        """A schedule, for two weeks after its end too."""
        return await self._schedules.get(schedule_id)

    async def preview(self, schedule_id: str, limit: int = 10) -> list[datetime]:
        """The next nominal times of a schedule, in UTC, 10,000 at most; none if it is paused, has ended or is unknown.

        `preview_of` is for one that is not stored.

        Raises:
            InvalidSchedule: `limit` is below 1 or above 10,000.
        """
        limit = checked_limit(limit)
        schedule = await self._schedules.get(schedule_id)
        if schedule is None or schedule.status != "scheduled" or schedule.next is None:
            return []
        return schedule.recurrence.occurrences(schedule.next, limit)

    async def preview_of(
        self, to: To | None = None, *, limit: int = 10, **when: Unpack[When]
    ) -> tuple[list[datetime], str | None]:
        """The first nominal times that `schedule` would have with the same words, and the zone it would go by.

        Args:
            to: whose zone it is, where one is needed and none is given.

        Raises:
            Like `schedule`.
        """
        limit = checked_limit(limit)
        now = self._now()
        recurrence = await self._terms.recurrence(when, recipient_of(to) if to is not None else None, now)
        return recurrence.occurrences(first(recurrence, now), limit), recurrence.zone

    async def page(
        self,
        to: To | None = None,
        *,
        tag: str | None = None,
        status: Status | None = None,
        limit: int = 100,
        continuation: str | None = None,
    ) -> SchedulePage:
        """Some of what `list` gives, 1 to 1000, maybe fewer though more follow. ValueError: no continuation of ours."""
        page = await self._schedules.page(_where(to, tag, status), limit=limit, continuation=continuation)
        return SchedulePage([each for each in page.schedules if each.is_notification], page.continuation)

    async def list(
        self, to: To | None = None, *, tag: str | None = None, status: Status | None = None
    ) -> AsyncIterator[Schedule]:
        """The schedules for a recipient, as they were given it; with a tag; with a status. Without anything: all.

        A user's do not include those for the user's conversations, nor the other way round.
        """
        async for schedule in self._schedules.matching(_where(to, tag, status)):
            if schedule.is_notification:
                yield schedule

    async def send_due(self, now: datetime, *, until: datetime | None = None) -> int:
        """The timer's tick: hand everything that is due over to the work queue; returns how many occurrences.

        Args:
            until: go no further then; what is left is for the next tick.

        Raises:
            StoreUnavailable, QueueUnavailable: what was not handed over comes with a later tick.
        """
        return (await self._timer.tick(now, until=until)).handed_over

    # -- people's time

    async def mute(self, to: ConversationReference | Conversation | str) -> None:
        """Opt out: no notification from now on, urgent ones included; what waits is dropped when its time comes.

        Of the user where `to` is alone with the agent, in all his conversations on that channel; else of that group.

        Raises:
            ConversationNotFound: it is not known.
        """
        await self._preferences.mute(to)

    async def unmute(self, to: ConversationReference | Conversation | str) -> None:
        """Opt in again; what was dropped meanwhile does not come. Raises ConversationNotFound."""
        await self._preferences.unmute(to)

    async def set_quiet_hours(
        self, to: ConversationReference | Conversation | str, quiet_hours: QuietHours | None
    ) -> None:
        """When the recipient wants none, besides the app's `quiet_hours`; None for whenever those allow.

        What waits already is looked at again when the time comes that was found for it, and then by the new ones.

        Raises:
            ConversationNotFound: it is not known.
        """
        await self._preferences.set_quiet_hours(to, quiet_hours)

    async def preferences(self, to: ConversationReference | Conversation | str) -> Preferences:
        """What the recipient wants. Raises ConversationNotFound."""
        return await self._preferences.get(to)

    # -- what is stored, and changes of it

    async def _was_made(self, schedule_id: str, request: str) -> bool:
        """Whether a schedule of that id was made of the same."""
        known = await self._schedules.get(schedule_id)
        if known is not None and known.request != request:
            raise ScheduleConflict(
                f"The id of schedule {schedule_id!r} was used before, with other content: change that schedule, or "
                "choose another id",
                code="IdTaken",
            )
        return known is not None

    async def _known(self, schedule_id: str) -> Schedule | None:
        """A schedule; one that a timer has in hand as it will be after that."""
        known = await self._schedules.get(schedule_id)
        return decide(known)[1] if known is not None and known.claim is not None else known

    async def _stop(self, schedule_id: str, status: Status) -> bool:
        while True:
            known = await self._known(schedule_id)
            if known is None or known.status in ("cancelled", "unusable", status):
                return False
            now = self._now()
            following = _still_to_come(known, now)
            if following is None:
                # All was handed over; what of it is not delivered yet can still be stopped.
                following = known.handed_over[-1] if known.handed_over else None
                if following is None or await self._is_delivered(known, following):
                    return False
            if await self._write(known, known.change(now, status=status, next=following)):
                return True

    async def _is_delivered(self, schedule: Schedule, due: datetime) -> bool:
        """Whether an occurrence came to its end, in the conversation that it was for."""
        place = await place_of(self._ledger, schedule, due)
        return place is not None and await self._ledger.settled(schedule.key_of(due), place.conversation_id) is not None

    async def _write(self, known: Schedule, changed: Schedule) -> bool:
        """False if somebody else was faster."""
        assert known.stored is not None
        [document] = await self._schedules.write([(known.stored, changed.to_document())])
        if document is not None:
            await self._timer.hand_over_now(replace(changed, stored=document))
        return document is not None


def _where(to: To | None, tag: str | None, status: Status | None) -> list[Where]:
    where = []
    if to is not None:
        recipient = recipient_of(to)
        of_conversation = isinstance(recipient, ConversationRecipient)
        where.append(Where("conversation" if of_conversation else "recipient", "=", recipient.name))
    if tag is not None:
        where.append(Where("tag", "=", str(checked_tag(tag))))
    if status is not None:
        where.append(Where("status", "=", status))
    return where


def _still_to_come(known: Schedule, now: datetime) -> datetime | None:
    """The first nominal time that another generation has to bring anew: one that waits on the queue for its time, or
    the first that nobody has decided about."""
    waiting = [due for due in known.handed_over if due > now] if known.status != "paused" else []
    return min([*waiting, *([known.next] if known.next is not None else [])], default=None)
