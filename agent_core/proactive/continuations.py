"""Continuations by name: what a callback or a schedule can ask the agent to go on with."""

from __future__ import annotations

from agent_core.errors import ContinuationNotFound, RouteError
from agent_core.turn.turn_state import Handler


class Continuations:
    """The handlers registered with `@agent.continuation(name)`."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def add(self, name: str, handler: Handler) -> None:
        """Raises RouteError if the name is taken: which of two would run must not depend on the order of imports."""
        if name in self._handlers:
            raise RouteError(f"Two continuations are called {name!r}; each name answers to one handler")
        self._handlers[name] = handler

    def __getitem__(self, name: str) -> Handler:
        """Raises ContinuationNotFound, which names those that exist."""
        if name not in self._handlers:
            raise ContinuationNotFound(name, tuple(sorted(self._handlers)))
        return self._handlers[name]
