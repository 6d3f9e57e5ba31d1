"""A consumer in a process of its own: works through the queues in a folder, and says when which handler ran.

`python -m tests.faults.callback_worker FOLDER [sessions]`; it ends when nothing is left on the queues.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent_core import AgentApplication, TurnContext, TurnState
from agent_core.channel.cloud_adapter import AgentIdentity, CloudAdapter
from agent_core.channel.connector_client import ConnectorClient
from agent_core.channel.http_client import HttpClient
from agent_core.channel.url_guard import UrlGuard
from agent_core.hosting.queued_message import ReceivedMessage
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.proactive.queue import QueueMessage
from agent_core.store.document_store import DocumentStore
from agent_core.store.sqlite_store import SqliteStore
from tests.serving import anywhere

AT_ONCE = 8
CONTINUATION = "shipped"
Handle = Callable[[QueueMessage], Awaitable[None]]


def now() -> datetime:
    return datetime.now(UTC)


class Worker:
    """An agent over the files in a folder, which other processes use too."""

    def __init__(
        self,
        folder: Path,
        *,
        sessions: bool = False,
        wrap: Callable[[DocumentStore], DocumentStore] = lambda each: each,
    ) -> None:
        lock = timedelta(minutes=5)
        self.http = HttpClient(allow_address=anywhere)
        connector = ConnectorClient(self.http, None, now)
        self.adapter = CloudAdapter(
            identity=lambda: AgentIdentity(None, None),
            connector=lambda: connector,
            guard=lambda: UrlGuard(development=True),
            now=now,
        )
        self.store = wrap(SqliteStore(folder / "store.db", now))
        self.callbacks = SqliteQueue(
            folder / "queues.db", "callbacks", now=now, lock_duration=lock, requires_session=sessions
        )
        self.work = SqliteQueue(folder / "queues.db", "work", now=now, lock_duration=lock)
        self.agent = AgentApplication(self.adapter, self.store, self.work)

    async def run(self) -> None:
        """Work until nothing is left, with others."""
        await asyncio.gather(
            self._consume(self.callbacks, self.agent.receive_callback), self._consume(self.work, self.agent.do_work)
        )

    async def _consume(self, queue: SqliteQueue, handle: Handle) -> None:
        running: set[asyncio.Task[None]] = set()
        while True:
            received = await queue.receive(AT_ONCE - len(running)) if len(running) < AT_ONCE else []
            running |= {asyncio.create_task(_settle(queue, each, handle)) for each in received}
            if running:
                # A message of another process may come at any time; so look again soon.
                done, running = await asyncio.wait(running, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    each.result()
            # What moves from the callbacks to the work is on both for a moment, and never on none.
            elif not await self.callbacks.count() and not await self.work.count():
                return
            else:
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        await self.http.close()
        for each in (self.store, self.callbacks, self.work):
            await each.close()


async def _settle(queue: SqliteQueue, received: ReceivedMessage, handle: Handle) -> None:
    await handle(received.message)
    await queue.complete(received)


async def main(folder: Path, sessions: bool) -> None:
    worker = Worker(folder, sessions=sessions)

    @worker.agent.continuation(CONTINUATION)
    async def shipped(context: TurnContext, state: TurnState) -> None:
        began = time.monotonic_ns()
        await context.send_activity(context.activity.value)
        # One clock for all processes of a machine.
        sys.stdout.write(f"{context.conversation.conversation_id} {began} {time.monotonic_ns()}\n")

    await worker.run()
    await worker.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), "sessions" in sys.argv[2:]))
