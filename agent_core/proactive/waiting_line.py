"""Waiting for a conversation's turn in place, for a short while: who comes again from the queue needs a second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

from agent_core.proactive.ledger import Found, InLine
from agent_core.proactive.turn_order import Outlook

# Several turns of other hosts, and a sixth of the shortest lock that a queue gives by default (30 s).
PATIENCE = timedelta(seconds=5)
# A look is one point read. Who waited for long looks less often: what it then loses is a third of what it waited.
SHORTEST_PAUSE = timedelta(milliseconds=10)
LONGEST_PAUSE = timedelta(milliseconds=500)
# Who is first in line and waits as we do has looked within this time; one that has not is on a queue, maybe behind us.
ABSENT_AFTER = timedelta(seconds=1)
# Whoever waited in vain makes room for those that it may have waited for: a worker that does one thing after the other
# must come round all its messages before their places in line are lost.
IMPATIENT = timedelta(seconds=10)
# Of the 16 messages that a Functions host hands out at once (host.json), the others are left to conversations that
# nobody holds up.
MAX_WAITING = 4


@dataclass(eq=False)
class Present:
    """The work of one conversation that is in this process.

    Attributes:
        lock: one after the other, in the order they came; only the first meets the other hosts' in the line.
        keys: of those that have it, or wait for it.
    """

    conversation_id: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    keys: list[str] = field(default_factory=list)

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
        # By conversation; the empty id stands for all.
        self._impatient_until: dict[str, datetime] = {}

    def at(self, conversation_id: str) -> Present:
        """Who is present there, as long as the caller keeps it."""
        present = self._present.get(conversation_id)
        if present is None:
            present = self._present[conversation_id] = Present(conversation_id)
        return present

    async def wait(
        self,
        present: Present,
        found: Found,
        look: Callable[[], Awaitable[Outlook]],
        claim: Callable[[], Awaitable[Found]],
    ) -> Found:
        """Claim what is in line when it is due, if that is soon; returns the last answer.

        Args:
            found: the answer that `claim` gave first.
        """
        if not isinstance(found, InLine) or self._waiting >= MAX_WAITING or self._is_impatient(present):
            return found
        self._waiting += 1
        try:
            return await self._wait(present, found, look, claim)
        finally:
            self._waiting -= 1

    async def _wait(
        self,
        present: Present,
        found: Found,
        look: Callable[[], Awaitable[Outlook]],
        claim: Callable[[], Awaitable[Found]],
    ) -> Found:
        began, free_since = self._now(), None
        while isinstance(found, InLine) and not present.hold_up(found):
            now = self._now()
            if found.not_before is not None and found.not_before > now:
                break  # it comes again together with that one
            if now - began >= PATIENCE:
                self._impatient_until[present.conversation_id] = now + IMPATIENT
                break
            if free_since is not None and now - free_since >= ABSENT_AFTER:
                self._impatient_until[""] = now + IMPATIENT
                break
            await self._sleep(min(LONGEST_PAUSE, max(SHORTEST_PAUSE, (now - began) / 3)) * (0.5 + self._random()))
            outlook = await look()
            if outlook == "due":
                found = await claim()
            free_since = (free_since or self._now()) if outlook == "free" else None
        return found

    def _is_impatient(self, present: Present) -> bool:
        now = self._now()
        self._impatient_until = {each: until for each, until in self._impatient_until.items() if until > now}
        return "" in self._impatient_until or present.conversation_id in self._impatient_until
