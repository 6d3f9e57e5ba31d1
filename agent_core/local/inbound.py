"""What comes in over HTTP, checked before the local channel does anything with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn
from urllib.parse import unquote

from starlette.requests import Request

from agent_core.local.transcript import JsonObject, Refusal

_LARGEST_BODY = 1024 * 1024
_DEEPEST_JSON = 64
_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
_STREAM_ID = re.compile(r"[!-~]{1,200}")
_TIME_ZONE = re.compile(r"[A-Za-z0-9_+/-]{1,64}")
_LOCALE = re.compile(r"[A-Za-z0-9-]{1,35}")


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """Where a streamed activity belongs.

    Attributes:
        id: the stream's id; None on the chunk that begins it.
        number: the chunk's number; None on the final message.
    """

    id: str | None
    number: int | None


def check_origin(request: Request) -> None:
    """Refuse (403) what does not come from this machine's own programs and pages.

    The name in `Host` stops a web site whose name was pointed at 127.0.0.1 from reading (DNS rebinding); `Origin`,
    which browsers send with every POST to another site, stops it from writing.
    """
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or re.sub(r":\d+$", "", hosts[0]).lower() not in _LOOPBACK:
        raise Refusal(403, "Forbidden", "The local channel only answers to 127.0.0.1, localhost and [::1].")
    own = f"{request.url.scheme}://{hosts[0]}".lower()
    if any(origin.lower() != own for origin in request.headers.getlist("origin")):
        raise Refusal(403, "Forbidden", "The local channel does not take requests from other sites.")


def segments(request: Request) -> list[str]:
    """The path as its percent-decoded parts; an encoded `/` or `|` in an id stays part of the id."""
    path: bytes = request.scope["raw_path"]
    return [unquote(part) for part in path.partition(b"?")[0].decode("ascii", "replace").split("/") if part]


async def body_of(request: Request) -> JsonObject:
    """The request's JSON object.

    Raises:
        Refusal: it is larger than 1 MiB (413), or no JSON object, or nested deeper than 64 levels (400).
    """
    body = bytearray()
    too_big = False
    async for part in request.stream():
        # Read on to the end: a client that is still writing would see a broken connection instead of the answer.
        too_big = too_big or len(body) + len(part) > _LARGEST_BODY
        if not too_big:
            body += part
    if too_big:
        raise Refusal(413, "MessageSizeTooBig", "The body is larger than 1 MiB.")
    try:
        value = json.loads(bytes(body).removeprefix(b"\xef\xbb\xbf"), parse_constant=_no_constant)
        json.dumps(value, allow_nan=False)  # a number such as 1e999 was read as infinity
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "BadSyntax", "The body is not JSON.") from error
    if not isinstance(value, dict):
        raise Refusal(400, "BadSyntax", "The body is not a JSON object.")
    if _deeper_than(value, _DEEPEST_JSON):
        raise Refusal(400, "BadSyntax", f"The body is nested deeper than {_DEEPEST_JSON} levels.")
    return value


def checked_activity(value: object) -> JsonObject:
    """The activity, if it has the shape of one and something to show.

    Raises:
        Refusal: it has not (400).
    """
    if not isinstance(value, dict):
        raise Refusal(400, "BadArgument", "The activity is not a JSON object.")
    if not isinstance(value.get("type"), str) or not value["type"]:
        raise Refusal(400, "MissingProperty", "The activity has no `type`.")
    for name, kind in (("text", str), ("attachments", list), ("entities", list), ("suggestedActions", dict)):
        if not isinstance(value.get(name), kind | None):
            raise Refusal(400, "BadArgument", f"The activity's `{name}` is not of type {kind.__name__}.")
    text = (value.get("text") or "").strip()
    shown = text or value.get("attachments") or (value.get("suggestedActions") or {}).get("actions")
    if value["type"] == "message" and not shown:
        raise Refusal(400, "BadArgument", "The message has no text, no attachment and no suggested action.")
    return value


def stream_info(activity: JsonObject) -> StreamInfo | None:
    """What the activity's `streaminfo` entity says; None for an activity that is not part of a stream.

    Raises:
        Refusal: the entity contradicts itself or the activity (400).
    """
    found = [
        entity
        for entity in activity.get("entities") or ()
        if isinstance(entity, dict) and str(entity.get("type")).lower() == "streaminfo"
    ]
    # A9246 of https://github.com/microsoft/Agents/blob/main/specs/activity/protocol-activity.md: of several, heed none.
    if len(found) != 1 or activity["type"] not in ("typing", "message"):
        return None
    stream_id, number, final = found[0].get("streamId"), found[0].get("streamSequence"), activity["type"] == "message"
    if final and found[0].get("streamType") != "final":
        return None
    if stream_id is not None and not (isinstance(stream_id, str) and _STREAM_ID.fullmatch(stream_id)):
        raise Refusal(400, "BadArgument", "The `streamId` is not a string of 1 to 200 visible ASCII characters.")
    if final:
        return StreamInfo(stream_id, None)
    if not isinstance(number, int) or number < 1:
        raise Refusal(400, "BadArgument", "A chunk of a stream needs a `streamSequence` of 1 or more.")
    if not (activity.get("text") or "").strip():
        raise Refusal(400, "BadRequest", "Start streaming activities should include text")
    return StreamInfo(stream_id, number)


def reported_by_browser(body: JsonObject) -> JsonObject:
    """The locale, local time and time zone that a page sends along; what is no such thing is left out."""
    reported: JsonObject = {}
    locale, time, zone = (body.get(name) for name in ("locale", "localTimestamp", "localTimezone"))
    if isinstance(locale, str) and _LOCALE.fullmatch(locale):
        reported["locale"] = locale
    if isinstance(time, str) and _has_offset(time):
        reported["localTimestamp"] = time
    if isinstance(zone, str) and _TIME_ZONE.fullmatch(zone):
        reported["localTimezone"] = zone
    return reported


def _has_offset(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _deeper_than(value: object, levels: int) -> bool:
    """Whether lists and objects are nested in each other more than `levels` deep."""
    layer: list[Any] = [value]
    for _ in range(levels):
        layer = [child for each in layer for child in _children(each)]
        if not layer:
            return False
    return any(isinstance(each, dict | list) for each in layer)


def _children(value: object) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
