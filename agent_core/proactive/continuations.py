"""Continuations by name: what a callback or a schedule can ask the agent to go on with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_core.errors import ContinuationNotFound, RouteError
from agent_core.turn.turn_state import Handler

if TYPE_CHECKING:  # a name alone is no reason to load the ledger
    from agent_core.proactive.ledger import WhenUnsure


class Continuations:
    """The handlers registered with `@agent.continuation(name)`."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._when_unsure: dict[str, WhenUnsure] = {}

    def add(self, name: str, handler: Handler, when_unsure: WhenUnsure = "park") -> None:
        """Raises RouteError if the name is taken: which of two would run must not depend on the order of imports."""
        if name in self._handlers:
            raise RouteError(f"Two continuations are called {name!r}; each name answers to one handler")
        self._handlers[name] = handler
        self._when_unsure[name] = when_unsure

    def when_unsure(self, name: str) -> WhenUnsure:
        """What becomes of its message of which nobody knows whether it arrived."""
        return self._when_unsure.get(name, "park")

    def __getitem__(self, name: str) -> Handler:
        """Raises ContinuationNotFound, which names those that exist."""
        if name not in self._handlers:
            raise ContinuationNotFound(name, tuple(sorted(self._handlers)))
        return self._handlers[name]
