"""What the agent sends itself through its work queue: long turns, due occurrences, what to try or save again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from agent_core.activity.activity import Activity
from agent_core.activity.json_text import MAX_DEPTH, dump, parse_object
from agent_core.errors import BadActivity, InvalidCallback
from agent_core.proactive.queue import QueueMessage
from agent_core.store.document_store import time_text
from agent_core.turn.claims_identity import ClaimsIdentity

SLACK_TOKEN = "ApiToken"

Kind = Literal["callback", "lifecycle", "message", "occurrence", "save", "sign_in", "turn"]
KINDS: tuple[Kind, ...] = ("callback", "lifecycle", "message", "occurrence", "save", "sign_in", "turn")

# How long after which failed attempt the next one is made; after the last, the work is a dead letter.
LADDER = tuple(timedelta(seconds=seconds) for seconds in (1, 5, 30, 120, 600, 3600))


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A piece of work on the queue.

    Attributes:
        key: what makes it the same work: a second item of the same key has no second effect.
        scope: in what the key is unique, such as a conversation's id; empty where it is unique everywhere.
        round: which replay this is, empty for none. Its messages have ids of their own, or the queue would drop them
            as duplicates of those before.
        payload: what the kind needs, as JSON.
        attempt: 1 for the first; waiting because the channel throttles does not count.
        wait: how often it was put back without counting as an attempt.
        expires: when nobody wants it any more, as `time_text` writes it; empty for never. Nothing is tried after that.
    """

    kind: Kind
    key: str
    payload: dict[str, Any]
    attempt: int = 1
    wait: int = 0
    scope: str = ""
    round: str = ""
    expires: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The item as JSON."""
        return {
            "kind": self.kind,
            "key": self.key,
            "payload": self.payload,
            "attempt": self.attempt,
            "wait": self.wait,
            "scope": self.scope,
            "round": self.round,
            "expires": self.expires,
        }

    @property
    def content(self) -> str:
        """A digest of what is to be done, the same for every attempt: it tells other work of the same key apart."""
        text = json.dumps([self.kind, self.payload], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]

    def to_message(self, at: datetime | None = None) -> QueueMessage:
        """The queue message, to be received not before `at`.

        Its id is made from the key and the attempt, so sending it twice puts it on the queue once.
        """
        body = dump(self.to_dict())
        named = f"{len(self.scope)}:{self.scope}{self.key}"
        digest = hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        return QueueMessage(
            body,
            message_id=f"{self.kind}-{digest}-{self.attempt}-{self.wait}" + (f"-{self.round}" if self.round else ""),
            subject=self.kind,
            scheduled_enqueue_time=at,
        )

    @classmethod
    def from_message(cls, message: QueueMessage) -> WorkItem:
        """Raises InvalidCallback if this is none of ours."""
        try:
            # What is wrapped may itself be as deep as JSON from outside may be.
            body = parse_object(message.body, MAX_DEPTH + 8)
        except BadActivity as error:
            raise InvalidCallback(str(error), reason=error.code) from error
        return cls.from_dict(body)

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> WorkItem:
        """Like `from_message`, of the parsed body."""
        kind, key, payload = body.get("kind"), body.get("key"), body.get("payload")
        attempt, wait = body.get("attempt"), body.get("wait")
        scope, round_, expires = body.get("scope", ""), body.get("round", ""), body.get("expires", "")
        if (
            kind not in KINDS
            or not isinstance(key, str)
            or not isinstance(payload, dict)
            or not isinstance(attempt, int)
            or not isinstance(wait, int)
            or not isinstance(scope, str)
            or not isinstance(round_, str)
            or not isinstance(expires, str)
        ):
            raise InvalidCallback(
                "The work queue is for what the agent sends itself; publish callbacks to the callback queue",
                reason="NotWork",
            )
        return cls(kind, key, payload, attempt, wait, scope, round_, expires)

    def next_attempt(self) -> tuple[WorkItem, timedelta] | None:
        """The item to try next and how long to wait, or None when it was tried often enough."""
        if self.attempt > len(LADDER):
            return None
        return replace(self, attempt=self.attempt + 1), LADDER[self.attempt - 1]

    def is_over_at(self, moment: datetime) -> bool:
        """Whether its time to live has ended by then."""
        return bool(self.expires) and time_text(moment) >= self.expires

    def put_back(self) -> WorkItem:
        """The same attempt, later."""
        return replace(self, wait=self.wait + 1)

    def replayed(self, round_: str) -> WorkItem:
        """The same work, from its first attempt, in a new round of messages; who replays it still wants it."""
        return replace(self, attempt=1, wait=0, round=round_, expires="")


def turn_payload(activity: Activity, identity: ClaimsIdentity) -> dict[str, Any]:
    """What a turn that runs later needs of the activity that began it.

    Slack's activities bring the token of the workspace's bot; it is left out, because this is stored and queued.
    """
    body = activity.to_dict()
    data = body.get("channelData")
    if isinstance(data, Mapping) and SLACK_TOKEN in data:
        body = {**body, "channelData": {name: value for name, value in data.items() if name != SLACK_TOKEN}}
    return {
        "activity": body,
        "claims": identity.persisted(),
        "serviceUrlVerified": identity.service_url_verified,
    }
