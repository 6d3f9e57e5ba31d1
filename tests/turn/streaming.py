"""A channel that holds a stream to the rules, and turns on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from agent_core import Activity, Attachment, ConversationAccount, Entity, ResourceResponse, TurnContext
from agent_core.activity.channels import channel_of
from agent_core.errors import ChannelError
from agent_core.testing import ManualClock, TestAdapter
from agent_core.turn.streaming_response import StreamingResponse

SECOND = timedelta(seconds=1)
CARD = Attachment(content_type="application/vnd.microsoft.card.adaptive", content={"type": "AdaptiveCard"})


def info(activity: Activity) -> dict[str, Any]:
    """The stream entity; there is exactly one."""
    (found,) = [entity.to_dict() for entity in activity.entities if entity.type == "streaminfo"]
    return found


def not_allowed(said: str) -> ChannelError:
    return ChannelError(
        "The channel answered 403", decision="rejected", status=403, code="ContentStreamNotAllowed", said=said
    )


class StrictChannel(TestAdapter):
    """Answers as Teams does to what breaks a rule, and keeps when each request came.

    Attributes:
        requests: every stream request and edit, with its time.
        latency: how long a request takes.
    """

    def __init__(self, clock: ManualClock, channel_id: str, latency: timedelta = timedelta(0)) -> None:
        super().__init__(clock, channel_id)
        self.requests: list[tuple[datetime, Activity]] = []
        self.edits: list[Activity] = []
        self.latency = latency
        self._in_flight = False
        self._interval = channel_of(channel_id).stream_interval
        self._client_makes_id = channel_of(channel_id).client_makes_stream_id
        self._stream_id: str | None = None
        self._sequence = 0
        self._text = ""
        self._clock = clock

    @property
    def chunks(self) -> list[Activity]:
        return [activity for activity in self.sent if activity.type == "typing"]

    @property
    def seconds(self) -> list[float]:
        """When the requests came, counted from the first."""
        return [(at - self.requests[0][0]).total_seconds() for at, _ in self.requests]

    async def send_activities(self, context: TurnContext, activities: Sequence[Activity]) -> list[ResourceResponse]:
        responses = []
        for activity in activities:
            if any(entity.type == "streaminfo" for entity in activity.entities):
                assert not self._in_flight, "P6.4: one request in flight"
                self._in_flight = True
                try:
                    if self.latency:
                        await self._clock.sleep(self.latency)
                    (response,) = await super().send_activities(context, [activity])
                finally:
                    self._in_flight = False
                self._check(activity, response)
                # Teams says the id once, P6.2.
                first = self._sequence == 1 and activity.type == "typing"
                responses.append(response if first else ResourceResponse())
            else:
                responses += await super().send_activities(context, [activity])
        return responses

    async def update_activity(self, context: TurnContext, activity: Activity) -> ResourceResponse:
        self.edits.append(activity)
        self.messages.setdefault(activity.id or "", activity)
        return await super().update_activity(context, activity)

    def _check(self, activity: Activity, response: ResourceResponse) -> None:
        said = info(activity)
        now = self.now()
        if self.requests and not self._client_makes_id:
            assert now - self.requests[-1][0] >= self._interval, "P6.4: too fast"
        self.requests.append((now, activity))
        if activity.type == "typing":
            assert activity.text, "Start streaming activities should include text"
            self._sequence += 1
            assert said["streamSequence"] == self._sequence, "P6.2: the sequence is 1, 2, 3 …"
        else:
            assert "streamSequence" not in said, "X3"
            assert activity.text or activity.attachments, "P6.6"
        if self._sequence == 1 and activity.type == "typing":
            self._stream_id = said.get("streamId") or response.id
            assert ("streamId" in said) == self._client_makes_id, "P6.2"
        else:
            assert said["streamId"] == self._stream_id == activity.id, "P6.2"
        if said["streamType"] == "informative":
            assert not self._text, "P6.3: informative before the first text only"
        elif activity.text:
            assert activity.text.startswith(self._text), "should contain the previously streamed content"
            self._text = activity.text
        assert activity.type == "message" or not activity.attachments, "P6.6: attachments on the end only"


class Stage:
    """A turn with a channel and a clock."""

    def __init__(
        self, channel_id: str = "msteams", *, latency: timedelta = timedelta(0), kind: str = "personal", **fields: Any
    ) -> None:
        self.clock = ManualClock()
        self.channel = StrictChannel(self.clock, channel_id.partition(":")[0], latency)
        if channel_id == "msteams:COPILOT":
            fields["entities"] = [Entity.from_dict({"type": "ProductInfo", "id": "COPILOT"})]
        conversation = ConversationAccount(id="c1", conversation_type=kind)
        activity = self.channel.activity(**{"text": "hi", "conversation": conversation, **fields})
        self.context = TurnContext(self.channel, activity, now=self.clock.now(), runtime=self.channel)

    async def run(self, handler: Callable[[TurnContext], Awaitable[None]]) -> None:
        """Run the handler while time passes."""

        async def work() -> None:
            await handler(self.context)

        await self.clock.run(work())

    async def seconds(self, number: float) -> None:
        """The handler waits for its model."""
        await self.clock.sleep(timedelta(seconds=number))


def texts(activities: Sequence[Activity]) -> list[str | None]:
    return [activity.text for activity in activities]


def about(activity: Activity) -> dict[str, object]:
    """What the message says about itself; it says it once."""
    (found,) = [each.to_dict() for each in activity.entities if each.type == "https://schema.org/Message"]
    return found


async def say_slowly(stage: Stage, stream: StreamingResponse, words: Sequence[str], pause: float = 1.0) -> None:
    for word in words:
        stream.queue_text_chunk(word)
        await stage.seconds(pause)


def plain(activity: Activity) -> bool:
    return activity.type == "message" and all(entity.type != "streaminfo" for entity in activity.entities)
