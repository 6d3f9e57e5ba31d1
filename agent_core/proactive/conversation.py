"""A conversation as it is kept: where it is, as whom to speak there, and what is remembered of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agent_core.activity.conversation_reference import ConversationReference, split_channel_id
from agent_core.store.document_store import Document, id_for, parse_time, time_text
from agent_core.turn.claims_identity import ClaimsIdentity


@dataclass(frozen=True, slots=True)
class Conversation:
    """A stored conversation.

    Attributes:
        reference: without delivery mode and reply id, which belong to one activity and not to the conversation.
        identity: the persisted claims, and whether the reference's serviceUrl was in a validated token.
        last_seen: when the user's side was last heard of.
        status: `active`, or why not.
        time_zone: the user's IANA zone, if a channel told.
        state: the conversation state.
    """

    reference: ConversationReference
    identity: ClaimsIdentity
    last_seen: datetime
    status: str = "active"
    time_zone: str | None = None
    state: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The conversation's id on its channel."""
        return self.reference.conversation_id

    @property
    def document_id(self) -> str:
        """The id of its document; conversations of one id on two channels are two documents."""
        return conversation_document_id(self.reference.channel_id)

    def to_document(self) -> dict[str, Any]:
        """The JSON object to store."""
        return {
            "id": self.document_id,
            "conversation": self.id,
            "kind": "conversation",
            "schemaVersion": 1,
            "status": self.status,
            "channel": self.reference.channel,
            "reference": self.reference.to_dict(),
            "claims": self.identity.persisted(),
            "serviceUrlVerified": self.identity.service_url_verified,
            "lastSeen": time_text(self.last_seen),
            "timeZone": self.time_zone,
            "state": dict(self.state),
        }

    @classmethod
    def from_document(cls, document: Document) -> Conversation:
        """The conversation that `to_document` wrote."""
        body = document.body
        return cls(
            reference=ConversationReference.from_dict(body["reference"]),
            identity=ClaimsIdentity(body["claims"], body["serviceUrlVerified"]),
            last_seen=parse_time(body["lastSeen"]),
            status=body["status"],
            time_zone=body["timeZone"],
            state=body["state"],
        )


def conversation_document_id(channel_id: str | None) -> str:
    """The id of the conversation document of a channel, sub-channels included, inside the conversation's partition."""
    return id_for("conversation", split_channel_id(channel_id)[0] or "")


def user_partition(channel_id: str, user_id: str) -> str:
    """Where what belongs to a user is kept: one person on one channel."""
    return id_for("user", channel_id, user_id)
