"""Waiting for a conversation's turn in place, for a short while: who comes again from the queue needs a second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from weakref import WeakValueDictionary

from agent_core.proactive.ledger import Found, InLine

# Several turns of other hosts, and a sixth of the shortest lock that a queue gives by default (30 s).
PATIENCE = timedelta(seconds=5)
# A look is one point read. Who waited for long looks less often: what it then loses is a third of what it waited.
SHORTEST_PAUSE = timedelta(milliseconds=10)
LONGEST_PAUSE = timedelta(milliseconds=500)
# Of the 16 messages that a Functions host hands out at once (host.json), the others are left to conversations that
# nobody holds up.
MAX_WAITING = 4
LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(eq=False)
class Present:
    """The work of one conversation that is in this process.

    Attributes:
        lock: one after the other, in the order they came; only the first meets the other hosts' in the line.
        keys: of those that have it, or wait for it.
        patient_again: until then nobody waits for other hosts here, for somebody did so in vain.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    keys: list[str] = field(default_factory=list)
    patient_again: datetime = LONG_AGO

    def hold_up(self, found: InLine) -> bool:
        """Whether one that is before it in the line stands behind it in this process."""
        return any(key in self.keys for key in found.before)


class WaitingLine:
    """Who is present, and who of them waits for other hosts."""

    def __init__(
        self,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[timedelta], Awaitable[None]],
        random: Callable[[], float],
    ) -> None:
        """`random` gives numbers from 0 to 1: without them hosts that wait would look in step."""
        self._now = now
        self._sleep = sleep
        self._random = random
        self._present: WeakValueDictionary[str, Present] = WeakValueDictionary()
        self._waiting = 0

    def at(self, conversation_id: str) -> Present:
        """Who is present there, as long as the caller keeps it."""
        present = self._present.get(conversation_id)
        if present is None:
            present = self._present[conversation_id] = Present()
        return present

    async def wait(
        self,
        present: Present,
        found: Found,
        is_due: Callable[[], Awaitable[bool]],
        claim: Callable[[], Awaitable[Found]],
    ) -> Found:
        """Claim what is in line when it is due, if that is soon; returns the last answer.

        Args:
            found: the answer that `claim` gave first.
            is_due: looks whether to claim it is worth it.
        """
        began = self._now()
        if not isinstance(found, InLine) or self._waiting >= MAX_WAITING or began < present.patient_again:
            return found
        self._waiting += 1
        try:
            while isinstance(found, InLine) and not present.hold_up(found):
                waited = self._now() - began
                if found.not_before is not None and found.not_before > self._now():
                    break  # it comes again together with that one
                if waited >= PATIENCE:
                    present.patient_again = self._now() + PATIENCE
                    break
                await self._sleep(min(LONGEST_PAUSE, max(SHORTEST_PAUSE, waited / 3)) * (0.5 + self._random()))
                if await is_due():
                    found = await claim()
        finally:
            self._waiting -= 1
        return found
