"""Messages that no publisher should send: each kind with the reason it is refused for."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from agent_core.proactive.queue import Property, QueueMessage

RESULT, PROGRESS = "agent.callback.result.v1", "agent.callback.progress.v1"
FAILED, NOTIFICATION = "agent.callback.failed.v1", "agent.notification.v1"

PLAIN: dict[str, Any] = {"conversationId": "c1", "continuation": "order_placed", "value": {"number": 1292}}
EVENT: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/shop", "type": RESULT, "data": PLAIN}
ATTRIBUTES: dict[str, Property] = {
    "cloudEvents:specversion": "1.0",
    "cloudEvents:id": "1",
    "cloudEvents:source": "/shop",
    "cloudEvents:type": RESULT,
}
STRUCTURED = "application/cloudevents+json; charset=utf-8"


@dataclass(frozen=True)
class Malformed:
    """One kind."""

    name: str
    reason: str
    body: bytes
    content_type: str = "application/json"
    properties: dict[str, Property] | None = None

    def message(self, message_id: str) -> QueueMessage:
        return QueueMessage(
            self.body, message_id, content_type=self.content_type, application_properties=self.properties or {}
        )


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _plain(name: str, reason: str, **changes: Any) -> Malformed:
    return Malformed(name, reason, _json({**PLAIN, **changes}))


def _without(name: str, reason: str, field: str) -> Malformed:
    return Malformed(name, reason, _json({key: value for key, value in PLAIN.items() if key != field}))


def _event(name: str, reason: str, **changes: Any) -> Malformed:
    event = {key: value for key, value in {**EVENT, **changes}.items() if value is not ...}
    return Malformed(name, reason, _json(event), STRUCTURED)


def _binary(name: str, reason: str, body: bytes = _json(PLAIN), content_type: str = "", **changes: Any) -> Malformed:
    named = {f"cloudEvents:{key}": value for key, value in changes.items()}
    properties = {key: value for key, value in {**ATTRIBUTES, **named}.items() if value is not ...}
    return Malformed(name, reason, body, content_type, properties)


_DEEP = b'{"conversationId": "c1", "continuation": "order_placed", "value": ' + b"[" * 5000 + b"]" * 5000 + b"}"
_TWICE = b'{"conversationId": "c1", "conversationId": "c2", "continuation": "order_placed"}'
_TWICE_INSIDE = b'{"conversationId": "c1", "continuation": "order_placed", "value": [{"a": 1, "a": 2}]}'


def _value(name: str, text: bytes) -> Malformed:
    return Malformed(
        name, "InvalidJson", b'{"conversationId":"c1","continuation":"order_placed","value":' + text + b"}"
    )


MALFORMED = [
    # not JSON, or not to be read by everybody alike
    Malformed("empty body", "InvalidJson", b""),
    Malformed("text", "InvalidJson", b"order 1292 is placed"),
    Malformed("xml", "InvalidJson", b"<order number='1292'/>", "application/xml"),
    Malformed("form", "InvalidJson", b"conversationId=c1&continuation=order_placed"),
    Malformed("not UTF-8", "InvalidJson", b'{"conversationId": "\xff"}'),
    Malformed("UTF-16", "InvalidJson", json.dumps(PLAIN).encode("utf-16")),
    Malformed("gzip", "InvalidJson", b"\x1f\x8b\x08\x00" + bytes(40)),
    Malformed("cut off", "InvalidJson", _json(PLAIN)[:-1]),
    Malformed("two objects", "InvalidJson", _json(PLAIN) * 2),
    Malformed("Python's repr", "InvalidJson", repr(PLAIN).encode()),
    Malformed(
        "what old .NET clients write",
        "InvalidJson",
        b"@\x06string\x083http://schemas.microsoft.com" + _json(PLAIN),
    ),
    _value("NaN", b"NaN"),
    _value("Infinity", b"-Infinity"),
    _value("number too large", b"1e999"),
    _value("integer of 5,000 digits", b"9" * 5000),
    _value("control character", b'"a\x00b"'),
    Malformed("list", "NotAnObject", _json([PLAIN])),
    Malformed("string", "NotAnObject", _json(json.dumps(PLAIN))),
    Malformed("null", "NotAnObject", b"null"),
    Malformed("number", "NotAnObject", b"1292"),
    Malformed("5,000 deep", "TooDeep", _DEEP),
    Malformed("61 deep", "TooDeep", _DEEP.replace(b"[" * 5000, b"[" * 60).replace(b"]" * 5000, b"]" * 60)),
    Malformed("name twice", "DuplicateName", _TWICE),
    Malformed("name twice inside", "DuplicateName", _TWICE_INSIDE),
    # the plain form
    Malformed("empty object", "MissingField", b"{}"),
    _without("no conversation", "MissingField", "conversationId"),
    _without("no continuation", "MissingField", "continuation"),
    _plain("conversation null", "MissingField", conversationId=None),
    _plain("conversation a number", "WrongType", conversationId=7),
    _plain("conversation empty", "InvalidConversation", conversationId=""),
    _plain("conversation too long", "InvalidConversation", conversationId="x" * 1001),
    _plain("conversation too many bytes", "InvalidConversation", conversationId="€" * 700),
    _plain("conversation half a character", "InvalidConversation", conversationId="c\ud800"),
    _plain("continuation a list", "WrongType", continuation=["order_placed"]),
    _plain("continuation empty", "EmptyField", continuation=""),
    _plain("continuation too long", "TooLong", continuation="x" * 257),
    _plain("continuation half a character", "InvalidText", continuation="\udc00"),
    _plain("continuation unknown", "ContinuationNotFound", continuation="order_plcaed"),
    _plain("conversation unknown", "ConversationNotFound", conversationId="c2"),
    _plain("channel unknown", "ConversationNotFound", channelId="slack"),
    _plain("channel an object", "WrongType", channelId={"id": "msteams"}),
    _plain("channel empty", "EmptyField", channelId=""),
    _plain("channel too long", "TooLong", channelId="x" * 129),
    _plain("ticket true", "WrongType", ticket=True),
    _plain("ticket empty", "EmptyField", ticket=""),
    _plain("ticket too long", "TooLong", ticket="x" * 8193),
    _plain("id a number", "WrongType", id=1292),
    _plain("id empty", "EmptyField", id=""),
    _plain("id too long", "TooLong", id="x" * 513),
    _plain("type a number", "WrongType", type=1),
    _plain("type unknown", "UnknownType", type="agent.callback.result.v2"),
    # what is shown, and errors
    _plain("progress of nothing", "NothingToShow", type=PROGRESS),
    _plain("progress of two", "TextAndActivity", type=PROGRESS, text="50 %", activity={"text": "50 %"}),
    _plain("progress a number", "WrongType", type=PROGRESS, text=50),
    _plain("progress empty", "EmptyField", type=PROGRESS, text=""),
    _plain("notification of nothing", "NothingToShow", type=NOTIFICATION),
    _plain("activity a text", "WrongType", type=NOTIFICATION, activity="hello"),
    _plain("activity typing", "InvalidActivity", type=NOTIFICATION, activity={"type": "typing"}),
    _plain("activity with a number for text", "InvalidActivity", type=NOTIFICATION, activity={"text": 7}),
    _plain(
        "activity with a service",
        "ActivityFieldNotAllowed",
        type=NOTIFICATION,
        activity={"serviceUrl": "https://x"},
    ),
    _plain("activity for c2", "ActivityFieldNotAllowed", type=NOTIFICATION, activity={"conversation": {"id": "c2"}}),
    _plain("failed without an error", "MissingField", type=FAILED),
    _plain("failed with a text", "WrongType", type=FAILED, error="out of stock"),
    _plain("failed without a code", "MissingField", type=FAILED, error={"message": "out of stock"}),
    _plain("failed with a number", "WrongType", type=FAILED, error={"code": 404}),
    # structured CloudEvents
    Malformed("event that is no JSON", "InvalidJson", b"<event/>", STRUCTURED),
    Malformed("event that is a list", "NotAnObject", _json([EVENT]), STRUCTURED),
    Malformed("batch", "BatchNotSupported", _json([EVENT]), "application/cloudevents-batch+json"),
    Malformed("avro", "UnsupportedEventFormat", b"\x00", "application/cloudevents+avro"),
    Malformed("event without anything", "MissingAttribute", b"{}", STRUCTURED),
    Malformed("plain body as an event", "MissingAttribute", _json(PLAIN), STRUCTURED),
    _event("no id", "MissingAttribute", id=...),
    _event("no source", "MissingAttribute", source=...),
    _event("no type", "MissingAttribute", type=...),
    _event("specversion a number", "InvalidAttribute", specversion=1.0),
    _event("specversion 0.3", "UnsupportedSpecVersion", specversion="0.3"),
    _event("id a number of an event", "InvalidAttribute", id=1),
    _event("id of an event too long", "TooLong", id="x" * 513),
    _event("source with a space", "InvalidAttribute", source="my shop"),
    _event("source empty", "InvalidAttribute", source=""),
    _event("type of another contract", "UnknownType", type="Microsoft.Storage.BlobCreated"),
    _event("no data", "MissingData", data=...),
    _event("data a text", "NotAnObject", data=json.dumps(PLAIN)),
    _event("data of the wrong shape", "MissingField", data={"order": 1292}),
    _event("data twice", "DataTwice", data_base64=base64.b64encode(_json(PLAIN)).decode()),
    _event("data_base64 that is none", "InvalidBase64", data=..., data_base64="?"),
    _event("data_base64 of no JSON", "InvalidJson", data=..., data_base64="AAAA"),
    _event("data declared as xml", "UnsupportedDataContentType", datacontenttype="application/xml"),
    _event("datacontenttype a number", "InvalidAttribute", datacontenttype=7),
    # binary CloudEvents
    _binary("binary without an id", "MissingAttribute", id=...),
    _binary("binary without a specversion", "MissingAttribute", specversion=...),
    _binary("binary with a number for id", "InvalidAttribute", id=7),
    _binary("binary of another version", "UnsupportedSpecVersion", specversion="2.0"),
    _binary("binary of an unknown type", "UnknownType", type="order.placed"),
    _binary("binary without data", "InvalidJson", body=b""),
    _binary("binary declared as text", "UnsupportedDataContentType", content_type="text/plain"),
    Malformed("two ids", "ConflictingAttributes", _json(PLAIN), "", {**ATTRIBUTES, "ce-id": "2"}),
]
