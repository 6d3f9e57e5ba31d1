"""The onion around a turn: each middleware runs before and after what it wraps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from agent_core.turn.turn_context import TurnContext

Logic = Callable[[], Awaitable[None]]


class Middleware(Protocol):
    """Something around every turn: log it, measure it, refuse it, or change what goes out.

    class Refuse:
        async def on_turn(self, context, logic):
            if allowed(context):
                await logic()          # without this the turn ends here
    """

    async def on_turn(self, context: TurnContext, logic: Logic) -> None:
        """Call `logic()` once to go on inwards; what it raises comes through here on its way out."""


class MiddlewareSet:
    """Middleware in order, the first one outermost; a set is a middleware itself, so sets nest."""

    def __init__(self, *members: Middleware) -> None:
        self._members = list(members)

    def use(self, *members: Middleware) -> None:
        """Add middleware inside of what is already there."""
        self._members.extend(members)

    async def on_turn(self, context: TurnContext, logic: Logic) -> None:
        for member in reversed(self._members):
            logic = partial(member.on_turn, context, logic)
        await logic()
