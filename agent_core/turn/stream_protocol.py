"""The wire side of a streaming response: the activities it is made of, and what the channel's refusals mean.

https://learn.microsoft.com/microsoftteams/platform/bots/streaming-ux
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agent_core.activity.activity import Activity
from agent_core.activity.entities import StreamInfo
from agent_core.errors import ChannelError

StreamResult = Literal["success", "timeout", "error"]
StreamFailure = Literal[
    "cancelled",  # the user does not want it: send nothing more
    "completed",  # the stream is over for the channel: send nothing more
    "time_over",  # the channel's limit: edit the message, or send a new one
    "too_large",  # finish in several messages
    "out_of_order",  # this update was dropped, the next one has all of its text: go on
    "not_streaming",  # no streams here: one message at the end
    "wait",  # not now: the same again later
    "unknown",  # it may have arrived: go on with the next one
    "fatal",  # nothing will be taken here
    "refused",  # no update will be taken, a message may be
]


def update(
    text: str,
    kind: Literal["informative", "streaming"],
    *,
    sequence: int,
    stream_id: str | None,
    claims: Sequence[Mapping[str, Any]] = (),
) -> Activity:
    """One update: all of the text so far, or what the agent is doing before there is any."""
    from agent_core.activity.citations import message_entity

    info = StreamInfo(stream_type=kind, stream_sequence=sequence, stream_id=stream_id)
    about = message_entity(claims)
    return Activity(
        type="typing",
        id=stream_id,
        text=text,
        text_format="markdown",
        entities=[info, *([about] if about else [])],
    )


def final(message: Activity, *, stream_id: str, result: StreamResult) -> Activity:
    """A message as the end of a stream. It has no sequence: Teams says it "must not be set", others ignore it."""
    info = StreamInfo(stream_type="final", stream_id=stream_id, stream_result=result)
    return message.replace(id=stream_id, entities=[info, *message.entities])


def is_stream(activity: Activity) -> bool:
    """Whether this is part of a stream: a `typing` activity with the text so far, or the message at its end."""
    return activity.stream_info is not None


# What the channel says, in lower case; the codes alone do not tell (`ContentStreamNotAllowed` stands for four things).
_SAID: tuple[tuple[str, StreamFailure], ...] = (
    ("cancel", "cancelled"),
    ("exceeded streaming time", "time_over"),
    ("already completed", "completed"),
    ("message size too large", "too_large"),
    ("messagesizetoobig", "too_large"),
    ("sequenceorderprecondition", "out_of_order"),
    ("streaming api is not enabled", "not_streaming"),
    ("content stream is not allowed", "not_streaming"),
)


def failure_of(error: ChannelError) -> StreamFailure:
    """What an error of the channel means for the stream."""
    said = f"{error.code} {error.sub_code} {error.said or error}".lower()
    for words, failure in _SAID:
        if words in said:
            return failure
    if error.status == 413:
        return "too_large"
    if error.decision in ("throttled", "unsent"):
        return "wait"
    if error.decision == "ambiguous":
        return "unknown"
    return "refused" if error.decision == "rejected" else "fatal"
