"""Cards and buttons, and the shortest way to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_core.activity.activity_types import ActionTypes
from agent_core.activity.attachments import Attachment, ContentTypes, FileConsentCard, FileInfoCard, FileUploadInfo
from agent_core.activity.wire import WireObject


class CardAction(WireObject):
    """A button, on a card or suggested; most types need a string as their `value` (`ActionTypes`)."""

    type: str | None = None
    title: str | None = None
    value: Any = None
    text: str | None = None
    display_text: str | None = None
    image: str | None = None
    image_alt_text: str | None = None
    channel_data: Any = None


class SuggestedActions(WireObject):
    """Buttons that the channel shows until one is used; `to`: the ids of those who shall see them, empty for all."""

    to: Sequence[str] = ()
    actions: Sequence[CardAction] = ()


class CardImage(WireObject):
    """A picture on a card."""

    url: str | None = None
    alt: str | None = None
    tap: CardAction | None = None


class HeroCard(WireObject):
    """The content of a card with one large picture."""

    title: str | None = None
    subtitle: str | None = None
    text: str | None = None
    images: Sequence[CardImage] = ()
    buttons: Sequence[CardAction] = ()
    tap: CardAction | None = None


class ThumbnailCard(HeroCard):
    """The content of a card with one small picture."""


class SigninCard(WireObject):
    """The content of a card with a button to sign in at a URL."""

    text: str | None = None
    buttons: Sequence[CardAction] = ()


class TokenExchangeResource(WireObject):
    """What a client can get a token for without asking the user."""

    id: str | None = None
    uri: str | None = None
    provider_id: str | None = None


class TokenPostResource(WireObject):
    """Where a client can post a token."""

    sas_url: str | None = None


class OAuthCard(WireObject):
    """The content of a card with which the Bot Service's token service signs a user in."""

    text: str | None = None
    connection_name: str | None = None
    buttons: Sequence[CardAction] = ()
    token_exchange_resource: TokenExchangeResource | None = None
    token_post_resource: TokenPostResource | None = None


class CardFactory:
    """Builds attachments with cards."""

    @staticmethod
    def adaptive_card(card: Mapping[str, Any]) -> Attachment:
        """An Adaptive Card, given as its JSON object; see https://adaptivecards.io."""
        return Attachment(content_type=ContentTypes.adaptive_card, content=card)

    @staticmethod
    def hero_card(
        title: str | None = None,
        text: str | None = None,
        images: Sequence[str | CardImage] = (),
        buttons: Sequence[str | CardAction] = (),
        subtitle: str | None = None,
    ) -> Attachment:
        """A card with one large picture; a string is a picture's URL, or a button that says itself."""
        card = HeroCard(
            title=title, subtitle=subtitle, text=text, images=_images(images), buttons=card_actions(buttons)
        )
        return Attachment(content_type=ContentTypes.hero_card, content=card)

    @staticmethod
    def thumbnail_card(
        title: str | None = None,
        text: str | None = None,
        images: Sequence[str | CardImage] = (),
        buttons: Sequence[str | CardAction] = (),
        subtitle: str | None = None,
    ) -> Attachment:
        """A card with one small picture; strings as in `hero_card`."""
        card = ThumbnailCard(
            title=title, subtitle=subtitle, text=text, images=_images(images), buttons=card_actions(buttons)
        )
        return Attachment(content_type=ContentTypes.thumbnail_card, content=card)

    @staticmethod
    def signin_card(title: str, url: str, text: str | None = None) -> Attachment:
        """A card with a button, called `title`, that opens a page to sign in."""
        button = CardAction(type=ActionTypes.signin, title=title, value=url)
        return Attachment(content_type=ContentTypes.signin_card, content=SigninCard(text=text, buttons=[button]))

    @staticmethod
    def oauth_card(
        connection_name: str,
        title: str,
        *,
        text: str | None = None,
        link: str | None = None,
        token_exchange_resource: TokenExchangeResource | None = None,
        token_post_resource: TokenPostResource | None = None,
    ) -> Attachment:
        """A card with a button, called `title`, that signs the user in to a connection of the Bot Service.

        `link` and the two resources are what the token service answers when it is asked for a sign-in resource.
        """
        card = OAuthCard(
            text=text,
            connection_name=connection_name,
            buttons=[CardAction(type=ActionTypes.signin, title=title, value=link)],
            token_exchange_resource=token_exchange_resource,
            token_post_resource=token_post_resource,
        )
        return Attachment(content_type=ContentTypes.oauth_card, content=card)

    @staticmethod
    def file_consent_card(name: str, card: FileConsentCard) -> Attachment:
        """The question whether the agent may send a file of that name."""
        return Attachment(content_type=ContentTypes.file_consent_card, name=name, content=card)

    @staticmethod
    def file_info_card(uploaded: FileUploadInfo) -> Attachment:
        """The file, once it was uploaded to where the answer to the consent card said."""
        return Attachment(
            content_type=ContentTypes.file_info_card,
            name=uploaded.name,
            content_url=uploaded.content_url,
            content=FileInfoCard(unique_id=uploaded.unique_id, file_type=uploaded.file_type),
        )


def card_actions(actions: Sequence[str | CardAction]) -> list[CardAction]:
    """Buttons; a string is one that says itself."""
    return [CardAction(type=ActionTypes.im_back, title=a, value=a) if isinstance(a, str) else a for a in actions]


def _images(images: Sequence[str | CardImage]) -> list[CardImage]:
    return [CardImage(url=image) if isinstance(image, str) else image for image in images]
