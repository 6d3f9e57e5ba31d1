"""JSON text, read with bounds and written so that what was read comes out again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from agent_core.errors import BadActivity

JsonObject = dict[str, Any]

MAX_DEPTH = 64


def parse_object(body: bytes | str, max_depth: int = MAX_DEPTH) -> JsonObject:
    """The JSON object in `body`.

    Raises:
        BadActivity: not UTF-8, not JSON (NaN and infinite numbers are not), not an object, or nested deeper than 64.
    """
    return parse(text_of(body), max_depth)


def text_of(body: bytes | str) -> str:
    """JSON text as a string, without a byte order mark. Raises BadActivity: not UTF-8."""
    try:
        return body.removeprefix("\ufeff") if isinstance(body, str) else body.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError:
        raise BadActivity("The body is not UTF-8", code="InvalidJson") from None


def parse(text: str, max_depth: int = MAX_DEPTH) -> JsonObject:
    """Like `parse_object`, of a string without a byte order mark."""
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise BadActivity(f"The JSON is nested deeper than {MAX_DEPTH} levels", code="TooDeep") from None
    except ValueError as error:
        where = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise BadActivity(f"The body is not valid JSON{where}", code="InvalidJson") from None
    if not isinstance(value, dict):
        raise BadActivity("The body must be a JSON object", code="NotAnObject")
    # Fewer brackets than levels cannot be deep; that spares the walk for nearly all.
    if text.count("{") + text.count("[") > max_depth and _deeper_than(value, max_depth):
        raise BadActivity(f"The JSON is nested deeper than {max_depth} levels", code="TooDeep")
    return value


def dump(value: Any) -> bytes:
    """Compact JSON in UTF-8; a lone surrogate, which UTF-8 cannot hold, stays escaped as it came in."""
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError:
        return _ASCII_ENCODER.encode(value).encode()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large for a number")
    return number


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_ASCII_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def _deeper_than(value: Any, depth: int) -> bool:
    level: list[Any] = [value]
    for _ in range(depth):
        level = [inner for outer in level for inner in _children(outer)]
        if not level:
            return False
    return True


def _children(value: Any) -> list[Any]:
    inner: Sequence[Any] = list(value.values()) if isinstance(value, dict) else value
    return [each for each in inner if isinstance(each, (dict, list))]
