"""Notifications: the agent speaks when a time has come."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

from agent_core.activity.activity import Activity
from agent_core.activity.conversation_reference import ConversationReference
from agent_core.activity.message_factory import MessageFactory
from agent_core.errors import ContinuationNotFound, DocumentChanged
from agent_core.proactive.continuations import Continuations
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.conversations import Conversations
from agent_core.proactive.dead_letters import DeadLetters
from agent_core.proactive.deliveries import Deliveries
from agent_core.proactive.delivery import Delivery
from agent_core.proactive.preferences import Preferences, PreferenceStore
from agent_core.proactive.proactive import Proactive
from agent_core.proactive.queue import Queue
from agent_core.proactive.quiet_hours import QuietHours
from agent_core.proactive.schedules import Schedule, Schedules
from agent_core.proactive.work import WorkItem
from agent_core.turn.turn_context import TurnContext
from agent_core.turn.turn_state import Handler, TurnState

logger = logging.getLogger(__name__)


class Notifications:
    """Schedules what is to be said, and hands over what is due."""

    def __init__(
        self,
        schedules: Schedules,
        queue: Queue,
        conversations: Conversations,
        continuations: Continuations,
        deliveries: Deliveries,
        dead_letters: DeadLetters,
        proactive: Proactive,
        preferences: PreferenceStore,
        *,
        new_id: Callable[[], str],
    ) -> None:
        self._schedules = schedules
        self._queue = queue
        self._conversations = conversations
        self._continuations = continuations
        self._deliveries = deliveries
        self._dead_letters = dead_letters
        self._proactive = proactive
        self._preferences = preferences
        self._new_id = new_id

    async def schedule(
        self,
        to: ConversationReference | Conversation | str,
        *,
        at: datetime,
        activity: Activity | str | None = None,
        continuation: str | None = None,
        value: Any = None,
    ) -> str:
        """Say something, or run a continuation, at a time.

        Args:
            to: where; `context.conversation` in a turn, or the id of a stored conversation.
            at: an aware time; one that has passed is due at once.
            activity: what to send; or
            continuation: the name of what to run, with `value` in its activity.

        Returns:
            The schedule's id, for `cancel`. When this returns the schedule survives.

        Raises:
            ValueError: a naive time, or not exactly one of activity and continuation; nothing is stored.
            ConversationNotFound, ContinuationNotFound: nothing is stored.
        """
        if at.tzinfo is None:
            raise ValueError("'at' needs a time zone; add one, as in datetime.now(UTC) + timedelta(minutes=5)")
        if (activity is None) == (continuation is None):
            raise ValueError("Give either 'activity' or 'continuation'")
        if continuation is not None:
            _ = self._continuations[continuation]
        if isinstance(to, str):
            to = await self._conversations.find(to)
        reference = to if isinstance(to, ConversationReference) else to.reference
        message = MessageFactory.text(activity) if isinstance(activity, str) else activity
        schedule = Schedule(
            id=self._new_id(),
            due=at,
            conversation_id=reference.conversation_id,
            channel_id=reference.channel_id,
            activity=message.to_dict() if message else None,
            continuation=continuation,
            value=value,
        )
        await self._schedules.add(schedule)
        return schedule.id

    async def cancel(self, schedule_id: str) -> bool:
        """Stop it, even if it is already on the queue; False if there is none, or it was delivered."""
        while True:
            stored = await self._schedules.get(schedule_id)
            if stored is None or stored.body["status"] in ("cancelled", "delivered"):
                return False
            try:
                await self._schedules.settle(stored, "cancelled")
                return True
            except DocumentChanged:
                continue

    async def send_due(self, now: datetime) -> int:
        """Hand everything that is due over to the work queue; returns how many.

        First the message, then the mark: a death in between hands the same message over again, and the queue's
        duplicate detection or the ledger drops it.
        """
        handed_over = 0
        async for document in self._schedules.due(now):
            schedule = Schedule.from_document(document)
            await self._queue.send(schedule.occurrence().to_message())
            try:
                await self._schedules.settle(document, "handed over")
            except DocumentChanged:
                # Cancelled, or another timer was as fast: the delivery looks at the schedule again.
                continue
            handed_over += 1
        return handed_over

    async def work_on(self, item: WorkItem) -> None:
        """Deliver one occurrence."""
        stored = await self._schedules.get(item.payload["schedule"])
        if stored is None or stored.body["status"] in ("cancelled", "delivered"):
            logger.info("Delivery: occurrence dropped (cancelled, or done before), key %r", item.key)
            return
        schedule = Schedule.from_document(stored)
        try:
            name, handler = self._handler(schedule)
        except ContinuationNotFound as error:
            reason = type(error).__name__
            logger.warning("Delivery: occurrence dead (%s), key %r: %s", reason, item.key, error)
            await self._dead_letters.add(
                key=item.key,
                what="occurrence",
                reason=reason,
                explanation=str(error),
                payload=item.to_message().body,
                conversation=schedule.conversation_id,
            )
            return

        async def find() -> Conversation:
            return await self._conversations.find(schedule.conversation_id, schedule.channel_id)

        async def run(delivery: Delivery) -> None:
            await self._proactive.continue_conversation(
                delivery.conversation,
                handler,
                value=schedule.value,
                prepare=delivery.watch,
                may_apologise=partial(self._deliveries.gives_up, delivery),
                marks=partial(self._deliveries.last_marks, delivery),
                user=delivery.user,
            )

        when_unsure = self._continuations.when_unsure(schedule.continuation or "")
        if await self._deliveries.deliver(
            item, schedule.conversation_id, find, run, what=f"occurrence {name!r}", when_unsure=when_unsure
        ):
            # Only so that `cancel` can tell; the ledger already knows.
            with suppress(DocumentChanged):
                await self._schedules.settle(stored, "delivered")

    def _handler(self, schedule: Schedule) -> tuple[str, Handler]:
        if schedule.continuation is not None:
            return schedule.continuation, self._continuations[schedule.continuation]
        activity = Activity.from_dict(schedule.activity or {})

        async def notification(context: TurnContext, state: TurnState) -> None:
            await context.send_activity(activity)

        return notification.__name__, notification

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
