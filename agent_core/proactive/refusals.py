"""What a channel refused for good in a turn, seen where it is sent: a handler may catch the error, or hide it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from agent_core.activity.activity import Activity
from agent_core.activity.conversation_reference import ResourceResponse
from agent_core.errors import ChannelError
from agent_core.turn.turn_context import TurnContext

T = TypeVar("T")


def watch_refusals(context: TurnContext) -> list[ChannelError]:
    """The refusals of this turn's own messages and edits, added as they come; those of other turns are none of it."""
    refused: list[ChannelError] = []

    async def noted(sending: Awaitable[T], decisions: tuple[str, ...]) -> T:
        try:
            return await sending
        except ChannelError as error:
            if error.decision in decisions:
                refused.append(error)
            raise

    async def send(
        context: TurnContext,
        activities: Sequence[Activity],
        send_on: Callable[[Sequence[Activity]], Awaitable[list[ResourceResponse]]],
    ) -> list[ResourceResponse]:
        return await noted(send_on(activities), ("blocked", "gone"))

    async def update(
        context: TurnContext, activity: Activity, send_on: Callable[[Activity], Awaitable[ResourceResponse]]
    ) -> ResourceResponse:
        # What is gone for an edit is the message.
        return await noted(send_on(activity), ("blocked",))

    context.on_send_activities(send)
    context.on_update_activity(update)
    return refused
