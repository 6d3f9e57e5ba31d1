"""An agent with everything in memory, for tests of what it does by itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import datetime, timedelta

from agent_core import AgentApplication
from agent_core.activity.json_text import dump
from agent_core.proactive.dead_letters import DeadLetter
from agent_core.proactive.queue import QueueMessage
from agent_core.proactive.quiet_hours import QuietHours
from agent_core.proactive.tickets import Tickets
from agent_core.store.document_store import DocumentStore
from agent_core.store.memory_store import MemoryStore
from agent_core.testing import ManualClock, MemoryQueue, TestAdapter


class Setting:
    """An agent, its channel, store, queue and clock."""

    def __init__(
        self,
        channel_id: str = "emulator",
        tickets: Tickets | None = None,
        wrap: Callable[[DocumentStore], DocumentStore] | None = None,
        open_store: Callable[[Callable[[], datetime]], DocumentStore] = MemoryStore,
        quiet_hours: QuietHours | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.adapter = TestAdapter(self.clock, channel_id)
        opened = open_store(self.clock.now)
        self.store = wrap(opened) if wrap else opened
        self.queue = MemoryQueue(self.clock)
        numbers = itertools.count(1)
        self.agent = AgentApplication(
            self.adapter,
            self.store,
            self.queue,
            tickets=tickets,
            quiet_hours=quiet_hours,
            new_id=lambda: f"id{next(numbers)}",
        )

    async def callback(self, body: object, message_id: str = "m1") -> None:
        """A message arrives on the callback queue."""
        await self.agent.receive_callback(QueueMessage(body if isinstance(body, bytes) else dump(body), message_id))

    async def work(self) -> int:
        """Do what is due on the work queue; returns how many messages there were."""
        due = self.queue.take_due()
        for message in due:
            await self.agent.do_work(message)
        return len(due)

    async def later(self, delta: timedelta) -> None:
        """Time passes, with a tick of the timer at the end of it, and the work that it brings is done."""
        await self.clock.advance(delta)
        await self.agent.notifications.send_due(self.clock.now())
        while await self.work():
            pass

    async def dead_letters(self) -> list[DeadLetter]:
        """All dead letters."""
        return [letter async for letter in self.agent.dead_letters.list()]
