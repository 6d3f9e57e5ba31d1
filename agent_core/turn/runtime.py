"""What a turn needs of the world, named apart from streaming so that a turn without a stream does not load it."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime, timedelta
from typing import Protocol


class Runtime(Protocol):
    """Tells the time, waits, and makes ids."""

    def now(self) -> datetime:
        """The time, aware, UTC."""

    def sleep(self, delay: timedelta, /) -> Awaitable[None]:
        """Return when that much time has passed."""

    def new_id(self) -> str:
        """An id that nobody else has."""
