"""The payload of a dead letter: bytes kept as text, and shown without the tickets in it."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

_BASE64 = "base64:"
_REDACTED = "(redacted)"
# The second may hold the first.
_SECRETS = ("ticket", "data_base64")
# A ticket is a capability: who has it may continue the conversation. Here it is found also where the JSON is broken.
_TICKET = re.compile(rb'("(?:ticket|data_base64)"\s*:\s*")(?:[^"\\]|\\.)*')

# A signed one is known by its look, wherever it stands.
_SIGNED = re.compile(rb"\bt1\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


def text_of(payload: bytes) -> str:
    """UTF-8 as it is, and what is none in Base64 behind a mark."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = _BASE64
    return _BASE64 + base64.b64encode(payload).decode() if text.startswith(_BASE64) else text


def bytes_of(text: str) -> bytes:
    """What `text_of` was given."""
    if not text.startswith(_BASE64):
        return text.encode()
    try:
        return base64.b64decode(text.removeprefix(_BASE64), validate=True)
    except (binascii.Error, ValueError):
        return text.encode()


def without_tickets(payload: bytes) -> bytes:
    """For people and programs to look at: tickets are redacted, in broken JSON too."""
    # Text of two bytes a character is what a publisher may send by mistake.
    narrow = payload.replace(b"\0", b"")
    if narrow != payload and (_TICKET.search(narrow) or _SIGNED.search(narrow)):
        return f"({len(payload)} bytes with a ticket in them)".encode()
    try:
        value = json.loads(payload)
        hidden = _hidden(value)
        shown = payload if hidden == value else json.dumps(hidden, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        shown = _TICKET.sub(rb"\g<1>" + _REDACTED.encode(), payload)
    return _SIGNED.sub(_REDACTED.encode(), shown)


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _REDACTED if name in _SECRETS else _hidden(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_hidden(each) for each in value]
    if isinstance(value, str) and '"ticket"' in value:
        # JSON within JSON: a message that is to be looked at again.
        inner = _TICKET.sub(rb"\g<1>" + _REDACTED.encode(), value.encode("utf-8", "surrogatepass"))
        return inner.decode("utf-8", "surrogatepass")
    return value
