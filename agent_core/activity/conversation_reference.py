"""Where a conversation is and who is in it: all that is needed to speak there later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent_core.activity.activity_types import RoleTypes
from agent_core.activity.wire import WireObject, wire


def split_channel_id(channel_id: str | None) -> tuple[str | None, str | None]:
    """The channel and the sub-channel of an id such as `msteams:COPILOT`; None for what it does not name."""
    channel, _, sub_channel = (channel_id or "").partition(":")
    return channel or None, sub_channel or None


class ChannelAccount(WireObject):
    """A user or an agent on a channel."""

    id: str | None = None
    name: str | None = None
    aad_object_id: str | None = None
    role: str | None = None
    tenant_id: str | None = None
    agentic_app_id: str | None = None
    agentic_user_id: str | None = None
    properties: Any = None

    def has_role(self, *roles: str) -> bool:
        """Whether it has one of these roles, in any case."""
        return (self.role or "").lower() in {role.lower() for role in roles}

    @property
    def is_agent(self) -> bool:
        """Whether it says of itself that it is an agent: the specification writes `agent`, most of the field `bot`."""
        return self.has_role(RoleTypes.agent, RoleTypes.bot, RoleTypes.skill) or self.is_agentic

    @property
    def is_agentic(self) -> bool:
        """Whether it is an agent with an identity of its own in the tenant, as an app or as a user."""
        return self.has_role(RoleTypes.agentic_app_instance, RoleTypes.agentic_user)


class ConversationAccount(WireObject):
    """A conversation on a channel; its `id` is opaque, and only unique within the channel."""

    id: str | None = None
    name: str | None = None
    is_group: bool | None = None
    conversation_type: str | None = None
    tenant_id: str | None = None
    aad_object_id: str | None = None
    role: str | None = None
    properties: Any = None


class ConversationReference(WireObject):
    """A place to speak: channel, conversation, the user, the agent, and the service that carries it.

    The agent is `bot` on the wire, in every version of the protocol. `channel_id` names the sub-channel too, if there
    is one: `msteams:COPILOT`.
    """

    activity_id: str | None = None
    user: ChannelAccount | None = None
    agent: ChannelAccount | None = wire("bot", default=None)
    conversation: ConversationAccount | None = None
    channel_id: str | None = None
    service_url: str | None = None
    locale: str | None = None
    delivery_mode: str | None = None

    @property
    def conversation_id(self) -> str:
        """The conversation's id; empty if the reference has none."""
        return (self.conversation and self.conversation.id) or ""

    @property
    def is_personal(self) -> bool:
        """Whether the agent is alone there with one user, as far as the channel says."""
        kind = self.conversation.conversation_type if self.conversation else None
        if kind is not None:
            return kind == "personal"
        is_group = self.conversation.is_group if self.conversation else None
        # Teams has groups that do not say so; most other channels have none, and say nothing.
        return is_group is False or (is_group is None and self.channel != "msteams")

    @property
    def channel(self) -> str | None:
        """The channel without its sub-channel: what the token service and the store's keys go by."""
        return split_channel_id(self.channel_id)[0]

    @property
    def sub_channel(self) -> str | None:
        """What is inside the channel: `COPILOT` inside `msteams`."""
        return split_channel_id(self.channel_id)[1]


class ConversationParameters(WireObject):
    """What the channel needs to create a conversation.

    See https://learn.microsoft.com/azure/bot-service/rest-api/bot-framework-rest-connector-api-reference.
    """

    is_group: bool | None = None
    agent: ChannelAccount | None = wire("bot", default=None)
    members: Sequence[ChannelAccount] = ()
    topic_name: str | None = None
    tenant_id: str | None = None
    activity: Any = None
    channel_data: Any = None


class ResourceResponse(WireObject):
    """The channel's answer to a send: the new activity's id, None where the channel gave none."""

    id: str | None = None


class ConversationResourceResponse(WireObject):
    """The channel's answer to the creation of a conversation."""

    id: str | None = None
    activity_id: str | None = None
    service_url: str | None = None
