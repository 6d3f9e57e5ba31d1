"""Sends a growing text to a channel by the channel's rules: order, pace, limits of time and size, and refusals."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from agent_core.activity.activity import Activity
from agent_core.activity.channels import Channel
from agent_core.activity.conversation_reference import ResourceResponse
from agent_core.errors import ChannelError
from agent_core.turn.runtime import Runtime
from agent_core.turn.stream_protocol import StreamResult, failure_of, final, update
from agent_core.turn.streamed_message import StreamedMessage

logger = logging.getLogger(__name__)

# How long before a channel's deadline for the first response we say something.
MARGIN = timedelta(seconds=5)
# Between two edits of a message that outlived its stream.
EDIT_INTERVAL = timedelta(seconds=2)
# How often a channel that is too busy is asked to take the end of a stream, and the longest pause it is given unasked.
ATTEMPTS = 8
LONGEST_PAUSE = timedelta(seconds=4)
# After so many updates in a row without an answer, only the end of the stream is sent.
UNKNOWN_IN_A_ROW = 3

# A final text must not be empty, and must not take back what was shown.
NOTHING_STREAMED = "No text was streamed."
INTERRUPTED = "The answer was interrupted."
TAKING_LONGER = "This is taking longer than usual. The answer will follow."
STILL_WORKING = "Still working on it…"


class Turn(Protocol):
    """What a streaming response needs of its turn."""

    @property
    def now(self) -> datetime:
        """When the turn began."""

    @property
    def channel(self) -> Channel:
        """What the channel can do."""

    async def send_activity(self, activity: Activity | str) -> ResourceResponse:
        """Send one activity."""

    async def send_activities(self, activities: Sequence[Activity | str]) -> list[ResourceResponse]:
        """Send several, in this order."""

    async def update_activity(self, activity: Activity) -> ResourceResponse:
        """Edit a message."""


# streaming: updates are sent. holding: the stream is open, and only its end is still sent. buffering: there is no
# stream. overtime: the stream is over by time, and its message is edited or followed by another. closed: nothing more.
_Phase = Literal["streaming", "holding", "buffering", "overtime", "closed"]


class StreamSender:
    """One stream, from its first update to its end. One request at a time: `run` sends until `stop`, then `finish`.

    Attributes:
        informative: what the agent is doing, to be shown until there is text.
        cancelled: the user stopped it.
    """

    def __init__(self, turn: Turn, runtime: Runtime, message: StreamedMessage) -> None:
        self.informative: deque[str] = deque()
        self.cancelled = False
        self._turn = turn
        self._channel = turn.channel
        self._runtime = runtime
        self._message = message
        self._phase: _Phase = "streaming"
        self._wake = asyncio.Event()
        self._stopped = False
        self._stream_id = runtime.new_id() if self._channel.client_makes_stream_id else None
        self._sequence = 1
        # What the user sees of the text, and what the stream ended with when its time was over.
        self._shown = self._ended_with = ""
        self._unknown = 0
        self._next_at = self._last_update = self._end_at = turn.now

    def wake(self) -> None:
        """There is something new."""
        self._wake.set()

    def stop(self) -> None:
        """Send no more updates; `run` returns when the one under way is answered."""
        self._stopped = True
        self._wake.set()

    # -- while it grows

    async def run(self) -> None:
        """Send what is new, when it may be sent, until stopped or until no updates are wanted.

        Raises:
            ChannelError: nothing will be taken in this conversation.
        """
        while not self._stopped and self._phase not in ("buffering", "closed"):
            due = self._due()
            wait = due - self._runtime.now() if due else None
            if wait is None or wait > timedelta(0):
                await self._woken_or_after(wait)
            elif self._phase == "overtime":
                await self._show_progress()
            elif self._began and self._channel.end_stream_after and self._runtime.now() >= self._end_at:
                await self._end_in_time()
            else:
                await self._send_update()

    @property
    def _began(self) -> bool:
        return self._sequence > 1

    def _due(self) -> datetime | None:
        """When there is something to do next, if nothing happens before."""
        channel = self._channel
        has_news = self._message.has_text and self._message.text != self._shown
        if self._phase == "overtime":
            return self._next_at if channel.supports_update and has_news else None
        times = [self._end_at] if self._began and channel.end_stream_after else []
        if self._phase == "streaming":
            if has_news or self.informative:
                times.append(self._next_at)
            elif not self._began and channel.first_response_within:
                times.append(max(self._next_at, self._turn.now + channel.first_response_within - MARGIN))
            elif self._began and channel.keep_alive_after:
                times.append(max(self._next_at, self._last_update + channel.keep_alive_after))
        return min(times, default=None)

    async def _send_update(self) -> None:
        # Without news it is there to keep the stream alive: an informative update, which must not follow text, or the
        # same text again.
        is_informative = not self._message.has_text
        text = self._message.text
        if is_informative:
            text = self.informative[0] if self.informative else STILL_WORKING
        chunk = update(
            text,
            "informative" if is_informative else "streaming",
            sequence=self._sequence,
            stream_id=self._stream_id,
            claims=() if is_informative else self._message.claims,
        )
        if self._message.too_large(chunk):
            self._hold()
            return
        sent_at = self._runtime.now()
        try:
            response = await self._turn.send_activity(chunk)
        except ChannelError as error:
            self._after_failed_update(error, chunk)
            return
        if not self._began:
            self._stream_id = self._stream_id or response.id
            if self._stream_id is None:
                # Without the stream's id there can be no second update.
                self._phase = "buffering"
                return
            self._end_at = sent_at + (self._channel.end_stream_after or timedelta(0))
        self._unknown = 0
        self._count_update()
        if not is_informative:
            self._shown = text
        elif self.informative:
            self.informative.popleft()

    def _count_update(self) -> None:
        self._sequence += 1
        self._last_update = self._runtime.now()
        self._next_at = self._last_update + self._channel.stream_interval

    def _hold(self) -> None:
        self._phase = "holding" if self._began else "buffering"

    def _after_failed_update(self, error: ChannelError, refused: Activity) -> None:
        failure = failure_of(error)
        if failure == "fatal":
            raise error
        logger.info("An update of a stream was not taken (%s): %s", failure, error)
        match failure:
            case "cancelled" | "completed":
                self.cancelled = failure == "cancelled"
                self._phase = "closed"
            case "time_over":
                self._phase = "overtime"
                self._next_at = self._runtime.now() + EDIT_INTERVAL
            case "too_large":
                self._message.was_too_large(refused)
                self._hold()
            case "not_streaming":
                self._phase = "buffering"
            case "wait":
                # The same sequence again: the channel has not seen it.
                pause = error.retry_after or 2 * self._channel.stream_interval
                self._next_at = self._runtime.now() + pause
            case "out_of_order":
                self._count_update()
            case "unknown" if self._began and self._unknown + 1 < UNKNOWN_IN_A_ROW:
                self._unknown += 1
                self._count_update()
            case _:
                self._hold()

    async def _woken_or_after(self, wait: timedelta | None) -> None:
        waiting: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._wake.wait())}
        if wait is not None:
            waiting.add(asyncio.ensure_future(self._runtime.sleep(wait)))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        self._wake.clear()

    async def _end_in_time(self) -> None:
        """End the stream with what there is, before the channel does; the rest follows when it is there."""
        text = self._message.text if self._message.has_text else ""
        message = self._message.draft(text or TAKING_LONGER)
        if self._message.too_large(message):
            text = self._shown
            message = self._message.draft(text)
        self._phase = "overtime"
        try:
            await self._send_end(message, "timeout")
        except ChannelError as error:
            if failure_of(error) in ("fatal", "cancelled", "completed"):
                self._after_failed_update(error, message)
            return
        self._shown = self._ended_with = text
        self._next_at = self._runtime.now() + EDIT_INTERVAL

    async def _show_progress(self) -> None:
        """Edit the message of a stream that is over by time."""
        message = self._message.draft(self._message.text)
        self._shown = self._message.text
        if self._message.too_large(message):
            return
        try:
            await self._turn.update_activity(message.replace(id=self._stream_id))
        except ChannelError as error:
            # The last edit comes at the end, and tells if it fails.
            logger.info("A message was not edited while it grew: %s", error)
        self._next_at = self._runtime.now() + EDIT_INTERVAL

    # -- its end

    async def finish(self) -> ResourceResponse:
        """Send the complete message, after `run` has returned; the response is that of its first part.

        Raises:
            ChannelError: the channel did not take it.
        """
        if self._phase == "closed":
            return ResourceResponse(id=None if self.cancelled else self._stream_id)
        if self._phase == "overtime":
            return await self._finish_after_time()
        if self._phase == "buffering" or not self._began:
            return await self._send_plain(self._message.text)
        return await self._finish_stream()

    async def interrupt(self) -> None:
        """End an open stream with what was shown, after `run` has returned. Raises ChannelError."""
        if self._began and self._phase in ("streaming", "holding"):
            await self._send_end(self._message.draft(self._shown or INTERRUPTED), "error")

    async def _finish_stream(self) -> ResourceResponse:
        text = self._message.text if self._message.has_text else ""
        if not (text or self._message.attachments):
            text = NOTHING_STREAMED
        first, *rest = self._message.messages(text, beginning=self._shown)
        try:
            response = await self._send_end(first, "success")
        except ChannelError as error:
            return await self._after_failed_end(error, first)
        if rest:
            await self._turn.send_activities(rest)
        return response

    async def _after_failed_end(self, error: ChannelError, refused: Activity) -> ResourceResponse:
        failure = failure_of(error)
        logger.info("The end of a stream was not taken (%s): %s", failure, error)
        match failure:
            case "cancelled" | "completed":
                self.cancelled = failure == "cancelled"
                self._phase = "closed"
            case "time_over":
                self._phase = "overtime"
            case "too_large":
                self._message.was_too_large(refused)
                self._phase = "buffering"
            case "not_streaming" | "refused" | "out_of_order":
                self._phase = "buffering"
            case _:
                raise error
        return await self.finish()

    async def _finish_after_time(self) -> ResourceResponse:
        if not self._channel.supports_update:
            # The user has what the stream ended with; if it did not end well, nothing counts as seen.
            return await self._send_plain(self._message.text.removeprefix(self._ended_with).lstrip())
        first, *rest = self._message.messages(self._message.text or NOTHING_STREAMED)
        edited = first.replace(id=self._stream_id)
        try:
            response = await self._patiently(lambda: self._turn.update_activity(edited))
        except ChannelError as error:
            if error.decision != "gone":
                raise
            return await self._send_plain(self._message.text)
        if rest:
            await self._turn.send_activities(rest)
        return response

    async def _send_plain(self, text: str) -> ResourceResponse:
        sent = await send_plain(self._turn, self._message, text)
        return sent or ResourceResponse(id=self._stream_id if self._began else None)

    async def _send_end(self, message: Activity, result: StreamResult) -> ResourceResponse:
        end = final(message, stream_id=self._stream_id or "", result=result)
        response = await self._patiently(lambda: self._turn.send_activity(end))
        return ResourceResponse(id=response.id or self._stream_id)

    async def _patiently(self, send: Callable[[], Awaitable[ResourceResponse]]) -> ResourceResponse:
        """Send at the channel's pace, and again while it is too busy."""
        pause = 2 * self._channel.stream_interval
        attempt = 1
        while True:
            await self._runtime.sleep(max(timedelta(0), self._next_at - self._runtime.now()))
            try:
                return await send()
            except ChannelError as error:
                if failure_of(error) != "wait" or attempt == ATTEMPTS:
                    raise
                self._next_at = self._runtime.now() + (error.retry_after or pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            attempt += 1


async def send_plain(turn: Turn, message: StreamedMessage, text: str) -> ResourceResponse | None:
    """Send the message with that text, without a stream; None: there was nothing to say."""
    if not (text.strip() or message.attachments):
        return None
    return (await turn.send_activities(message.messages(text if text.strip() else "")))[0]
