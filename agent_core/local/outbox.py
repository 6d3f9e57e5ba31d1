"""Takes what the user did to the agent over HTTP, in the order of each conversation, and notes what did not arrive."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from datetime import timedelta
from typing import Any, Protocol

from agent_core.errors import AgentError
from agent_core.local.transcript import Entry, JsonObject, Transcript

_log = logging.getLogger(__name__)
_NOTICE_LENGTH = 300


class Post(Protocol):
    """Sends JSON to a URL by HTTP POST; returns the answer's status and body, raises whatever if there was none."""

    async def __call__(self, url: str, body: bytes, /) -> tuple[int, bytes]: ...


class Outbox:
    """Delivers the user's activities, one at a time in each conversation, conversations side by side."""

    def __init__(self, transcript: Transcript, post: Post, agent_url: str, answer_within: timedelta) -> None:
        """`answer_within` is how long the agent may take to answer a request; real channels wait 15 seconds."""
        self._transcript = transcript
        self._post = post
        self._agent_url = agent_url
        self._answer_within = answer_within
        self._waiting: dict[str, deque[Entry]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def deliver(self, entry: Entry) -> None:
        """Send a pending entry's activity in the background; its status then says whether it arrived."""
        waiting = self._waiting.get(entry.conversation)
        if waiting is not None:
            waiting.append(entry)
            return
        self._waiting[entry.conversation] = deque([entry])
        task = asyncio.create_task(self._work_off(entry.conversation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def ask(self, activity: JsonObject) -> tuple[int, Any]:
        """Send an invoke and return its answer: the status, and the JSON body (None if it has none).

        Raises:
            TimeoutError: no answer in time.
            Exception: whatever `post` raises when the agent cannot be reached.
        """
        async with asyncio.timeout(self._answer_within.total_seconds()):
            status, body = await self._post(self._agent_url, json.dumps(activity).encode())
        try:
            return status, json.loads(body)
        except (ValueError, RecursionError):
            return status, None

    async def close(self) -> None:
        """Stop delivering; what is on its way stays pending and counts as not delivered at the next start."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work_off(self, conversation: str) -> None:
        waiting = self._waiting[conversation]
        try:
            while waiting:
                await self._deliver(waiting.popleft())
        finally:
            del self._waiting[conversation]

    async def _deliver(self, entry: Entry) -> None:
        notice = None
        try:
            status, body = await self.ask(entry.activity)
            if status >= 400:
                notice = f"The agent answered {status}: {error_message(body) or 'without an explanation.'}"
        except Exception as error:  # what `post` raises is its HTTP client's business; here all of it means: not there
            notice = unreachable(error)
        if notice is not None:
            _log.warning("Activity %s was not delivered to %s", entry.id, self._agent_url)
        try:
            await self._transcript.mark(
                entry.conversation, entry.id, "failed" if notice else "delivered", notice, was="pending"
            )
        except AgentError:
            _log.exception("What became of activity %s could not be noted", entry.id)


def unreachable(error: Exception) -> str:
    """What to tell the user when the agent gave no answer."""
    if isinstance(error, TimeoutError):
        return "The agent did not answer in time."
    return f"The agent could not be reached ({type(error).__name__})."


def error_message(body: Any) -> str | None:
    """The message in an error's JSON body, in any of the shapes seen on the wire; cut to 300 characters."""
    if isinstance(body, dict):
        error = body.get("error", body)
        body = error.get("message") if isinstance(error, dict) else error
    if not isinstance(body, str) or not body:
        return None
    # A lone surrogate is good JSON, but no text that a file could hold.
    return body[:_NOTICE_LENGTH].encode("utf-8", "replace").decode("utf-8")
