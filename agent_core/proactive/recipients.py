"""Whom a schedule speaks to: a conversation, a user wherever that is, or a conversation that is still to be created."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent_core.activity.conversation_reference import (
    ConversationParameters,
    ConversationReference,
    split_channel_id,
)
from agent_core.errors import BadActivity, InvalidSchedule
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.directory import ConversationDirectory, ConversationFilter
from agent_core.store.document_store import is_storable
from agent_core.turn.turn_context import TurnContext


@dataclass(frozen=True, slots=True)
class ConversationRecipient:
    """A stored conversation; its channel where several have one of that id."""

    conversation_id: str
    channel_id: str | None = None

    def __post_init__(self) -> None:
        _check("conversation", self.conversation_id)
        _check("channel", self.channel_id, optional=True)

    @property
    def name(self) -> str:
        """What schedules for it are listed by."""
        return self.conversation_id

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return _given(conversation=self.conversation_id, channel=self.channel_id)


@dataclass(frozen=True, slots=True)
class UserRecipient:
    """A user: what is due goes to the personal conversation in which the agent last heard of the user.

    Each occurrence looks for it when it is due, and stays with what it found.

    Attributes:
        aad_object_id: the user's id in Microsoft Entra; or
        user_id: the id on the channel that `channel_id` names.
        tenant_id: where given, only conversations of that tenant.
        channel_id: where given, only conversations of that channel.
    """

    aad_object_id: str | None = None
    tenant_id: str | None = None
    channel_id: str | None = None
    user_id: str | None = None

    def __post_init__(self) -> None:
        by_channel = self.aad_object_id is None
        _check("user", self.aad_object_id, optional=self.user_id is not None)
        _check("channelUser", self.user_id, optional=not by_channel)
        _check("channel", self.channel_id, optional=not by_channel)
        _check("tenant", self.tenant_id, optional=True)

    @property
    def name(self) -> str:
        """What schedules for the user are listed by: ids of Microsoft Entra are compared in any case."""
        return self.aad_object_id.lower() if self.aad_object_id else f"{self.channel_id}|{self.user_id}"

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return _given(user=self.aad_object_id, tenant=self.tenant_id, channel=self.channel_id, channelUser=self.user_id)


@dataclass(frozen=True, slots=True)
class NewConversation:
    """A conversation that each occurrence creates; a personal one is, on most channels, created once and found again.

    Attributes:
        service_url: the channel's service; one that may not receive the agent's token makes a dead letter of it.
        parameters: as for `agent.proactive.create_conversation`.
    """

    channel_id: str
    service_url: str
    parameters: ConversationParameters

    def __post_init__(self) -> None:
        _check("channel", self.channel_id)
        _check("serviceUrl", self.service_url)

    @property
    def name(self) -> str:
        """What schedules for it are listed by: the one user it is for, if there is one."""
        members = self.parameters.members
        user = members[0] if len(members) == 1 else None
        if user is None:
            return f"{self.channel_id}|"
        return user.aad_object_id.lower() if user.aad_object_id else f"{self.channel_id}|{user.id}"

    @property
    def is_found_again(self) -> bool:
        """Whether creating it twice gives the same conversation: one with a single user, on most channels."""
        return not self.parameters.is_group and len(self.parameters.members) == 1

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {"channel": self.channel_id, "serviceUrl": self.service_url, "parameters": self.parameters.to_dict()}


Recipient = ConversationRecipient | UserRecipient | NewConversation
# What a caller may say instead.
To = Recipient | ConversationReference | Conversation | TurnContext | str


def recipient_of(to: To) -> Recipient:
    """What a caller said, as a recipient."""
    if isinstance(to, str):
        return ConversationRecipient(to)
    if isinstance(to, Conversation):
        to = to.reference
    if isinstance(to, TurnContext):
        to = to.conversation
    if isinstance(to, ConversationReference):
        return ConversationRecipient(to.conversation_id, to.channel_id)
    return to


def recipient_from_dict(data: Any) -> Recipient:
    """The recipient that `to_dict` wrote, or somebody else by the same rules.

    Raises:
        InvalidSchedule: it names no recipient, or something that is unknown.
    """
    fields = {"conversation", "channel", "user", "tenant", "channelUser", "serviceUrl", "parameters"}
    if not isinstance(data, dict) or not data.keys() <= fields:
        raise InvalidSchedule(
            "'to' is an object with 'conversation' (and 'channel'), with 'user' (an id of Microsoft Entra), with "
            "'channel' and 'channelUser', or with 'channel', 'serviceUrl' and 'parameters' of a new conversation.",
            field="to",
        )
    if "conversation" in data and data.keys() <= {"conversation", "channel"}:
        return ConversationRecipient(data["conversation"], data.get("channel"))
    if "serviceUrl" in data and data.keys() == {"channel", "serviceUrl", "parameters"}:
        try:
            parameters = ConversationParameters.from_dict(data["parameters"])
        except BadActivity as error:
            raise InvalidSchedule(f"'to' has wrong 'parameters': {error}", field="to") from error
        return NewConversation(data["channel"], data["serviceUrl"], parameters)
    if data.keys() <= {"user", "tenant", "channel", "channelUser"}:
        return UserRecipient(data.get("user"), data.get("tenant"), data.get("channel"), data.get("channelUser"))
    raise InvalidSchedule("'to' names a conversation, a user or a new conversation, and only one of them.", field="to")


async def newest_personal(directory: ConversationDirectory, user: UserRecipient) -> Conversation | None:
    """The active personal conversation in which the agent last heard of the user, None if there is none."""
    which = ConversationFilter(
        aad_object_id=user.aad_object_id,
        user_id=user.user_id,
        tenant_id=user.tenant_id,
        channel_id=user.channel_id,
        status="active",
    )
    personal = [each async for each in directory.every(which) if each.reference.is_personal]
    return max(personal, key=lambda each: (each.last_seen, each.id), default=None)


def fields_of(recipient: Recipient) -> dict[str, Any]:
    """What a stored schedule is found by: the conversation and its channel, or else the recipient's name."""
    if isinstance(recipient, ConversationRecipient):
        return {"conversation": recipient.conversation_id, "channel": recipient.channel_id, "recipient": None}
    return {
        "conversation": None,
        "channel": split_channel_id(recipient.channel_id)[0],
        "recipient": recipient.name,
    }


def _check(field: str, value: object, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    if not isinstance(value, str) or not is_storable(value):
        raise InvalidSchedule(f"'to' needs a {field!r}, as a text of 1 to 1000 characters.", field="to")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
