"""Continuations that a turn leaves for later: schedules, which the queue brings on time where the time is near."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from agent_core.activity.conversation_reference import ConversationReference
from agent_core.errors import DocumentExists
from agent_core.proactive.continuations import Continuations
from agent_core.proactive.misfires import Misfires
from agent_core.proactive.recipients import ConversationRecipient
from agent_core.proactive.recurrence import Recurrence
from agent_core.proactive.schedules import Schedule, Schedules, new_id
from agent_core.proactive.timer import Timer
from agent_core.store.document_store import id_for, time_text

logger = logging.getLogger(__name__)

# What is due within this waits on the queue as well, and comes to the second; the rest comes with the timer's tick.
ON_THE_QUEUE = timedelta(days=1)


class ContinuingLater:
    """Stores what is to be continued later."""

    def __init__(
        self,
        schedules: Schedules,
        timer: Timer,
        continuations: Continuations,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._schedules = schedules
        self._timer = timer
        self._continuations = continuations
        self._now = now
        self._new_id = new_id

    async def add(
        self, reference: ConversationReference, continuation: str, value: Any, delay: timedelta, once: str | None
    ) -> str:
        """Store it; see `TurnContext.continue_later`.

        First the schedule, then the message: without the message the timer brings it, and with both it is one delivery.

        Args:
            once: what names this call; a second call of that name, at once or after, means the first one's schedule.
        """
        _ = self._continuations[continuation]
        if delay < timedelta(0):
            raise ValueError("'delay' is below zero; a continuation cannot run in the past")
        due = self._now() + delay
        to = ConversationRecipient(reference.conversation_id, reference.channel_id)
        unique = id_for("later", once).replace("|", "-") if once is not None else self._new_id()
        schedule = Schedule(
            id=new_id(to, unique),
            to=to,
            recurrence=Recurrence(at=due),
            next=due,
            continuation=continuation,
            value=value,
            misfires=Misfires("all"),
            is_notification=False,
            created=self._now(),
        )
        try:
            added = await self._schedules.add(schedule)
        except DocumentExists:
            # The turn was run before, as far as here; or it is our own write, repeated below us.
            stored = await self._schedules.get(schedule.id)
            if stored is None or stored.status != "scheduled":
                return schedule.id
            added = stored
        await self._timer.hand_over_now(added, ahead=ON_THE_QUEUE)
        logger.info(
            "Continuation %r is due at %s in conversation %r",
            continuation,
            time_text(due),
            reference.conversation_id,
        )
        return schedule.id
