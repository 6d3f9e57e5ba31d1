"""Calls an app's functions the way the Python worker does, on the engine's clock."""

from __future__ import annotations

import asyncio
import contextvars
import os
from concurrent.futures import ThreadPoolExecutor

from agent_core.hosting.clock import Clock, running_on
from agent_core.local.bindings import Function


class Invoker:
    """Coroutines run on the loop, plain functions in threads; what they raise comes out.

    Attributes:
        threads_busy: how many plain functions are running. They cannot be stopped, and hold up the end of the process.
    """

    def __init__(self, clock: Clock) -> None:
        self.threads_busy = 0
        self._clock = clock
        # The worker's own number: https://learn.microsoft.com/azure/azure-functions/python-scale-performance-reference
        self._threads = ThreadPoolExecutor(min(32, (os.cpu_count() or 1) + 4), thread_name_prefix="function")

    async def call(self, function: Function, argument: object) -> object:
        """Call the function with what its trigger gives."""
        with running_on(self._clock):
            if function.is_async:
                return await function.call(**{function.parameter: argument})
            context = contextvars.copy_context()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, context.run, self._in_thread, function, argument)

    async def call_returning_nothing(self, function: Function, argument: object) -> None:
        """Call a function that has nowhere to return to; TypeError if it does return something, as in the host."""
        if await self.call(function, argument) is not None:
            raise TypeError(
                f"Function {function.name!r} returned a value, but its trigger has no $return binding: return nothing"
            )

    def _in_thread(self, function: Function, argument: object) -> object:
        self.threads_busy += 1
        try:
            return function.call(**{function.parameter: argument})
        finally:
            self.threads_busy -= 1

    def close(self) -> None:
        """Start no more threads; those that run are left to themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
