"""One piece of proactive work in the hands of a worker, and what its turn sends: a step in the ledger per message."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from agent_core.activity.activity import Activity
from agent_core.activity.conversation_reference import ResourceResponse
from agent_core.errors import ChannelError, ConversationNotFound, NotAllowed
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.delivery_gate import Notice
from agent_core.proactive.ledger import KEPT, Claim, Ledger, Work
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import Document
from agent_core.turn.stream_protocol import is_stream
from agent_core.turn.turn_context import TurnContext

SendOn = Callable[[Sequence[Activity]], Awaitable[list[ResourceResponse]]]


class Delivery:
    """A delivery under way.

    Attributes:
        claim: the ledger's record, once it is ours.
        steps: the messages so far, of earlier attempts too: `{"status": "sending" | "sent", "id"}`.
        placeholder: the id of a message that the next one edits, until one did.
        apologising: the work has failed for good, and the error handler speaks.
        settled: the ledger's last step is written together with the turn's state.
        found: the conversation, where it was looked up, and `user` the document of its user's state.
        notice: that it is a notification; and `preferences`, what is stored of its recipient's.
        on_hold: called before it is held, with until when.
        why: why it may be sent, where somebody had to be asked.
    """

    def __init__(
        self,
        item: WorkItem,
        work: Work,
        ledger: Ledger,
        notice: Notice | None = None,
        on_hold: Callable[[datetime], Awaitable[None]] | None = None,
    ) -> None:
        self.item = item
        self.work = work
        self.claim: Claim | None = None
        self.steps: list[dict[str, Any]] = []
        self.placeholder: str | None = None
        self.apologising = False
        self.settled = False
        self.found: Conversation | None = None
        self.user: Document | None = None
        self.notice = notice
        self.on_hold = on_hold
        self.preferences: Document | None = None
        self.why: str | None = None
        self._ledger = ledger
        self._next = 0
        self._stream: int | None = None
        self._holding: asyncio.Task[None] | None = None
        # A handler may send from several tasks at once; the ledger is written by one after the other.
        self._turns = asyncio.Lock()

    @property
    def conversation(self) -> Conversation:
        """The conversation that was looked up."""
        if self.found is None:
            raise LookupError("This delivery brings its activity, and looked no conversation up")
        return self.found

    @property
    def unknown(self) -> bool:
        """Whether a message was begun of which nobody knows whether it arrived."""
        return any(step["status"] == "sending" for step in self.steps)

    @property
    def parks(self) -> bool:
        """Whether such a message waits for somebody to decide."""
        return self.work.when_unsure == "park"

    @property
    def account(self) -> dict[str, Any]:
        """What the record says of how it went, for whoever asks; `sent` unless something else is written over it."""
        urgent = {"urgent": True} if self.notice is not None and self.notice.urgent else {}
        return {
            "attempts": self.item.attempt,
            "why": self.why,
            "postponedUntil": None,
            "ttl": int(KEPT.total_seconds()),
            **urgent,
        }

    def begin(self, claim: Claim) -> None:
        """The work is ours: hold it until `let_go`."""
        self.claim, self.placeholder, self.steps = claim, claim.replaces, claim.steps
        self._holding = asyncio.create_task(self._ledger.hold(claim))

    async def let_go(self) -> None:
        """Renew the claim no more; a renewal under way ends first."""
        holding, self._holding = self._holding, None
        if holding is None or self.claim is None:
            return
        async with self.claim.writing:
            holding.cancel()
        with suppress(asyncio.CancelledError):
            await holding

    def watch(self, context: TurnContext) -> None:
        """Let the ledger see what this turn sends: the first message edits the placeholder, no other message leaves
        before the ledger says `sending`, and what an earlier attempt sent is not sent again.

        A stream is a message from its first update on. Where a placeholder waits, or something was sent before, there
        is none: only a message that comes at once can edit the one, or be left out like the other.
        """
        context.work_key = self.item.key
        if self.steps or (self.placeholder is not None and context.channel.supports_update):
            context.buffer_streams()

        async def send(context: TurnContext, activities: Sequence[Activity], send_on: SendOn) -> list[ResourceResponse]:
            async with self._turns:
                responses = []
                for activity in activities:
                    responses += await self._send(context, activity, send_on)
                return responses

        context.on_send_activities(send)

    async def once(self, do: Callable[[], Awaitable[str]]) -> str:
        """Do something that is no message, and is not to be done twice: a step of its own, with what came of it.

        An earlier attempt's outcome is returned instead. What it raises says whether it was done: as for a message.
        """
        async with self._turns:
            number = self._next
            self._next += 1
            if number < len(self.steps):
                return str(self.steps[number]["id"])
            if self.claim is not None:
                await self._ledger.step(self.claim, "sending", steps=[*self.steps, {"status": "sending"}])
            self.steps.append({"status": "sending"})
            try:
                outcome = await do()
            except (ChannelError, ConversationNotFound, NotAllowed) as error:
                if not isinstance(error, ChannelError) or error.decision != "ambiguous":
                    del self.steps[number]  # surely not done
                raise
            self.steps[number] = {"status": "sent", "id": outcome}
            return outcome

    async def _send(self, context: TurnContext, activity: Activity, send_on: SendOn) -> list[ResourceResponse]:
        is_message = activity.type == "message" or is_stream(activity)
        if not is_message or self.claim is None:
            return await send_on([activity])
        if self.apologising:
            edited = await self._edit_placeholder(context, activity)
            return [edited] if edited is not None else await send_on([activity])
        if self._stream is not None and is_stream(activity):
            return await self._as_step(self._stream, activity, send_on)
        number = self._next
        self._next += 1
        if number < len(self.steps):
            # Sent by an earlier attempt.
            return [ResourceResponse(id=self.steps[number].get("id"))]
        edited = await self._edit_placeholder(context, activity)
        if edited is not None:
            self.steps.append({"status": "sent", "id": edited.id})
            return [edited]
        self.steps.append({"status": "sending"})
        try:
            await self._ledger.step(self.claim, "sending", steps=self.steps)
        except BaseException:
            self.steps.pop()  # nothing left
            self._next -= 1
            raise
        self._stream = number if is_stream(activity) else None
        return await self._as_step(number, activity, send_on)

    async def _as_step(self, number: int, activity: Activity, send_on: SendOn) -> list[ResourceResponse]:
        try:
            responses = await send_on([activity])
        except ChannelError as error:
            if error.decision != "ambiguous" and self.steps[number] == {"status": "sending"}:
                # It surely did not arrive; what stands in the record is written over by the next step.
                del self.steps[number]
                self._next, self._stream = number, None
            raise
        known = next((each.id for each in responses if each.id), self.steps[number].get("id"))
        info = activity.stream_info
        # Of a stream the user has seen the half until its end came, and for good if that was an error.
        ended = activity.type == "message" and (info is None or info.stream_result != "error")
        self.steps[number] = {"status": "sent" if ended else "sending", **({"id": known} if known else {})}
        if activity.type == "message":
            self._stream = None
        return responses

    async def _edit_placeholder(self, context: TurnContext, activity: Activity) -> ResourceResponse | None:
        placeholder, self.placeholder = self.placeholder, None
        if placeholder is None or not context.channel.supports_update:
            return None
        try:
            await context.update_activity(activity.replace(id=placeholder))
        except ChannelError as error:
            if error.decision != "gone":
                raise
            # The user deleted the placeholder: the answer comes as a new message.
            return None
        return ResourceResponse(id=placeholder)
