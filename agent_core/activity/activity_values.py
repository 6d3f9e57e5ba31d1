"""The smaller values that activities of one type or another carry."""

from __future__ import annotations

from typing import Any

from agent_core.activity.wire import WireObject

VOICE_MESSAGE = "application/vnd.microsoft.activity.voice+json"


class MessageReaction(WireObject):
    """A reaction to a message, such as `like`; `reply_to_id` of its activity is the message."""

    type: str | None = None


class TextHighlight(WireObject):
    """A part of the text of the message that `reply_to_id` names; `occurrence` says which where it is there twice."""

    text: str | None = None
    occurrence: int | None = None


class SemanticAction(WireObject):
    """What the user wants, in terms that agents agreed on; `state` is one of `SemanticActionStates`."""

    id: str | None = None
    state: str | None = None
    entities: Any = None


class InvokeResponse(WireObject):
    """The answer to an invoke activity: an HTTP status and a JSON body."""

    status: int | None = None
    body: Any = None


class VoiceMessage(WireObject):
    """The value of a message whose valueType is `VOICE_MESSAGE` (A5250)."""

    content_type: str | None = None
    content_url: str | None = None
    transcription: str | None = None
    duration_ms: int | None = None
    timestamp: str | None = None
    locale: str | None = None


class CommandError(WireObject):
    """Why a command was not done; `NotSupported` is the code of one that is not known."""

    code: str | None = None
    message: str | None = None


class CommandValue(WireObject):
    """The value of a command, and with `error` that of a commandResult; both have the same `command_id`."""

    command_id: str | None = None
    data: Any = None
    error: CommandError | None = None
