"""One turn at a time per conversation, first come first served: who speaks there, and who waits in line.

One document per conversation, while anybody speaks or waits there; so who finds nobody needs no look before it creates
one. Its holder has a token and a lease that it renews; who finds it held joins the line, and comes again. A place in
line is kept for a while only, so that work which never comes again, or later, holds nobody up.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from agent_core.proactive.claims import Mark, held, held_until
from agent_core.store.document_store import (
    CONVERSATIONS,
    Create,
    Delete,
    Document,
    JsonObject,
    Operation,
    Replace,
    parse_time,
    time_text,
)

DOCUMENT_ID = "turn-order"
# A holder renews; one that died holds the conversation up no longer than this.
LEASE = timedelta(seconds=30)
# Who waits comes again within seconds, and loses its place if it does not.
PLACE_KEPT = timedelta(seconds=30)
# Who is to try again later keeps its place for waits up to this; longer ones step out of the line.
LONGEST_HOLD_UP = timedelta(minutes=2)
MAX_LINE = 100
KEPT = timedelta(days=1)
# Whether work may be claimed, or has no place any more, because a copy of it was; or somebody speaks; or nobody does,
# but others are to.
Outlook = Literal["due", "held", "free"]


def may_begin(order: Document | None, key: str, now: datetime) -> bool:
    """Whether it is the turn of the work with this key."""
    if order is None:
        return True
    if order.body["status"] == "held" and held_until(order) > now:
        return False
    line = _line(order, now)
    return not line or line[0]["key"] == key


def begin(order: Document | None, conversation_id: str, key: str, token: str, now: datetime) -> Create | Replace:
    """What makes the bearer of the token the one who speaks. Of two callers at once one gets it.

    Without having looked (None) it is refused wherever anybody speaks or waits.
    """
    line = [place for place in _line(order, now) if place["key"] != key]
    body = _body(conversation_id, line, held("held", token, now, LEASE))
    return Replace(body, order.etag) if order else Create(body)


def outlook(order: Document | None, key: str, now: datetime) -> Outlook:
    """What work that is in line can expect."""
    if may_begin(order, key, now) or all(place["key"] != key for place in _line(order, now)):
        return "due"
    return "held" if order and order.body["status"] == "held" and held_until(order) > now else "free"


def before(order: Document | None, key: str, now: datetime) -> tuple[tuple[str, ...], datetime | None]:
    """The keys of those that wait before this one, and when the first comes again if it is to be tried again."""
    keys: list[str] = []
    line = _line(order, now)
    for place in line:
        if place["key"] == key:
            break
        keys.append(place["key"])
    return tuple(keys), _back_at(line) if keys else None


def join(order: Document, conversation_id: str, key: str, now: datetime) -> Operation | None:
    """What keeps a place in the line, at its end or where it was; None if the line is too long."""
    line = _line(order, now)
    # Who stands behind one that is tried again in a minute comes again then.
    place = {"key": key, "until": time_text(max(now, _back_at(line) or now) + PLACE_KEPT)}
    if any(each["key"] == key for each in line):
        line = [place if each["key"] == key else each for each in line]
    elif len(line) < MAX_LINE:
        line.append(place)
    else:
        return None
    return _with_line(order, conversation_id, line)


def leave(order: Document, conversation_id: str, key: str, now: datetime) -> Operation | None:
    """What gives the place in the line up; None if there is none."""
    line = _line(order, now)
    left = [place for place in line if place["key"] != key]
    if left == line:
        return None
    if not left and order.body["status"] == "free":
        return Delete(order.id, order.etag)
    return _with_line(order, conversation_id, left)


def end(order: Document, now: datetime, *, back_at: datetime | None = None, key: str = "") -> Mark:
    """The end of a turn; one that is to be tried again at `back_at`, soon, stays first in the line."""
    changes: JsonObject = {"status": "free", "token": "", "heldUntil": time_text(now), "updated": time_text(now)}

    def finish(body: JsonObject) -> JsonObject | None:
        line = [place for place in _kept(body, now) if place["key"] != key]
        if back_at is not None and back_at - now <= LONGEST_HOLD_UP:
            line.insert(0, {"key": key, "backAt": time_text(back_at), "until": time_text(back_at + PLACE_KEPT)})
        return {**body, "line": line} if line else None

    return Mark(order, changes, finish)


def _with_line(order: Document, conversation_id: str, line: list[JsonObject]) -> Operation:
    kept = {name: order.body[name] for name in ("status", "token", "heldUntil", "updated")}
    return Replace(_body(conversation_id, line, kept), order.etag)


def _line(order: Document | None, now: datetime) -> list[JsonObject]:
    return _kept(order.body, now) if order else []


def _back_at(line: list[JsonObject]) -> datetime | None:
    return parse_time(line[0]["backAt"]) if line and "backAt" in line[0] else None


def _kept(body: JsonObject, now: datetime) -> list[JsonObject]:
    return [place for place in body["line"] if parse_time(place["until"]) > now]


def _body(conversation_id: str, line: list[JsonObject], holder: JsonObject) -> JsonObject:
    return {
        "id": DOCUMENT_ID,
        CONVERSATIONS.partition_key: conversation_id,
        "kind": "turn_order",
        "line": line,
        "ttl": int(KEPT.total_seconds()),
        **holder,
    }
