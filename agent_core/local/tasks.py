"""Tasks that are kept track of, so that none is lost, fails unseen, or outlives its owner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

logger = logging.getLogger(__name__)


class Tasks:
    """A set of running tasks. Their coroutines handle their own errors; one that escapes is logged."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[None, None, None], when_done: Callable[[], None] | None = None) -> None:
        """Run in the background; `when_done` is called at the end, however it ends."""
        task = asyncio.create_task(work)
        self._running.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.error("A background task of the engine failed", exc_info=error)
            if when_done is not None:
                when_done()

        task.add_done_callback(done)

    def cancel(self) -> None:
        """Cancel all, without waiting; one that is being cancelled already is left to its cleaning up."""
        for task in self._running:
            if not task.cancelling():
                task.cancel()

    async def stop(self, grace: float = 0.0) -> int:
        """Wait for up to `grace` seconds, cancel what still runs, and wait shortly; returns how many would not end."""
        if self._running and grace > 0:
            await asyncio.wait(self._running, timeout=grace)
        self.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=0.5)
        return len(self._running)
