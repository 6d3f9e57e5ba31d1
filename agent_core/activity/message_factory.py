"""Messages by the shortest way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent_core.activity.activity import Activity, Attachment, CardAction, SuggestedActions


class MessageFactory:
    """Builds message activities."""

    @staticmethod
    def text(text: str) -> Activity:
        """A message in Markdown; the format is said, because the protocol's sources disagree on the default."""
        return Activity(type="message", text=text, text_format="markdown")

    @staticmethod
    def attachment(attachment: Attachment, text: str | None = None) -> Activity:
        """A message with one attachment."""
        message = MessageFactory.text(text) if text else Activity(type="message")
        return message.replace(attachments=[attachment])

    @staticmethod
    def adaptive_card(card: dict[str, Any], text: str | None = None) -> Activity:
        """A message with an Adaptive Card, given as its JSON object."""
        return MessageFactory.attachment(
            Attachment(content_type="application/vnd.microsoft.card.adaptive", content=card), text
        )

    @staticmethod
    def suggested_actions(actions: Sequence[str | CardAction], text: str) -> Activity:
        """A message with buttons; a string is a button that says itself."""
        buttons = [CardAction(type="imBack", title=a, value=a) if isinstance(a, str) else a for a in actions]
        return MessageFactory.text(text).replace(suggested_actions=SuggestedActions(actions=buttons))
