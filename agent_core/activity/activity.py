"""The activity: what channels and agents send each other.

https://github.com/microsoft/Agents/blob/main/specs/activity/protocol-activity.md
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent_core.activity.conversation_reference import ChannelAccount, ConversationAccount, ConversationReference
from agent_core.activity.wire import WireObject, wire

# "Names: the reserved events an SDK raises in its own process"; never sent to a channel.
CONTINUE_CONVERSATION = "ContinueConversation"
CREATE_CONVERSATION = "CreateConversation"


class CardAction(WireObject):
    """A button, on a card or suggested."""

    type: str | None = None
    title: str | None = None
    value: Any = None
    text: str | None = None
    display_text: str | None = None
    image: str | None = None
    image_alt_text: str | None = None
    channel_data: Any = None


class SuggestedActions(WireObject):
    """Buttons that the channel shows until one is used."""

    to: Sequence[str] = ()
    actions: Sequence[CardAction] = ()


class Attachment(WireObject):
    """A card, a picture or a file: `content` inside, or `content_url` to fetch it from."""

    content_type: str | None = None
    content: Any = None
    content_url: str | None = None
    name: str | None = None
    thumbnail_url: str | None = None


class Entity(WireObject):
    """Something an activity says about itself; `type` tells what, and the rest depends on it."""

    type: str | None = None
    mentioned: ChannelAccount | None = None
    text: str | None = None


class MessageReaction(WireObject):
    """A reaction to a message, such as `like`."""

    type: str | None = None


class InvokeResponse(WireObject):
    """The answer to an invoke activity: an HTTP status and a JSON body."""

    status: int | None = None
    body: Any = None


class Activity(WireObject):
    """One activity. `type` says what it is; unknown types and fields are kept.

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
    members_added: Sequence[ChannelAccount] = ()
    members_removed: Sequence[ChannelAccount] = ()
    reactions_added: Sequence[MessageReaction] = ()
    reactions_removed: Sequence[MessageReaction] = ()
    semantic_action: Any = None

    @property
    def conversation_id(self) -> str:
        """The conversation's id; empty if the activity has none."""
        return (self.conversation and self.conversation.id) or ""

    def get_conversation_reference(self) -> ConversationReference:
        """Where this incoming activity came from, as a place to answer: `recipient` is the agent, `from` the user."""
        return ConversationReference(
            activity_id=self.id or None,
            user=self.from_property,
            agent=self.recipient,
            conversation=self.conversation,
            channel_id=self.channel_id,
            service_url=self.service_url,
            locale=self.locale or None,
            delivery_mode=self.delivery_mode,
        )

    def addressed_to(self, reference: ConversationReference) -> Activity:
        """A copy for that place, as it goes out: addressed, answering `reference.activity_id` if there is one, without
        the fields a sender leaves to the channel (A2031 id, A2041 timestamp, A2302 serviceUrl, A2250 callerId)."""
        return self.replace(
            id=None,
            timestamp=None,
            local_timestamp=None,
            service_url=None,
            caller_id=None,
            delivery_mode=None,
            channel_id=reference.channel_id,
            from_property=reference.agent,
            recipient=reference.user,
            conversation=reference.conversation,
            reply_to_id=self.reply_to_id or reference.activity_id,
            locale=self.locale or reference.locale,
        )._without_nulls()

    def _without_nulls(self) -> Activity:
        # A2100, A3050: nulls and empty lists are left out; some channels answer an explicit null with 400.
        return Activity._over({key: value for key, value in self._json.items() if value is not None and value != []})

    def without_mention_of_recipient(self) -> Activity:
        """A copy whose text lacks the mentions of the agent itself, so that `@Agent order laptop` is `order laptop`."""
        if not self.text or self.recipient is None or not self.recipient.id:
            return self
        text = self.text
        for entity in self.entities:
            mentioned = entity.mentioned
            if (entity.type or "").lower() != "mention" or mentioned is None or not entity.text:
                continue
            if (mentioned.id or "").lower() == self.recipient.id.lower():
                text = text.replace(entity.text, "")
        return self if text == self.text else self.replace(text=text.strip())


def continuation_activity(reference: ConversationReference, *, name: str, value: Any = None) -> Activity:
    """The event that stands for "the agent itself goes on here": handed to handlers, never sent.

    It has no id, so that what the handler sends is a new message and not the reply to an activity that the channel
    does not know.
    """
    return Activity(
        type="event",
        name=name,
        value=value,
        channel_id=reference.channel_id,
        service_url=reference.service_url,
        conversation=reference.conversation,
        recipient=reference.agent,
        from_property=reference.user,
        locale=reference.locale,
    )
