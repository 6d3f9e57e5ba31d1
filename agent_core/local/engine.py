"""Runs the functions of an Azure Functions app in one process: HTTP, queue and timer triggers, without Azure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import azure.functions as func
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route

from agent_core.hosting.clock import Clock
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.local.bindings import InvalidApp, QueueFunction, read_functions
from agent_core.local.http_trigger import HttpTriggers
from agent_core.local.invoker import Invoker
from agent_core.local.queue_trigger import QueueTrigger
from agent_core.local.tasks import Tasks
from agent_core.local.timer_trigger import TimerTrigger

logger = logging.getLogger(__name__)

# How long functions may go on after the engine was told to stop.
_GRACE_SECONDS = 1.0


class Engine:
    """The functions of one app, behind one ASGI app whose lifespan is the engine's.

    A function that is running when the engine stops gets a second to finish. After that a coroutine is cancelled and
    its message given back; a plain function is left behind, and its message is delivered again when its lock expires.

    Attributes:
        asgi: serves the HTTP functions and the extra routes; the pumps and timers run while it does.
    """

    def __init__(
        self,
        app: func.FunctionApp,
        *,
        settings: Mapping[str, str],
        queue: Callable[[str], SqliteQueue],
        clock: Clock,
        route_prefix: str = "api",
        extra_routes: Sequence[BaseRoute] = (),
        on_shutdown: Sequence[Callable[[], None]] = (),
        on_close: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        """Read the app; nothing runs before the lifespan begins.

        Args:
            settings: what `%NAME%` in the app's bindings stands for.
            queue: opens a queue by its name. The engine closes what it has opened.
            clock: what the functions' time, the timers, locks and scheduled messages go by.
            route_prefix: what every function's route begins with; may be empty.
            extra_routes: routes that are tried before the functions'.
            on_shutdown: called as soon as a stop is asked for, while requests are still being answered.
            on_close: awaited in their order after the functions have stopped.

        Raises:
            InvalidApp, SettingsError: the app cannot run here; the message names the function and the reason.
        """
        functions = read_functions(app, settings)
        self._invoker = Invoker(clock)
        self._receivers = Tasks()
        self._invocations = Tasks()
        self._on_shutdown = on_shutdown
        self._on_close = on_close
        self._grace_ends: float | None = None
        self._queues: list[SqliteQueue] = []
        self._pumps = [
            QueueTrigger(each, self._open(each, queue), self._invoker, clock, self._invocations)
            for each in functions.queues
        ]
        self._timers = [TimerTrigger(each, self._invoker, clock) for each in functions.timers]
        self._descriptions = functions.descriptions(route_prefix)
        http = HttpTriggers(functions.http, self._invoker, route_prefix)
        self.asgi = Starlette(routes=[*extra_routes, Route("/{path:path}", http)], lifespan=self._lifespan)

    def _open(self, trigger: QueueFunction, queue: Callable[[str], SqliteQueue]) -> SqliteQueue:
        opened = queue(trigger.queue_name)
        if opened.requires_session != trigger.sessions:
            raise InvalidApp(
                f"Function {trigger.function.name!r} has is_sessions_enabled={trigger.sessions}, and its queue "
                f"{trigger.queue_name!r} has requires_session={opened.requires_session}: make them the same."
            )
        self._queues.append(opened)
        return opened

    @property
    def threads_busy(self) -> int:
        """How many plain functions are still running in threads, which nothing can stop."""
        return self._invoker.threads_busy

    def begin_shutdown(self) -> None:
        """Take no more messages, fire no more timers. What runs goes on; the lifespan's end waits for it."""
        if self._grace_ends is not None:
            return
        self._grace_ends = asyncio.get_running_loop().time() + _GRACE_SECONDS
        self._receivers.cancel()
        for timer in self._timers:
            timer.stop()
        for hook in self._on_shutdown:
            hook()

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        for description in self._descriptions:
            logger.info("%s", description)
        for pump in self._pumps:
            self._receivers.start(pump.run())
        for timer in self._timers:
            self._invocations.start(timer.run())
        try:
            yield
        finally:
            await self._stop()

    async def _stop(self) -> None:
        self.begin_shutdown()
        assert self._grace_ends is not None
        await self._receivers.stop()
        left = await self._invocations.stop(self._grace_ends - asyncio.get_running_loop().time())
        if left or self.threads_busy:
            logger.warning("Stopped while %d functions were still running", max(left, self.threads_busy))
        self._invoker.close()
        async with AsyncExitStack() as closing:  # each of them, even if one fails
            for queue in self._queues:
                closing.push_async_callback(queue.close)
            for hook in reversed(self._on_close):
                closing.push_async_callback(hook)
        logger.info("Stopped")
