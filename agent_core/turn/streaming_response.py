"""An answer that the user sees while it grows, on the channels that can show that, and as one message on the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Literal, Self

from agent_core.activity.attachments import Attachment
from agent_core.activity.citations import Citation, SensitivityLabel
from agent_core.activity.conversation_reference import ResourceResponse
from agent_core.errors import StreamCancelled, StreamEnded
from agent_core.turn.runtime import Runtime
from agent_core.turn.stream_sender import StreamSender, Turn, send_plain
from agent_core.turn.streamed_message import StreamedMessage

logger = logging.getLogger(__name__)


class StreamingResponse:
    """One answer, shown while it grows.

        async with context.streaming_response as stream:
            stream.queue_informative_update("Looking it up…")
            async for token in answer:
                stream.queue_text_chunk(token)

    What is queued is sent in the background, all of the text each time and no faster than the channel allows, one
    request after the other. The block's end sends the message; an exception in the block ends the stream with what was
    shown, and goes on. Where the channel cannot stream there is one message, at the block's end.

    A channel ends a stream after two minutes at most. Ours ends before, with what there is; the rest comes as edits of
    that message, or, where messages cannot be edited, as one more message at the block's end.

    Send nothing else in the block. On Azure Functions stream from a `long_running` handler: the front end ends an HTTP
    request after 230 seconds, and a channel sends again what took longer than 15.
    """

    def __init__(self, turn: Turn, runtime: Runtime | None) -> None:
        """`runtime` is None where nothing can be streamed."""
        self._turn = turn
        self._message = StreamedMessage(turn.channel)
        self._sender = StreamSender(turn, runtime, self._message) if runtime is not None else None
        self._sending: asyncio.Task[None] | None = None
        self._opened = self._ended = False
        self._response = ResourceResponse()

    @property
    def text(self) -> str:
        """The text so far, citations numbered."""
        return self._message.text

    @property
    def cancelled(self) -> bool:
        """The user stopped the answer. `queue_text_chunk` then raises StreamCancelled, which ends the block and goes
        no further; nothing more is sent."""
        return self._sender is not None and self._sender.cancelled

    @property
    def ended(self) -> bool:
        """Whether the block is over."""
        return self._ended

    def queue_informative_update(self, text: str) -> None:
        """Say what the agent is doing; shown until the text begins, ignored after that, and where nothing streams."""
        self._check_open()
        if self._sender is not None and text.strip() and not self.text:
            self._sender.informative.append(text)
            self._sender.wake()

    def queue_text_chunk(self, text: str, citations: Iterable[Citation] = ()) -> None:
        """Add to the text.

        Args:
            citations: sources to add; `[doc1]` in the text is the first source of the whole response. They must come
                before, or with, the text that cites them: it is shown with its numbers, which never change.

        Raises:
            StreamCancelled: the user stopped the answer.
            ChannelError: the channel takes nothing more in this conversation.
            StreamEnded: the block is over.
        """
        self._check_open()
        self._message.add(text, citations)
        if self._sender is not None:
            if self.text:
                self._sender.informative.clear()
            self._sender.wake()

    def set_attachments(self, attachments: Sequence[Attachment]) -> None:
        """Put these under the text when it is complete."""
        self._check_open()
        self._message.attachments = tuple(attachments)

    def set_generated_by_ai_label(self, shown: bool = True) -> None:
        """Mark the answer as written by AI when it is complete."""
        self._check_open()
        self._message.generated_by_ai = shown

    def set_feedback_loop(self, kind: Literal["default", "custom"] | None = "default") -> None:
        """Ask what the user thinks of the answer: by the channel's own form, or by one of the agent's."""
        self._check_open()
        self._message.feedback = kind

    def set_sensitivity_label(self, label: SensitivityLabel | None) -> None:
        """Say how confidential the answer is."""
        self._check_open()
        self._message.sensitivity = label

    async def __aenter__(self) -> Self:
        if self._opened:
            raise StreamEnded("A streaming response is used once; ask for context.streaming_response again")
        self._opened = True
        if self._sender is not None:
            self._sending = asyncio.create_task(self._sender.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None:
            await self.end_stream()
        elif isinstance(error, StreamCancelled) and self.cancelled:
            await self._stop()
            return True
        elif isinstance(error, Exception):
            await self._interrupt()
        elif self._sending is not None:
            # The program itself ends: nothing can be sent any more.
            self._ended = True
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        return False

    async def end_stream(self) -> ResourceResponse:
        """Send the complete message; done by the end of the block, and only once.

        Returns:
            The message's id. None in it where nothing was said, where the user cancelled, and where the channel
            gave none. Of a text that took several messages it is that of the first.

        Raises:
            ChannelError: the channel did not take it.
        """
        if not self._opened:
            raise StreamEnded("Open the streaming response with `async with` first")
        if not self._ended:
            await self._stop()
            self._message.complete()
            if self._sender is not None:
                self._response = await self._sender.finish()
            else:
                self._response = await send_plain(self._turn, self._message, self.text) or self._response
        return self._response

    async def _stop(self) -> None:
        self._ended = True
        if self._sender is not None and self._sending is not None:
            self._sender.stop()
            await self._sending

    async def _interrupt(self) -> None:
        """The handler failed: leave no open stream behind."""
        if self._ended or self._sender is None:
            self._ended = True
            return
        try:
            await self._stop()
            await self._sender.interrupt()
        except Exception:
            # What the handler raised is what went wrong first, and it is on its way already.
            logger.warning("A stream could not be ended after its handler failed", exc_info=True)

    def _check_open(self) -> None:
        if self._sending is not None and self._sending.done() and not self._sending.cancelled():
            failure = self._sending.exception()
            if failure is not None:
                raise failure
        if self.cancelled:
            raise StreamCancelled("The user stopped this answer")
        if not self._opened or self._ended:
            raise StreamEnded("Use a streaming response inside of its `async with` block")
