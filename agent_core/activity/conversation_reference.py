"""Where a conversation is and who is in it: all that is needed to speak there later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent_core.activity.wire import WireObject, wire


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


class ConversationAccount(WireObject):
    """A conversation on a channel; its `id` is opaque, and only unique within the channel."""

    id: str | None = None
    name: str | None = None
    is_group: bool | None = None
    conversation_type: str | None = None
    tenant_id: str | None = None
    aad_object_id: str | None = None
    role: str | None = None


class ConversationReference(WireObject):
    """A place to speak: channel, conversation, the user, the agent, and the service that carries it.

    The agent is `bot` on the wire, in every version of the protocol.
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
