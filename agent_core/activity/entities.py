"""What an activity says about itself: mentions, the client, citations, streams, products.

Entities are an open set, and nobody is refused for one: unknown types and malformed known ones are kept and ignored
(A2104, A2105). `Activity.entities_of(Mention)` gives those that can be relied on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent_core.activity.conversation_reference import ChannelAccount
from agent_core.activity.wire import WireObject, wire


class Entity(WireObject, lenient=True):
    """Anything that an activity says about itself; `type` tells what, and `to_dict()` has the rest."""

    type: str | None = None


class Mention(Entity):
    """Somebody is mentioned; `text` is how, and occurs literally in the activity's text."""

    type: str | None = "mention"
    mentioned: ChannelAccount | None = None
    text: str | None = None


class ClientInfo(Entity):
    """The user's client; `timezone` is an IANA name."""

    type: str | None = "clientInfo"
    locale: str | None = None
    country: str | None = None
    platform: str | None = None
    timezone: str | None = None


class ClientCapabilities(Entity):
    """What the user's Web Chat can do."""

    type: str | None = "ClientCapabilities"
    requires_bot_state: bool | None = None
    supports_listening: bool | None = None
    supports_tts: bool | None = None


class SensitivityPattern(WireObject):
    """The term of a classification that a label is."""

    at_type: str | None = wire("@type", default="DefinedTerm")
    in_defined_term_set: str | None = None
    name: str | None = None
    term_code: str | None = None


class SensitivityUsageInfo(WireObject):
    """How confidential something is; that of a citation has the `at_id` of the whole message's."""

    type: str | None = "https://schema.org/Message"
    at_type: str | None = wire("@type", default="CreativeWork")
    at_id: str | None = wire("@id", default=None)
    name: str | None = None
    description: str | None = None
    position: int | None = None
    pattern: SensitivityPattern | None = None


class ClientCitationImage(WireObject):
    """The icon of a source; `name` is of a closed list, such as `Microsoft Word` or `PDF`."""

    type: str | None = "ImageObject"
    name: str | None = None


class ClientCitationAppearance(WireObject):
    """A source as it is shown; `name` and `abstract` are required."""

    at_type: str | None = wire("@type", default="DigitalDocument")
    name: str | None = None
    abstract: str | None = None
    url: str | None = None
    text: str | None = None
    encoding_format: str | None = None
    image: ClientCitationImage | None = None
    keywords: Sequence[str] = ()
    usage_info: SensitivityUsageInfo | None = None


class ClientCitation(WireObject):
    """One source; `position`, from 1, is its number in the text: `[1]`."""

    at_type: str | None = wire("@type", default="Claim")
    position: int | None = None
    appearance: ClientCitationAppearance | None = None


class AIEntity(Entity):
    """That AI wrote the message, its sources, and how confidential it is. One per activity, or Teams answers 400.

    https://learn.microsoft.com/microsoftteams/platform/bots/how-to/bot-messages-ai-generated-content
    """

    type: str | None = "https://schema.org/Message"
    at_type: str | None = wire("@type", default="Message")
    at_context: str | None = wire("@context", default="https://schema.org")
    at_id: str | None = wire("@id", default="")
    additional_type: Sequence[str] = ()
    citation: Sequence[ClientCitation] = ()
    usage_info: SensitivityUsageInfo | None = None

    @property
    def is_generated_by_ai(self) -> bool:
        """Whether the message is shown as written by AI."""
        return "AIGeneratedContent" in self.additional_type


class StreamInfo(Entity):
    """Which part of a stream this activity is; `stream_type` is `informative`, `streaming` or `final`."""

    type: str | None = "streaminfo"
    stream_id: str | None = None
    stream_type: str | None = None
    stream_sequence: int | None = None
    stream_result: str | None = None


class ProductInfo(Entity):
    """The sub-channel: `COPILOT` for Microsoft 365 Copilot inside `msteams`."""

    type: str | None = "ProductInfo"
    id: str | None = None


class ActivityTreatment(Entity):
    """How the activity is to be treated; `targeted`: only the recipient sees it."""

    type: str | None = "activityTreatment"
    treatment: str | None = None


class ScreenContext(Entity):
    """What the user sees, as pictures (base64 or URLs) under `screen_context`."""

    type: str | None = "context"
    screen_context: Any = None

    @property
    def images(self) -> tuple[str, ...]:
        """The pictures; without any the entity means nothing (A9263)."""
        images = self.screen_context.get("images") if isinstance(self.screen_context, dict) else None
        return tuple(each for each in images if isinstance(each, str)) if isinstance(images, list) else ()
