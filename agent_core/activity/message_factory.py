"""Messages by the shortest way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_core.activity.activity import Activity
from agent_core.activity.activity_types import ActivityTypes, AttachmentLayoutTypes, TextFormatTypes
from agent_core.activity.attachments import Attachment
from agent_core.activity.cards import CardAction, CardFactory, SuggestedActions, card_actions


class MessageFactory:
    """Builds message activities."""

    @staticmethod
    def text(text: str) -> Activity:
        """A message in Markdown; the format is said, because the protocol's sources disagree on the default."""
        return Activity(type=ActivityTypes.message, text=text, text_format=TextFormatTypes.markdown)

    @staticmethod
    def attachment(attachment: Attachment, text: str | None = None) -> Activity:
        """A message with one attachment."""
        message = MessageFactory.text(text) if text else Activity(type=ActivityTypes.message)
        return message.replace(attachments=[attachment])

    @staticmethod
    def carousel(attachments: Sequence[Attachment], text: str | None = None) -> Activity:
        """A message with attachments side by side."""
        message = MessageFactory.text(text) if text else Activity(type=ActivityTypes.message)
        return message.replace(attachments=attachments, attachment_layout=AttachmentLayoutTypes.carousel)

    @staticmethod
    def adaptive_card(card: Mapping[str, Any], text: str | None = None) -> Activity:
        """A message with an Adaptive Card, given as its JSON object."""
        return MessageFactory.attachment(CardFactory.adaptive_card(card), text)

    @staticmethod
    def suggested_actions(actions: Sequence[str | CardAction], text: str) -> Activity:
        """A message with buttons; a string is a button that says itself."""
        return MessageFactory.text(text).replace(suggested_actions=SuggestedActions(actions=card_actions(actions)))
