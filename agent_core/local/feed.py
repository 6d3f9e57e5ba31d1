"""Tells open pages at once that there is something new; what it is, they read from the transcript."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

# changed: this conversation's transcript; elsewhere: another one's; typing: the agent types here; end: stop listening.
Signal = Literal["changed", "elsewhere", "typing", "end"]


class Feed:
    """Signals from the channel to every listener. They carry no data, so a lost or doubled one does no harm."""

    def __init__(self) -> None:
        self.ended = False
        self._listeners: set[tuple[str, asyncio.Queue[Signal]]] = set()

    @contextmanager
    def listen(self, conversation: str) -> Iterator[asyncio.Queue[Signal]]:
        """A queue of what happens from now on, as seen from that conversation."""
        listener = (conversation, asyncio.Queue[Signal]())
        self._listeners.add(listener)
        try:
            yield listener[1]
        finally:
            self._listeners.discard(listener)

    def changed(self, conversation: str) -> None:
        for name, signals in self._listeners:
            signals.put_nowait("changed" if name == conversation else "elsewhere")

    def typing(self, conversation: str) -> None:
        for name, signals in self._listeners:
            if name == conversation:
                signals.put_nowait("typing")

    def end(self) -> None:
        """Let every listener go, and keep it so: there will be no further news."""
        self.ended = True
        for _, signals in self._listeners:
            signals.put_nowait("end")
