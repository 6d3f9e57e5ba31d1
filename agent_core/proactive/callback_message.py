"""Callback messages: what an external system may put on the callback queue, read and checked in one place.

Three forms say the same thing: a CloudEvent in structured mode, one in binary mode, and a plain JSON body. The JSON
Schemas and the table of reasons are in docs/contracts; the tests hold that they and this module agree.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent_core.activity.activity import Activity
from agent_core.activity.activity_types import CallbackTypes
from agent_core.activity.json_text import MAX_DEPTH, JsonObject, parse, text_of
from agent_core.errors import BadActivity, InvalidCallback
from agent_core.proactive.queue import Property, QueueMessage
from agent_core.store.document_store import is_storable

# The AMQP binding says `cloudEvents:`, and in its newer text `cloudEvents_`; the others are carried over from HTTP.
# https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/amqp-protocol-binding.md#3131-amqp-application-property-names
PREFIXES = ("cloudevents:", "cloudevents_", "ce-", "ce_")
_REQUIRED_ATTRIBUTES = ("specversion", "id", "source", "type")

# How many characters a field may have; what is longer is no name and no id.
MAX_CHANNEL, MAX_CONTINUATION, MAX_ID, MAX_SOURCE, MAX_TICKET = 128, 256, 512, 1024, 8192
# What comes in is wrapped, in an activity among others, and must not become too deep by that.
_DEPTH = MAX_DEPTH - 4

# What of an activity an external system may decide: how a message looks, and never where it goes or who says it.
ACTIVITY_FIELDS = frozenset(
    {
        "type",
        "text",
        "textFormat",
        "speak",
        "summary",
        "locale",
        "importance",
        "inputHint",
        "attachmentLayout",
        "attachments",
        "suggestedActions",
        "entities",
        "channelData",
    }
)

_JSON_TYPE = re.compile(r"[ \t]*(application|text)/([^ \t;]+\+)?json([ \t;]|$)", re.IGNORECASE | re.ASCII)
# What no URI has: spaces, control characters, half of a surrogate pair.
_NOT_IN_A_URI = re.compile("[\x00-\x20\x7f\ud800-\udfff]")
# https://www.w3.org/TR/trace-context/#traceparent-header-field-values
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Callback:
    """A callback message that was found good.

    Attributes:
        key: the CloudEvent's source and id, or the body's `id`, or else the id of the message that brought it; the
            same key twice has one effect.
        body: the plain form, whichever form it came in.
        correlation_id: the publisher's id of the job, for the log.
        traceparent: the publisher's W3C trace context, for the log.
    """

    key: str
    body: JsonObject
    correlation_id: str | None = None
    traceparent: str | None = None

    @classmethod
    def from_message(cls, message: QueueMessage) -> Callback:
        """Raises InvalidCallback, with a stable word for what is wrong, if it is none."""
        attributes = _binary_attributes(message.application_properties)
        declared = message.content_type.partition(";")[0].strip().lower()
        if declared.startswith("application/cloudevents"):
            _check_format(declared)
            callback = _from_event(_parsed(message.body))
        elif attributes:
            _check_attributes(attributes)
            if declared:
                _check_data_type(message.content_type)
            callback = _from_data(attributes, _parsed(message.body))
        else:
            body = _parsed(message.body)
            # Not every publisher can set the content type; what calls itself a CloudEvent is meant as one.
            callback = _from_event(body) if "specversion" in body else cls.from_body(body, message.message_id)
        properties = message.application_properties
        # Azure's clients wrote the second name before the first was a standard.
        trace = callback.traceparent or properties.get("traceparent") or properties.get("Diagnostic-Id")
        known = isinstance(trace, str) and _TRACEPARENT.fullmatch(trace)
        return cls(callback.key, callback.body, message.correlation_id, str(trace) if known else None)

    @classmethod
    def from_body(cls, body: JsonObject, message_id: str) -> Callback:
        """The plain form. Raises InvalidCallback."""
        _check_body(body, _type_of(body.get("type")))
        return cls("callback:" + (body.get("id") or message_id), body)

    @property
    def type(self) -> CallbackTypes:
        """What is said; a plain body that does not say is a result."""
        return CallbackTypes(self.body.get("type") or CallbackTypes.result)

    @property
    def conversation_id(self) -> str:
        """The conversation to continue."""
        return str(self.body["conversationId"])

    @property
    def channel_id(self) -> str | None:
        """Its channel, if it is named."""
        channel: str | None = self.body.get("channelId")
        return channel

    @property
    def continuation(self) -> str | None:
        """What to continue with; None only for a notification."""
        continuation: str | None = self.body.get("continuation")
        return continuation

    @property
    def ticket(self) -> str | None:
        """What shows that the publisher was asked."""
        ticket: str | None = self.body.get("ticket")
        return ticket

    @property
    def value(self) -> Any:
        """What the continuation finds in `context.activity.value`; of a failure the `error`, and the `value` if any."""
        if self.type is CallbackTypes.failed:
            return {name: self.body[name] for name in ("error", "value") if self.body.get(name) is not None}
        return self.body.get("value")

    @property
    def urgent(self) -> bool:
        """Whether a notification passes quiet hours and limits."""
        return self.body.get("urgent") is True

    @property
    def shown(self) -> Activity:
        """The message that a progress or a notification shows."""
        if self.body.get("text") is not None:
            return Activity(type="message", text=self.body["text"])
        return Activity.from_dict({**self.body["activity"], "type": "message"})


def session_id(conversation_id: str) -> str:
    """The session that keeps one conversation's messages in order: its id, or the hash of one that is too long."""
    if len(conversation_id) <= 128:
        return conversation_id
    return hashlib.sha256(conversation_id.encode("utf-8", "surrogatepass")).hexdigest()


# -- the body


def _check_body(body: JsonObject, kind: CallbackTypes) -> None:
    conversation = _text(body, "conversationId", None, required=True)
    if not is_storable(str(conversation)):
        raise InvalidCallback(
            "'conversationId' is no id of a conversation: 1 to 1000 characters of text", reason="InvalidConversation"
        )
    _text(body, "continuation", MAX_CONTINUATION, required=kind is not CallbackTypes.notification)
    _text(body, "channelId", MAX_CHANNEL)
    _text(body, "ticket", MAX_TICKET)
    _text(body, "id", MAX_ID)
    if kind is CallbackTypes.failed:
        error = _object(body, "error", required=True)
        _text(error, "code", MAX_CONTINUATION, required=True)
        _text(error, "message", None)
    if kind in (CallbackTypes.progress, CallbackTypes.notification):
        _check_shown(body)
    if kind is CallbackTypes.notification and not isinstance(body.get("urgent"), (bool, type(None))):
        raise InvalidCallback("'urgent' must be true or false", reason="WrongType")


def _check_shown(body: JsonObject) -> None:
    text, activity = _text(body, "text", None), body.get("activity")
    if text is None and activity is None:
        raise InvalidCallback("There is nothing to show: give a 'text' or an 'activity'", reason="NothingToShow")
    if text is not None and activity is not None:
        raise InvalidCallback("Give a 'text' or an 'activity', and not both", reason="TextAndActivity")
    if activity is None:
        return
    activity = _object(body, "activity")
    unknown = sorted(activity.keys() - ACTIVITY_FIELDS)
    if unknown:
        raise InvalidCallback(
            f"An 'activity' cannot have {unknown[0]!r:.80}; it can have: {', '.join(sorted(ACTIVITY_FIELDS))}",
            reason="ActivityFieldNotAllowed",
        )
    if activity.get("type", "message") != "message":
        raise InvalidCallback("An 'activity' must be a message", reason="InvalidActivity")
    try:
        Activity.from_dict(activity)
    except BadActivity as error:
        raise InvalidCallback(f"In 'activity', {error}", reason="InvalidActivity") from error


def _type_of(name: Any) -> CallbackTypes:
    if name is None:
        return CallbackTypes.result
    if not isinstance(name, str):
        raise InvalidCallback("'type' must be a string", reason="WrongType")
    if name not in list(CallbackTypes):
        raise InvalidCallback(
            f"There is no type {name!r:.80}; use one of: {', '.join(CallbackTypes)}", reason="UnknownType"
        )
    return CallbackTypes(name)


def _text(body: JsonObject, name: str, limit: int | None, *, required: bool = False) -> str | None:
    value = body.get(name)
    if value is None:
        if required:
            raise InvalidCallback(f"{name!r} is missing", reason="MissingField")
        return None
    if not isinstance(value, str):
        raise InvalidCallback(f"{name!r} must be a string", reason="WrongType")
    if name == "conversationId":
        return value
    if not value:
        raise InvalidCallback(f"{name!r} is empty: leave it out", reason="EmptyField")
    if limit is not None and len(value) > limit:
        raise InvalidCallback(f"{name!r} has {len(value)} characters; {limit} are allowed", reason="TooLong")
    if not _is_text(value):
        raise InvalidCallback(f"{name!r} is no text: it has half of a surrogate pair", reason="InvalidText")
    return value


def _object(body: JsonObject, name: str, *, required: bool = False) -> JsonObject:
    value = body.get(name)
    if value is None and required:
        raise InvalidCallback(f"{name!r} is missing", reason="MissingField")
    if not isinstance(value, dict):
        raise InvalidCallback(f"{name!r} must be an object", reason="WrongType")
    return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# -- CloudEvents, https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md


def _from_event(event: JsonObject) -> Callback:
    """Of the JSON format: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md."""
    _check_attributes(event)
    data_type = event.get("datacontenttype")
    if data_type is not None:
        if not isinstance(data_type, str):
            raise InvalidCallback("The attribute 'datacontenttype' must be a string", reason="InvalidAttribute")
        _check_data_type(data_type)
    data, encoded = event.get("data"), event.get("data_base64")
    if data is not None and encoded is not None:
        raise InvalidCallback("An event has 'data' or 'data_base64', and not both", reason="DataTwice")
    if encoded is not None:
        return _from_data(event, _parsed(_decoded(encoded)))
    if data is None:
        raise InvalidCallback("The event has no data: it says what to continue", reason="MissingData")
    if not isinstance(data, dict):
        raise InvalidCallback("The event's data must be a JSON object", reason="NotAnObject")
    return _from_data(event, data)


def _from_data(attributes: Mapping[str, Any], data: JsonObject) -> Callback:
    kind = CallbackTypes(attributes["type"])
    _check_body(data, kind)
    trace = attributes.get("traceparent")
    # A URI-reference holds no space, so no two pairs make the same key.
    key = f"event:{attributes['source']} {attributes['id']}"
    return Callback(key, {**data, "type": str(kind)}, traceparent=trace if isinstance(trace, str) else None)


def _check_attributes(attributes: Mapping[str, Any]) -> None:
    for name in _REQUIRED_ATTRIBUTES:
        value = attributes.get(name)
        if value is None:
            raise InvalidCallback(f"The CloudEvents attribute {name!r} is missing", reason="MissingAttribute")
        if not isinstance(value, str) or not value or not _is_text(value):
            raise InvalidCallback(f"The attribute {name!r} must be a string with text in it", reason="InvalidAttribute")
    if attributes["specversion"] != "1.0":
        raise InvalidCallback("The attribute 'specversion' must be \"1.0\"", reason="UnsupportedSpecVersion")
    if len(attributes["id"]) > MAX_ID or len(attributes["source"]) > MAX_SOURCE:
        raise InvalidCallback(
            f"The attribute 'id' may have {MAX_ID} characters, and 'source' {MAX_SOURCE}", reason="TooLong"
        )
    if _NOT_IN_A_URI.search(attributes["source"]):
        raise InvalidCallback("The attribute 'source' must be a URI, which has no space", reason="InvalidAttribute")
    _type_of(attributes["type"])


def _binary_attributes(properties: Mapping[str, Property]) -> dict[str, Any]:
    """The CloudEvents attributes among the application properties; empty if the message is no event."""
    found: dict[str, Any] = {}
    for name, value in properties.items():
        for prefix in PREFIXES:
            if name.lower().startswith(prefix):
                attribute = name[len(prefix) :].lower()
                if found.setdefault(attribute, value) != value:
                    raise InvalidCallback(
                        f"The attribute {attribute!r:.80} comes twice, with two values", reason="ConflictingAttributes"
                    )
    # A property of the publisher's own may begin like one of CloudEvents.
    return found if any(name in found for name in _REQUIRED_ATTRIBUTES) else {}


def _check_format(declared: str) -> None:
    if declared.startswith("application/cloudevents-batch"):
        raise InvalidCallback("Send each event in a message of its own, and not a batch", reason="BatchNotSupported")
    if declared != "application/cloudevents+json":
        raise InvalidCallback("Of structured events only JSON is read", reason="UnsupportedEventFormat")


def _check_data_type(content_type: str) -> None:
    if not _JSON_TYPE.match(content_type):
        raise InvalidCallback("The data must be JSON (application/json)", reason="UnsupportedDataContentType")


# -- JSON


def _parsed(body: bytes) -> JsonObject:
    try:
        text = text_of(body)
        value = parse(text, _DEPTH)
    except BadActivity as error:
        raise InvalidCallback(str(error), reason=error.code) from error
    # Which of two values is meant, two readers may see differently.
    json.loads(text, object_pairs_hook=_without_duplicates)
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InvalidCallback("An object of the JSON has the same name twice", reason="DuplicateName")
    return found


def _decoded(encoded: Any) -> bytes:
    try:
        return base64.b64decode(encoded.encode(), validate=True)
    except (AttributeError, UnicodeEncodeError, binascii.Error):
        raise InvalidCallback("'data_base64' must be a string in Base64", reason="InvalidBase64") from None
