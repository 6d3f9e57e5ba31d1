"""Which request a function's route answers, by the rules of the host's router."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote

_PARAMETER = re.compile(r"\{([A-Za-z_]\w*)\}")
_REST = re.compile(r"\{\*\*?([A-Za-z_]\w*)\}")
_SLASH = re.compile("%2f", re.IGNORECASE)


@dataclass(frozen=True)
class RouteTemplate:
    """A template such as `orders/{id}` or `files/{*path}`; literal text matches in either case.

    Attributes:
        text: the template as it was written.
        shape: equal for templates that match the same paths.
    """

    text: str
    shape: tuple[str, ...]
    _segments: tuple[re.Pattern[str], ...]
    _rest: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a template. ValueError if it has a constraint, a default, or anything else that is not known here."""
        *segments, last = text.strip("/").split("/")
        rest = _REST.fullmatch(last)
        if rest is None:
            segments.append(last)
        for segment in segments:
            if not segment or set("{}*?") & set(_PARAMETER.sub("", segment)):
                raise ValueError(
                    f"the route {text!r} is not supported; there may be {{name}} in it and {{*name}} at its end, "
                    "without constraints or defaults."
                )
        names = [name for segment in segments for name in _PARAMETER.findall(segment)] + ([rest[1]] if rest else [])
        if len(set(names)) < len(names):
            raise ValueError(f"the route {text!r} has two parameters of one name.")
        shape = [_PARAMETER.sub("{}", segment).lower() for segment in segments] + ["{*}"] * (rest is not None)
        return cls(text, tuple(shape), tuple(map(_pattern, segments)), None if rest is None else rest[1])

    def match(self, path: str) -> dict[str, str] | None:
        """The route's parameters for a percent-encoded path without its prefix; None if it is another route's.

        Values are decoded, but for a slash, which stays `%2F` as it does in the host.
        """
        given = [_decoded(segment) for segment in path.split("/")] if path else []
        if len(given) < len(self._segments) or (len(given) > len(self._segments) and self._rest is None):
            return None
        values: dict[str, str] = {}
        for pattern, segment in zip(self._segments, given, strict=False):
            found = pattern.fullmatch(segment)
            if found is None:
                return None
            values |= found.groupdict()
        rest = "/".join(given[len(self._segments) :])
        if self._rest is not None and rest:
            values[self._rest] = rest
        return values


def _pattern(segment: str) -> re.Pattern[str]:
    # Splitting by a pattern with one group gives text and names in turn.
    parts = _PARAMETER.split(segment)
    texts = [f"(?P<{part}>.+)" if number % 2 else re.escape(part) for number, part in enumerate(parts)]
    return re.compile("".join(texts), re.IGNORECASE | re.DOTALL)


def _decoded(segment: str) -> str:
    return "%2F".join(unquote(part) for part in _SLASH.split(segment))
