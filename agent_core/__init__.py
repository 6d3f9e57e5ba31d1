"""The agent that speaks first: what an app imports."""

from agent_core.activity.activity import Activity, ExpectedReplies
from agent_core.activity.activity_types import (
    ActionTypes,
    ActivityImportance,
    ActivityTypes,
    AttachmentLayoutTypes,
    CallbackTypes,
    DeliveryModes,
    EndOfConversationCodes,
    InputHints,
    RoleTypes,
    SemanticActionStates,
    TeamsEventTypes,
    TextFormatTypes,
)
from agent_core.activity.activity_values import (
    CommandError,
    CommandValue,
    InvokeResponse,
    MessageReaction,
    SemanticAction,
    TextHighlight,
    VoiceMessage,
)
from agent_core.activity.attachments import (
    Attachment,
    ContentTypes,
    FileConsentCard,
    FileConsentCardResponse,
    FileDownloadInfo,
    FileInfoCard,
    FileUploadInfo,
)
from agent_core.activity.cards import (
    CardAction,
    CardFactory,
    CardImage,
    HeroCard,
    OAuthCard,
    SigninCard,
    SuggestedActions,
    ThumbnailCard,
    TokenExchangeResource,
    TokenPostResource,
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
from agent_core.activity.entities import (
    ActivityTreatment,
    AIEntity,
    ClientCapabilities,
    ClientCitation,
    ClientCitationAppearance,
    ClientCitationImage,
    ClientInfo,
    Entity,
    Mention,
    ProductInfo,
    ScreenContext,
    SensitivityPattern,
    SensitivityUsageInfo,
    StreamInfo,
)
from agent_core.activity.message_factory import MessageFactory
from agent_core.activity.received_attachments import AttachmentStream, DownloadedAttachment, ReceivedAttachment
from agent_core.activity.teams_channel_data import FeedbackLoop, TeamsChannelData
from agent_core.agent_application import AgentApplication
from agent_core.errors import SignInFailed, SignInRequired
from agent_core.hosting.azure_services import AzureServices
from agent_core.hosting.functions_host import FunctionsHost
from agent_core.hosting.http_api import http_api
from agent_core.hosting.settings import Settings
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.directory import ConversationFilter, ConversationPage
from agent_core.proactive.erasure import ErasureReport
from agent_core.proactive.preferences import Preferences
from agent_core.proactive.quiet_hours import QuietHours
from agent_core.turn.channel_adapter import ChannelAdapter
from agent_core.turn.claims_identity import ClaimsIdentity
from agent_core.turn.middleware import Middleware
from agent_core.turn.streaming_response import StreamingResponse
from agent_core.turn.turn_context import TurnContext
from agent_core.turn.turn_state import TurnState
from agent_core.turn.user_tokens import OAuthConnection, SignInResource, TokenResponse

__all__ = [
    "AIEntity",
    "ActionTypes",
    "Activity",
    "ActivityImportance",
    "ActivityTreatment",
    "ActivityTypes",
    "AgentApplication",
    "Attachment",
    "AttachmentLayoutTypes",
    "AttachmentStream",
    "AzureServices",
    "CallbackTypes",
    "CardAction",
    "CardFactory",
    "CardImage",
    "Channel",
    "ChannelAccount",
    "ChannelAdapter",
    "Citation",
    "ClaimsIdentity",
    "ClientCapabilities",
    "ClientCitation",
    "ClientCitationAppearance",
    "ClientCitationImage",
    "ClientInfo",
    "CommandError",
    "CommandValue",
    "ContentTypes",
    "Conversation",
    "ConversationAccount",
    "ConversationFilter",
    "ConversationPage",
    "ConversationParameters",
    "ConversationReference",
    "DeliveryModes",
    "DownloadedAttachment",
    "EndOfConversationCodes",
    "Entity",
    "ErasureReport",
    "ExpectedReplies",
    "FeedbackLoop",
    "FileConsentCard",
    "FileConsentCardResponse",
    "FileDownloadInfo",
    "FileInfoCard",
    "FileUploadInfo",
    "FunctionsHost",
    "HeroCard",
    "InputHints",
    "InvokeResponse",
    "Mention",
    "MessageFactory",
    "MessageReaction",
    "Middleware",
    "OAuthCard",
    "OAuthConnection",
    "Preferences",
    "ProductInfo",
    "QuietHours",
    "ReceivedAttachment",
    "ResourceResponse",
    "RoleTypes",
    "ScreenContext",
    "SemanticAction",
    "SemanticActionStates",
    "SensitivityLabel",
    "SensitivityPattern",
    "SensitivityUsageInfo",
    "Settings",
    "SignInFailed",
    "SignInRequired",
    "SignInResource",
    "SigninCard",
    "StreamInfo",
    "StreamingResponse",
    "SuggestedActions",
    "TeamsChannelData",
    "TeamsEventTypes",
    "TextFormatTypes",
    "TextHighlight",
    "ThumbnailCard",
    "TokenExchangeResource",
    "TokenPostResource",
    "TokenResponse",
    "TurnContext",
    "TurnState",
    "VoiceMessage",
    "http_api",
]
