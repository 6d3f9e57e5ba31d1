"""Times of the wire as times of Python, on demand: the strings themselves stay as they are."""

from __future__ import annotations

from datetime import UTC, datetime


def parse_timestamp(text: str | None) -> datetime | None:
    """The moment of an ISO 8601 string, aware; None if it names none.

    Real channels send seven digits of a second; a datetime has six, the others are cut off. Without an offset it is UTC
    ("timestamp … in UTC", A2041).
    """
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
