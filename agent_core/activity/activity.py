"""The activity: what channels and agents send each other.

https://github.com/microsoft/Agents/blob/main/specs/activity/protocol-activity.md
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from agent_core.activity.activity_types import InputHints, RoleTypes
from agent_core.activity.activity_values import (
    VOICE_MESSAGE,
    MessageReaction,
    SemanticAction,
    TextHighlight,
    VoiceMessage,
)
from agent_core.activity.attachments import Attachment
from agent_core.activity.cards import SuggestedActions
from agent_core.activity.conversation_reference import (
    ChannelAccount,
    ConversationAccount,
    ConversationReference,
    split_channel_id,
)
from agent_core.activity.entities import ActivityTreatment, Entity, Mention, ProductInfo, StreamInfo
from agent_core.activity.teams_channel_data import TeamsChannelData
from agent_core.activity.timestamps import parse_timestamp
from agent_core.activity.wire import WireObject, value_as, wire

# "Names: the reserved events an SDK raises in its own process"; never sent to a channel.
CONTINUE_CONVERSATION = "ContinueConversation"
CREATE_CONVERSATION = "CreateConversation"

_AnyEntity = TypeVar("_AnyEntity", bound=Entity)
_AnyValue = TypeVar("_AnyValue", bound=WireObject)


class Activity(WireObject):
    """One activity. `type` says what it is (`ActivityTypes`); unknown types and fields are kept.

    Times stay the strings they were: real channels send seven digits and offsets that a parsed time would lose.
    """

    type: str | None = None
    id: str | None = None
    timestamp: str | None = None
    local_timestamp: str | None = None
    local_timezone: str | None = None
    caller_id: str | None = None
    service_url: str | None = None
    channel_id: str | None = None
    from_property: ChannelAccount | None = wire("from", default=None)
    recipient: ChannelAccount | None = None
    conversation: ConversationAccount | None = None
    reply_to_id: str | None = None
    delivery_mode: str | None = None
    locale: str | None = None
    text: str | None = None
    text_format: str | None = None
    speak: str | None = None
    summary: str | None = None
    input_hint: str | None = None
    importance: str | None = None
    expiration: str | None = None
    attachment_layout: str | None = None
    attachments: Sequence[Attachment] = ()
    suggested_actions: SuggestedActions | None = None
    entities: Sequence[Entity] = ()
    channel_data: Any = None
    name: str | None = None
    value: Any = None
    value_type: str | None = None
    relates_to: ConversationReference | None = None
    label: str | None = None
    code: str | None = None
    action: str | None = None
    topic_name: str | None = None
    history_disclosed: bool | None = None
    members_added: Sequence[ChannelAccount] = ()
    members_removed: Sequence[ChannelAccount] = ()
    reactions_added: Sequence[MessageReaction] = ()
    reactions_removed: Sequence[MessageReaction] = ()
    listen_for: Sequence[str] = ()
    text_highlights: Sequence[TextHighlight] = ()
    semantic_action: SemanticAction | None = None

    @property
    def conversation_id(self) -> str:
        """The conversation's id; empty if the activity has none."""
        return (self.conversation and self.conversation.id) or ""

    @property
    def channel(self) -> str | None:
        """The channel without its sub-channel."""
        return split_channel_id(self.channel_id)[0]

    @property
    def sub_channel(self) -> str | None:
        """What is inside the channel, such as `COPILOT`: from `msteams:COPILOT`, or from the ProductInfo entity."""
        product = self.product_info
        return split_channel_id(self.channel_id)[1] or (product.id if product else None) or None

    @property
    def sent_at(self) -> datetime | None:
        """`timestamp` as an aware time; None if it is missing or none."""
        return parse_timestamp(self.timestamp)

    @property
    def local_sent_at(self) -> datetime | None:
        """`local_timestamp` as a time with the sender's offset; None if it is missing or none."""
        return parse_timestamp(self.local_timestamp)

    @property
    def expires_at(self) -> datetime | None:
        """`expiration` as an aware time; None if it is missing or none."""
        return parse_timestamp(self.expiration)

    def entities_of(self, kind: builtins.type[_AnyEntity]) -> tuple[_AnyEntity, ...]:
        """The entities of that class; malformed ones are ignored (A2105)."""
        found = self._json.get("entities") or ()
        return tuple(
            kind._over(each) for each in found if _is_entity(each, _type_of(kind)) and kind._fault(each) is None
        )

    def get_mentions(self) -> tuple[Mention, ...]:
        """Who is mentioned, and how."""
        return self.entities_of(Mention)

    @property
    def product_info(self) -> ProductInfo | None:
        """The entity that names the sub-channel."""
        return next(iter(self.entities_of(ProductInfo)), None)

    @property
    def stream_info(self) -> StreamInfo | None:
        """Which part of a stream this is; where there are several such entities, all are ignored (A9246)."""
        if sum(_is_entity(each, _type_of(StreamInfo)) for each in self._json.get("entities") or ()) != 1:
            return None
        return next(iter(self.entities_of(StreamInfo)), None)

    @property
    def is_targeted(self) -> bool:
        """Whether only the recipient sees it, inside of a group."""
        return any(each.treatment == "targeted" for each in self.entities_of(ActivityTreatment))

    def with_entity(self, entity: Entity) -> Activity:
        """A copy with this entity in the place of all others of its type."""
        kept = [
            each
            for each in self._json.get("entities") or ()
            if not _is_entity(each, entity.type or _type_of(type(entity)))
        ]
        return self.replace(entities=[*kept, entity])

    def without_entities(self, kind: builtins.type[Entity]) -> Activity:
        """A copy without the entities of that type, malformed ones included."""
        entities = self._json.get("entities") or ()
        kept = [each for each in entities if not _is_entity(each, _type_of(kind))]
        return self if len(kept) == len(entities) else self.replace(entities=kept or None)

    @property
    def teams_channel_data(self) -> TeamsChannelData:
        """What Teams says in channelData; empty elsewhere."""
        data = self.channel_data
        return TeamsChannelData._over(data if isinstance(data, dict) else {})

    def value_as(self, kind: builtins.type[_AnyValue]) -> _AnyValue:
        """The value as one of that class, such as `FileConsentCardResponse`.

        Raises:
            BadActivity: it is none; the message names the field.
        """
        return value_as(kind, self.value, "value")

    @property
    def voice_message(self) -> VoiceMessage | None:
        """What the user said, if this is a voice message (A5250); a malformed one is none."""
        value = self.value
        if self.value_type != VOICE_MESSAGE or not isinstance(value, dict) or VoiceMessage._fault(value):
            return None
        voice = VoiceMessage._over(value)
        return voice if voice.content_type and voice.content_url else None

    @property
    def is_agentic(self) -> bool:
        """Whether the agent is addressed as one with an identity of its own in the tenant."""
        return self.recipient is not None and self.recipient.is_agentic

    @property
    def agentic_tenant_id(self) -> str | None:
        """The tenant of the agent's own identity; None if it has none."""
        if self.recipient is None or not self.is_agentic:
            return None
        return self.recipient.tenant_id or (self.conversation.tenant_id if self.conversation else None)

    @property
    def is_from_copilot_studio_connector(self) -> bool:
        """Whether it came through Copilot Studio's connector, which is answered at `service_url` itself."""
        return self.recipient is not None and self.recipient.has_role(RoleTypes.connector_user)

    def get_conversation_reference(self) -> ConversationReference:
        """Where this incoming activity came from, as a place to answer: `recipient` is the agent, `from` the user."""
        sub_channel = self.sub_channel
        return ConversationReference(
            activity_id=self.id or None,
            user=self.from_property,
            agent=self.recipient,
            conversation=self.conversation,
            channel_id=f"{self.channel}:{sub_channel}" if self.channel and sub_channel else self.channel_id,
            service_url=self.service_url,
            locale=self.locale or None,
            delivery_mode=self.delivery_mode,
        )

    def addressed_to(self, reference: ConversationReference) -> Activity:
        """A copy for that place, as it goes out.

        It is addressed, and answers `reference.activity_id` if there is one. It lacks the fields that a sender leaves
        to the channel (A2031 id, A2041 timestamp, A2302 serviceUrl, A2250 callerId), nulls and empty lists. The
        sub-channel is said by a ProductInfo entity, and by none if there is no sub-channel.
        """
        addressed = self.replace(
            id=None,
            timestamp=None,
            local_timestamp=None,
            service_url=None,
            caller_id=None,
            delivery_mode=None,
            channel_id=reference.channel,
            from_property=reference.agent,
            recipient=reference.user,
            conversation=reference.conversation,
            reply_to_id=self.reply_to_id or reference.activity_id,
            locale=self.locale or reference.locale,
            input_hint=InputHints.of(self.input_hint),
        )._for_product(reference.sub_channel)
        # A2100, A3050: nulls and empty lists are left out; some channels answer an explicit null with 400.
        return Activity._over(Activity._without_nulls(addressed._json))

    def _for_product(self, sub_channel: str | None) -> Activity:
        product = self.product_info
        if sub_channel is None:
            return self.without_entities(ProductInfo)
        if product is not None and product.id == sub_channel:
            return self
        return self.with_entity(ProductInfo(id=sub_channel))

    def without_mention_of_recipient(self) -> Activity:
        """A copy whose text lacks the mentions of the agent itself, so that `@Agent order laptop` is `order laptop`."""
        if not self.text or self.recipient is None or not self.recipient.id:
            return self
        text = self.text
        for mention in self.get_mentions():
            mentioned = mention.mentioned.id if mention.mentioned else None
            if mention.text and (mentioned or "").lower() == self.recipient.id.lower():
                text = _without(mention.text, text)
        return self if text == self.text else self.replace(text=text.strip())


class ExpectedReplies(WireObject):
    """The HTTP body that answers an activity of delivery mode expectReplies; `body` is that of an invoke."""

    activities: Sequence[Activity] = ()
    body: Any = None


def continuation_activity(
    reference: ConversationReference, *, name: str, value: Any = None, value_type: str | None = None
) -> Activity:
    """The event that stands for "the agent itself goes on here": handed to handlers, never sent.

    It has no id, so that what the handler sends is a new message and not the reply to an activity that the channel
    does not know.
    """
    return Activity(
        type="event",
        name=name,
        value=value,
        value_type=value_type,
        channel_id=reference.channel,
        service_url=reference.service_url,
        conversation=reference.conversation,
        recipient=reference.agent,
        from_property=reference.user,
        locale=reference.locale,
        entities=[ProductInfo(id=reference.sub_channel)] if reference.sub_channel else (),
    )


def _type_of(kind: builtins.type[Entity]) -> str:
    """The type of the entities of a class; empty for those of any type."""
    return str(kind._defaults.get("type", ""))


def _is_entity(value: Any, wanted: str) -> bool:
    """Whether this JSON says to be of that type. In any case: `streaminfo` is `streamInfo` in the specification."""
    named = value.get("type") if isinstance(value, dict) else None
    return isinstance(named, str) and (not wanted or named.lower() == wanted.lower())


def _without(mention: str, text: str) -> str:
    pieces = text.split(mention)
    for index in range(1, len(pieces)):
        # Of the spaces on both sides one side is enough; Teams writes non-breaking ones too.
        if pieces[index - 1][-1:].isspace():
            pieces[index] = pieces[index].lstrip(" \t\xa0")
    return "".join(pieces)
