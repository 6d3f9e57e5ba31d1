"""Occurrences: one nominal time of a schedule, delivered to whom it is for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from agent_core.activity.activity import Activity
from agent_core.activity.json_text import dump, parse_object
from agent_core.errors import ContinuationNotFound, ConversationNotFound, InvalidSchedule
from agent_core.proactive.continuations import Continuations
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.conversations import Conversations
from agent_core.proactive.dead_letters import DeadLetters
from agent_core.proactive.deliveries import Deliveries
from agent_core.proactive.delivery import Delivery
from agent_core.proactive.delivery_gate import Notice, NotWanted
from agent_core.proactive.directory import ConversationDirectory
from agent_core.proactive.ledger import Ledger
from agent_core.proactive.proactive import Proactive
from agent_core.proactive.recipients import ConversationRecipient, NewConversation, UserRecipient, newest_personal
from agent_core.proactive.schedules import Schedule, Schedules
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import parse_time
from agent_core.turn.turn_context import TurnContext
from agent_core.turn.turn_state import Handler, TurnState

logger = logging.getLogger(__name__)

# An occurrence begins at its time, by a clock that may be so much ahead of the one that the schedule was changed by.
CLOCKS_APART = timedelta(minutes=15)
# Generations before the present one that may have brought it; nobody changes a schedule more often in that time.
LOOKED_BACK = 10


class Occurrences:
    """Delivers what the timer, or whoever made a schedule for soon, put on the work queue."""

    def __init__(
        self,
        schedules: Schedules,
        conversations: Conversations,
        directory: ConversationDirectory,
        continuations: Continuations,
        deliveries: Deliveries,
        dead_letters: DeadLetters,
        ledger: Ledger,
        proactive: Proactive,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._schedules = schedules
        self._conversations = conversations
        self._directory = directory
        self._continuations = continuations
        self._deliveries = deliveries
        self._dead_letters = dead_letters
        self._ledger = ledger
        self._proactive = proactive
        self._now = now

    async def work_on(self, item: WorkItem) -> None:
        """Deliver one occurrence. Raises AgentError: the store or the queue was not reached; let it be done again."""
        try:
            schedule = await self._schedules.get(item.payload["schedule"])
            void = why_void(schedule, item.payload["generation"])
            if schedule is None or void:
                await self._drop(schedule, item, void)
                return
            name, handler = self._handler(schedule)
        except (ContinuationNotFound, InvalidSchedule) as error:
            await self._refuse(item, error)
            return
        place = await self._place(schedule, item)
        if place is not None:
            await self._deliver(schedule, item, place, name, handler)

    async def _drop(self, schedule: Schedule | None, item: WorkItem, void: str) -> None:
        """End it in the ledger. Where a worker died while it sent, that is reported there, and not dropped."""
        conversation_id, continuation = item.payload.get("conversation"), item.payload.get("continuation")
        if conversation_id is None and schedule is not None:
            as_it_was = replace(schedule, generation=item.payload["generation"])
            place = await place_of(self._ledger, as_it_was, parse_time(item.payload["due"]))
            conversation_id = place.conversation_id if place is not None else None
        if conversation_id is None:
            logger.info(
                "Delivery: occurrence dropped (%s) before its conversation was looked for, key %r", void, item.key
            )
            return

        async def run(delivery: Delivery) -> None:
            raise NotWanted(f"dropped because {void}")

        what = f"occurrence {continuation or 'notification'!r}"
        when_unsure = self._continuations.when_unsure(continuation or "")
        await self._deliveries.deliver(item, conversation_id, None, run, what=what, when_unsure=when_unsure)

    async def _deliver(
        self, schedule: Schedule, item: WorkItem, place: ConversationRecipient, name: str, handler: Handler
    ) -> None:
        async def find() -> Conversation:
            return await self._conversations.find(place.conversation_id, place.channel_id)

        async def keep(until: datetime) -> None:
            await self._schedules.keep_until(schedule.id, until, self._now())

        due = parse_time(item.payload["due"])
        notice = Notice(due, schedule.urgent, schedule.expires_at(due)) if schedule.is_notification else None

        async def run(delivery: Delivery) -> None:
            await self._check(schedule, item, place)
            await self._proactive.continue_conversation(
                delivery.conversation,
                handler,
                value=schedule.value,
                prepare=delivery.watch,
                may_apologise=partial(self._deliveries.gives_up, delivery),
                marks=partial(self._deliveries.last_marks, delivery),
                user=delivery.user,
            )

        await self._deliveries.deliver(
            item,
            place.conversation_id,
            find,
            run,
            what=f"occurrence {name!r}",
            when_unsure=self._continuations.when_unsure(schedule.continuation or ""),
            notice=notice,
            on_hold=keep,
        )

    async def _check(self, schedule: Schedule, item: WorkItem, place: ConversationRecipient) -> None:
        """Raise NotWanted for what is not to come any more, or came already; asked while the ledger has it as ours.

        From here on it has begun. Whoever stopped or changed the schedule before finds nothing sent; whoever does so
        after this leaves a claim behind that the next generation's occurrence of the same time finds here.
        """
        stored = await self._schedules.get(schedule.id)
        if void := why_void(stored, item.payload["generation"]):
            raise NotWanted(f"dropped because {void}")
        due = parse_time(item.payload["due"])
        if schedule.changed is None or due > schedule.changed + CLOCKS_APART:
            return
        earlier = [
            replace(schedule, generation=generation).key_of(due)
            for generation in range(max(1, schedule.generation - LOOKED_BACK), schedule.generation)
        ]
        found = await asyncio.gather(*(self._ledger.status(key, place.conversation_id) for key in earlier))
        if set(found) & {"sending", "sent", "parked"}:
            raise NotWanted("dropped because it came before its schedule was changed")

    # -- where it goes

    async def _place(self, schedule: Schedule, item: WorkItem) -> ConversationRecipient | None:
        """The conversation; None if that could not be found out now, which is then dealt with.

        A user's newest conversation may be another one tomorrow, and what created one must not do so twice. So finding
        it is a piece of work of its own under the ledger, and whoever does this occurrence again gets the same answer.
        """
        to = schedule.to
        if isinstance(to, ConversationRecipient):
            return to

        partition = _partition(schedule)

        async def find_or_create() -> str:
            found = await (self._newest(to, partition) if isinstance(to, UserRecipient) else self._created(to))
            return dump({"conversation": found.id, "channel": found.reference.channel_id}).decode()

        async def run(delivery: Delivery) -> None:
            await delivery.once(find_or_create)

        # Where the outcome of a creation is unknown, a personal conversation can be asked for again.
        again = isinstance(to, UserRecipient) or to.is_found_again
        what = f"{schedule.name}, its conversation"
        await self._deliveries.deliver(item, partition, None, run, what=what, when_unsure="resend" if again else "park")
        return await place_of(self._ledger, schedule, parse_time(item.payload["due"]))

    async def _newest(self, user: UserRecipient, looked_for_by: str) -> Conversation:
        found = await newest_personal(self._directory, user)
        if found is None:
            # Named so that the delivery takes it for its own, and waits: the user may be on the way.
            raise ConversationNotFound(
                looked_for_by, f"No active personal conversation with the user {user.name!r} is known"
            )
        return found

    async def _created(self, new: NewConversation) -> Conversation:
        return await self._proactive.create_conversation(new.channel_id, new.service_url, new.parameters)

    def _handler(self, schedule: Schedule) -> tuple[str, Handler]:
        if schedule.continuation is not None:
            return schedule.continuation, self._continuations[schedule.continuation]
        activity = Activity.from_dict(schedule.activity or {})

        async def notification(context: TurnContext, state: TurnState) -> None:
            await context.send_activity(activity)

        return notification.__name__, notification

    async def _refuse(self, item: WorkItem, error: ContinuationNotFound | InvalidSchedule) -> None:
        reason = type(error).__name__
        logger.warning("Delivery: occurrence dead (%s), key %r: %s", reason, item.key, error)
        await self._dead_letters.add(
            key=item.key,
            what="occurrence",
            reason=reason,
            explanation=str(error),
            payload=item.to_message().body,
            conversation=item.payload.get("conversation") or "",
        )


async def place_of(ledger: Ledger, schedule: Schedule, due: datetime) -> ConversationRecipient | None:
    """The conversation that an occurrence is for; None if it was not found or created yet."""
    if isinstance(schedule.to, ConversationRecipient):
        return schedule.to
    ended = await ledger.settled(schedule.key_of(due), _partition(schedule))
    if ended is None or ended.status != "sent":
        return None
    answer = parse_object(ended.activity_ids[0])
    return ConversationRecipient(answer["conversation"], answer["channel"])


def why_void(schedule: Schedule | None, generation: int) -> str:
    """Why an occurrence on the queue is not to be delivered any more; empty if it is."""
    if schedule is None:
        return "its schedule is gone"
    if schedule.status in ("cancelled", "paused", "unusable"):
        return f"its schedule is {schedule.status}"
    if schedule.generation != generation:
        return "its schedule was changed since"
    return ""


def _partition(schedule: Schedule) -> str:
    """Where the ledger keeps which conversations were found or created for it."""
    return f"schedule:{schedule.id}"
