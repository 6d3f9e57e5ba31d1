"""People's time: whether a notification goes out now, waits, or is dropped, by what its recipient and the app want."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from agent_core.errors import DocumentChanged, DocumentExists, InvalidSchedule
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.preferences import HeldNotification, PreferenceOwner, Preferences, PreferenceStore
from agent_core.proactive.quiet_hours import Decision, QuietHours, decide
from agent_core.proactive.turn_record import MAX_CONFLICTS
from agent_core.store.document_store import Document, JsonObject, id_for, time_text

# Of one recipient, so many that wait are known, and come in order.
MAX_HELD = 100
# One that is this late does not hold up those after it: it is tried again, or went another way.
OVERDUE = timedelta(minutes=3)
# Who waits for an earlier one comes again so soon; for many earlier ones so much later, up to the longest.
MOMENT = timedelta(seconds=1)
LONGEST_MOMENT = timedelta(seconds=30)
# What came counts on its local day, which is over by then in every zone.
COUNTED = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Notice:
    """That a delivery is a notification, so that people's time holds for it.

    Attributes:
        nominal: when it was to come; None: when its work came first. Those that wait for one recipient go by this.
        urgent: passes quiet hours and limits, and what waits; an opt-out holds.
        expires_at: it is dropped then.
    """

    nominal: datetime | None = None
    urgent: bool = False
    expires_at: datetime | None = None


class HeldBack(Exception):
    """The work is to wait, which is no failure of it."""

    def __init__(self, until: datetime, reason: str) -> None:
        super().__init__(reason)
        self.until = until
        self.reason = reason


class NotWanted(Exception):
    """The work is not to be done, which is no failure of it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class DeliveryGate:
    """Lets notifications through, by the app's rule and by the preferences of their recipients."""

    def __init__(
        self, preferences: PreferenceStore, quiet_hours: QuietHours | None, *, now: Callable[[], datetime]
    ) -> None:
        """`quiet_hours` hold for every recipient, by his own clock where his channel tells his zone."""
        self._preferences = preferences
        self._quiet_hours = quiet_hours
        self._now = now

    async def read(self, conversation: Conversation) -> Document | None:
        """What `check` and `gone` need; nothing is written."""
        return await self._preferences.read(PreferenceOwner.of(conversation))

    async def check(
        self, conversation: Conversation, stored: Document | None, key: str, notice: Notice, nominal: datetime
    ) -> str:
        """Why the notification may go out now, for people to read.

        Where there is a limit a day, it has its place from then on; of two at once one gets the last place. Asking
        again for the same notification takes no second place.

        Args:
            stored: what `read` gave.
            key: the delivery's, unique in the conversation.
            nominal: when it was to come, where the notice does not say.

        Raises:
            HeldBack: not now. It is listed, so that those of one recipient come in order, and before newer ones.
            NotWanted: it is never to come.
        """
        recipient, named = PreferenceOwner.of(conversation), _named(conversation, key)
        waiting = replace(notice, nominal=notice.nominal or nominal)
        for _ in range(MAX_CONFLICTS):
            now = self._now()
            preferences = Preferences.from_document(stored)
            rules = self._rules(conversation, preferences)
            decision = _decide(now, rules, preferences, named, waiting)
            changes = _changes(now, rules, preferences, named, waiting, decision)
            try:
                if changes:
                    await self._preferences.write(recipient, stored, changes)
            except (DocumentExists, DocumentChanged):
                stored = await self._preferences.read(recipient)
                continue
            if decision.outcome == "drop":
                raise NotWanted(decision.reason)
            if decision.at is not None:
                raise HeldBack(decision.at, decision.reason)
            return decision.reason
        raise DocumentChanged("The preferences of a recipient are written by too many at once; try again")

    async def gone(self, conversation: Conversation, stored: Document | None, key: str) -> None:
        """It went out or never will: those after it need not wait. Of two at once both succeed."""
        recipient, named = PreferenceOwner.of(conversation), _named(conversation, key)
        for _ in range(MAX_CONFLICTS):
            if stored is None or named not in stored.body["held"]:
                return
            left = {other: each for other, each in stored.body["held"].items() if other != named}
            try:
                await self._preferences.write(recipient, stored, {"held": left})
                return
            except (DocumentExists, DocumentChanged):
                stored = await self._preferences.read(recipient)

    def _rules(self, conversation: Conversation, preferences: Preferences) -> list[QuietHours]:
        rules = [] if preferences.quiet_hours is None else [preferences.quiet_hours]
        if self._quiet_hours is not None:
            rules.insert(0, _by_clock_of(conversation, self._quiet_hours))
        return rules


def _named(conversation: Conversation, key: str) -> str:
    # A user's preferences know of all his conversations, and each has keys of its own.
    return id_for("notification", conversation.id, key)


def _by_clock_of(conversation: Conversation, rule: QuietHours) -> QuietHours:
    if conversation.time_zone is None or not conversation.reference.is_personal:
        return rule
    try:
        return replace(rule, zone=conversation.time_zone)
    except InvalidSchedule:  # channels tell what they like
        return rule


def _decide(
    now: datetime, rules: Sequence[QuietHours], preferences: Preferences, named: str, notice: Notice
) -> Decision:
    decision = decide(
        now,
        rules,
        sent=[at for other, at in preferences.sent.items() if other != named],
        urgent=notice.urgent,
        opted_out=preferences.muted is not None,
        expires_at=notice.expires_at,
    )
    if decision.outcome != "send" or notice.urgent:
        return decision
    # One whose time is far has been held by other rules than those of now, and is not waited for.
    before = sum(
        1
        for other, each in preferences.held.items()
        if (each.nominal, other) < (notice.nominal, named) and each.at - LONGEST_MOMENT <= now <= each.at + OVERDUE
    )
    if not before:
        return decision
    at = now + min(before * MOMENT, LONGEST_MOMENT)
    return Decision("hold", f"held until {at:%Y-%m-%d %H:%M:%S} UTC because {before} that wait longer go first", at)


def _changes(
    now: datetime,
    rules: Sequence[QuietHours],
    preferences: Preferences,
    named: str,
    notice: Notice,
    decision: Decision,
) -> JsonObject:
    """What the decision changes in the document; nothing in most."""
    if decision.outcome == "send":
        limit = max((rule.a_day for rule in rules if rule.a_day is not None), default=0)
        if not limit:
            return {}
        recent = {other: at for other, at in preferences.sent.items() if at > now - COUNTED} | {named: now}
        # More than the limit, of those that came last, need not be known.
        newest = sorted(recent.items(), key=lambda each: each[1])[-limit:]
        return {"sent": {other: time_text(at) for other, at in newest}}
    held = {other: each for other, each in preferences.held.items() if each.at >= now - OVERDUE}
    if decision.at is not None and notice.nominal is not None:
        held[named] = HeldNotification(notice.nominal, decision.at)
        held = dict(sorted(held.items(), key=lambda each: (each[1].nominal, each[0]))[:MAX_HELD])
    else:
        held.pop(named, None)
    if held == preferences.held:
        return {}
    return {"held": {other: each.to_dict() for other, each in held.items()}}
