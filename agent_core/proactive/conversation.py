"""A conversation as it is kept: where it is, as whom to speak there, and what is remembered of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from agent_core.activity.conversation_reference import (
    ConversationAccount,
    ConversationReference,
    split_channel_id,
)
from agent_core.store.document_store import Document, id_for, parse_time, time_text
from agent_core.turn.claims_identity import ClaimsIdentity

Status = Literal["active", "suspended", "forgotten"]

# Why nothing is sent, where it is not a code of the channel's.
UNINSTALLED = "uninstalled"
UPGRADING = "upgrading"

# Before anything happened.
NEVER = datetime(1970, 1, 1, tzinfo=UTC)

# How long after its last write a conversation is kept on channels that drop theirs: "metadata … are removed after a
# period of inactivity (between 15 to 20 days)", for Direct Line and Web Chat alike:
# https://github.com/microsoft/BotFramework-DirectLineJS/issues/119#issuecomment-445066667,
# https://github.com/microsoft/botframework-sdk/issues/5248. On all others, Teams among them, an id is good for as long
# as the agent is installed, and what is known of it is kept.
KEPT_ON_CHANNEL = {
    "directline": timedelta(days=20),
    "directlinespeech": timedelta(days=20),
    "webchat": timedelta(days=20),
}
# How long what is suspended is kept, by the reason; for other reasons as long as on its channel. A deleted team and a
# deleted channel can be restored for 30 days, https://learn.microsoft.com/microsoftteams/archive-or-delete-a-team, and
# who has removed the agent and comes back within that time finds everything as it was.
KEPT_SUSPENDED = {
    UNINSTALLED: timedelta(days=30),
    "teamDeleted": timedelta(days=30),
    "channelDeleted": timedelta(days=30),
}
# That it was forgotten is known for as long as something older may still arrive from a queue.
KEPT_FORGOTTEN = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A stored conversation.

    Attributes:
        reference: without delivery mode and reply id, which belong to one activity and not to the conversation.
        identity: the persisted claims, and whether the reference's serviceUrl was in a validated token.
        last_seen: when the user's side was last heard of, by the channel's clock where it told.
        status: `active`; `suspended`: nothing is sent there, for the `reason`, until that is over; `forgotten`: only
            that there was one is known, so that what arrives late does not bring it back.
        reason: `uninstalled`, `upgrading`, an event of Teams such as `teamDeleted`, or the channel's code of a refused
            message such as `ConversationBlockedByUser`; empty while it is active.
        since: when that happened which its status follows from; of what is older nothing follows any more.
        time_zone: the user's IANA zone, if a channel told.
        team_id: the team that it is in, in Teams.
        state: the conversation state.
        stored: the document it was read from, None if it was not.
    """

    reference: ConversationReference
    identity: ClaimsIdentity
    last_seen: datetime
    status: Status = "active"
    reason: str = ""
    since: datetime = NEVER
    time_zone: str | None = None
    team_id: str | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    stored: Document | None = field(default=None, compare=False, repr=False)

    @property
    def id(self) -> str:
        """The conversation's id on its channel."""
        return self.reference.conversation_id

    @property
    def document_id(self) -> str:
        """The id of its document; conversations of one id on two channels are two documents."""
        return conversation_document_id(self.reference.channel_id)

    @property
    def is_active(self) -> bool:
        """Whether the agent may speak there."""
        return self.status == "active"

    @property
    def is_ended(self) -> bool:
        """Whether what was to be said there will not be said: it is forgotten, or the agent was removed."""
        return self.status == "forgotten" or self.reason == UNINSTALLED

    @property
    def tenant_id(self) -> str | None:
        """The Microsoft Entra tenant that it is in, or else its user's, if a channel told."""
        conversation, user = self.reference.conversation, self.reference.user
        return (conversation and conversation.tenant_id) or (user and user.tenant_id) or None

    @property
    def teams_channel_id(self) -> str | None:
        """The channel of a team that it is in; each thread there is a conversation of its own."""
        conversation = self.reference.conversation
        in_channel = conversation is not None and conversation.conversation_type == "channel"
        return self.id.partition(";messageid=")[0] if in_channel or self.team_id else None

    @property
    def kept_for(self) -> timedelta | None:
        """How long after its last write it is forgotten; None: never."""
        if self.status == "forgotten":
            return KEPT_FORGOTTEN
        terms = (KEPT_ON_CHANNEL.get(self.reference.channel or ""), KEPT_SUSPENDED.get(self.reason))
        return min((term for term in terms if term is not None), default=None)

    def without_user(self) -> Conversation:
        """It, without what names the user that was last heard of there."""
        return replace(self, reference=self.reference.replace(user=None))

    def forgotten(self) -> Conversation:
        """What is left of it when it is forgotten: that it was there, and neither users nor state."""
        left = ConversationReference(channel_id=self.reference.channel_id, conversation=ConversationAccount(id=self.id))
        return Conversation(left, ClaimsIdentity(), self.last_seen, "forgotten", self.reason, self.since)

    def to_document(self) -> dict[str, Any]:
        """The JSON object to store."""
        user, kept_for = self.reference.user, self.kept_for
        told = {
            # Ids of Microsoft Entra are compared in any case.
            "aadObjectId": user.aad_object_id.lower() if user is not None and user.aad_object_id else None,
            "userId": user.id if user is not None else None,
            "tenantId": self.tenant_id.lower() if self.tenant_id else None,
            "teamId": self.team_id,
            "teamsChannelId": self.teams_channel_id,
            "ttl": max(1, int(kept_for.total_seconds())) if kept_for is not None else None,
        }
        return {
            **{name: value for name, value in told.items() if value is not None},
            "id": self.document_id,
            "conversation": self.id,
            "kind": "conversation",
            "schemaVersion": 1,
            "status": self.status,
            "reason": self.reason,
            "since": time_text(self.since),
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
            reason=body.get("reason", ""),
            since=parse_time(body["since"]) if "since" in body else NEVER,
            time_zone=body["timeZone"],
            team_id=body.get("teamId"),
            state=body["state"],
            stored=document,
        )


@dataclass(frozen=True, slots=True)
class Counterpart:
    """With whom a conversation is; known beforehand, it saves a round trip, and known wrongly, it costs nothing.

    Attributes:
        user: where the user's state is kept, None for nobody's.
    """

    user: str | None
    tenant_id: str | None


def conversation_document_id(channel_id: str | None) -> str:
    """The id of the conversation document of a channel, sub-channels included, inside the conversation's partition."""
    return id_for("conversation", split_channel_id(channel_id)[0] or "")


def user_partition(channel_id: str, user_id: str) -> str:
    """Where what belongs to a user is kept: one person on one channel."""
    return id_for("user", channel_id, user_id)
