"""When a failed request is tried again, and how long to wait: never so long that a turn is lost over it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

# No service means more; a date that overflows would fail every delivery instead of putting it off.
LONGEST_WAIT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Retries:
    """Exponential waits with full jitter, within a budget.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    Attributes:
        random: a number from 0 up to 1.
        attempts: at most, the first one included.
        base, longest: the first wait is up to `base`, each next up to twice as long, none longer than `longest`.
        budget: for all of it. The channel waits 15 s for a turn, and a turn says more than one thing.
    """

    now: Callable[[], datetime]
    sleep: Callable[[timedelta], Awaitable[None]]
    random: Callable[[], float]
    attempts: int = 4
    base: timedelta = timedelta(seconds=1)
    longest: timedelta = timedelta(seconds=8)
    budget: timedelta = timedelta(seconds=10)

    def wait(self, attempt: int, retry_after: timedelta | None, since: datetime) -> timedelta | None:
        """How long to wait after that attempt (1 was the first); None if it was the last.

        What the service asked for is never undercut: where it does not fit into the budget there is no other attempt.
        """
        if attempt >= self.attempts:
            return None
        backoff = self.random() * min(self.longest, self.base * 2 ** (attempt - 1))
        wait = max(backoff, retry_after or timedelta(0))
        return wait if self.now() + wait < since + self.budget else None


def retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """Seconds, decimals of seconds, or a date (RFC 9110, section 10.2.3); nonsense counts as absent."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        if re.fullmatch(r"-?\d+(\.\d+)?", text):
            return min(LONGEST_WAIT, timedelta(seconds=max(0.0, float(text))))
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(LONGEST_WAIT, max(timedelta(0), date - now))
