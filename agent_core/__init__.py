"""The agent that speaks first: what an app imports."""

from agent_core.activity.activity import (
    Activity,
    Attachment,
    CardAction,
    Entity,
    InvokeResponse,
    MessageReaction,
    SuggestedActions,
)
from agent_core.activity.channels import Channel
from agent_core.activity.citations import Citation, SensitivityLabel
from agent_core.activity.conversation_reference import (
    ChannelAccount,
    ConversationAccount,
    ConversationParameters,
    ConversationReference,
    ResourceResponse,
)
from agent_core.activity.message_factory import MessageFactory
from agent_core.activity.received_attachments import ReceivedAttachment
from agent_core.agent_application import AgentApplication
from agent_core.hosting.azure_services import AzureServices
from agent_core.hosting.functions_host import FunctionsHost
from agent_core.hosting.http_api import http_api
from agent_core.hosting.settings import Settings
from agent_core.proactive.conversation import Conversation
from agent_core.turn.channel_adapter import ChannelAdapter
from agent_core.turn.claims_identity import ClaimsIdentity
from agent_core.turn.middleware import Middleware
from agent_core.turn.streaming_response import StreamingResponse
from agent_core.turn.turn_context import TurnContext
from agent_core.turn.turn_state import TurnState

__all__ = [
    "Activity",
    "AgentApplication",
    "Attachment",
    "AzureServices",
    "CardAction",
    "Channel",
    "ChannelAccount",
    "ChannelAdapter",
    "Citation",
    "ClaimsIdentity",
    "Conversation",
    "ConversationAccount",
    "ConversationParameters",
    "ConversationReference",
    "Entity",
    "FunctionsHost",
    "InvokeResponse",
    "MessageFactory",
    "MessageReaction",
    "Middleware",
    "ReceivedAttachment",
    "ResourceResponse",
    "SensitivityLabel",
    "Settings",
    "StreamingResponse",
    "SuggestedActions",
    "TurnContext",
    "TurnState",
    "http_api",
]
