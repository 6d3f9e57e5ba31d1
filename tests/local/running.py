"""An engine on a real socket for the length of a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import azure.functions as func
import httpx
from starlette.routing import BaseRoute

from agent_core.hosting.clock import Clock
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.local.engine import Engine
from agent_core.testing import ManualClock
from tests.serving import serve


class Running:
    """A served app: `http` asks it, `queue` is one of its queues as the app itself would open it."""

    def __init__(self, http: httpx.AsyncClient, url: str, clock: Clock, data: Path, sessions: bool) -> None:
        self.http = http
        self.url = url
        self._clock = clock
        self._data = data
        self._sessions = sessions
        self.queues: list[SqliteQueue] = []

    @property
    def address(self) -> tuple[str, int]:
        """For raw requests."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def queue(self, name: str) -> SqliteQueue:
        queue = SqliteQueue(
            self._data / "queues.db",
            name,
            now=self._clock.now,
            lock_duration=timedelta(seconds=60),
            max_delivery_count=3,
            requires_session=self._sessions,
        )
        self.queues.append(queue)
        return queue

    async def raw(self, request: bytes) -> bytes:
        """Send these bytes, and read the answer's first line."""
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(request)
        answer = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return answer


@asynccontextmanager
async def running(
    app: func.FunctionApp,
    data: Path,
    *,
    clock: Clock | None = None,
    settings: dict[str, str] | None = None,
    sessions: bool = False,
    route_prefix: str = "api",
    extra_routes: Sequence[BaseRoute] = (),
) -> AsyncIterator[Running]:
    """Serve the app; a manual clock unless another is given."""
    clock = clock or ManualClock()
    async with httpx.AsyncClient() as http:
        opened = Running(http, "", clock, data, sessions)
        engine = Engine(
            app,
            settings=settings or {},
            queue=opened.queue,
            clock=clock,
            route_prefix=route_prefix,
            extra_routes=extra_routes,
        )
        try:
            async with serve(engine.asgi) as url:
                opened.url = url
                http.base_url = httpx.URL(url)
                yield opened
        finally:
            for queue in opened.queues:
                await queue.close()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return as soon as it holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # what is waited for can be in a file or a thread
            await asyncio.sleep(0.005)
