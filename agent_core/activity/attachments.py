"""What a message carries besides its text: cards, pictures, and the files of Teams from consent to download."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeVar

from agent_core.activity.wire import WireObject, value_as

_Content = TypeVar("_Content", bound=WireObject)


class ContentTypes(StrEnum):
    """The content types of cards and files; all others are the media's own (`image/png`)."""

    adaptive_card = "application/vnd.microsoft.card.adaptive"
    hero_card = "application/vnd.microsoft.card.hero"
    thumbnail_card = "application/vnd.microsoft.card.thumbnail"
    animation_card = "application/vnd.microsoft.card.animation"
    audio_card = "application/vnd.microsoft.card.audio"
    video_card = "application/vnd.microsoft.card.video"
    receipt_card = "application/vnd.microsoft.card.receipt"
    signin_card = "application/vnd.microsoft.card.signin"
    oauth_card = "application/vnd.microsoft.card.oauth"
    o365_connector_card = "application/vnd.microsoft.teams.card.o365connector"
    list_card = "application/vnd.microsoft.teams.card.list"
    file_consent_card = "application/vnd.microsoft.teams.card.file.consent"
    file_info_card = "application/vnd.microsoft.teams.card.file.info"
    file_download_info = "application/vnd.microsoft.teams.file.download.info"


class Attachment(WireObject):
    """A card, a picture or a file: `content` inside, or `content_url` to fetch it from."""

    content_type: str | None = None
    content: Any = None
    content_url: str | None = None
    name: str | None = None
    thumbnail_url: str | None = None

    def content_as(self, kind: type[_Content]) -> _Content:
        """The content as a value of that class, such as `FileDownloadInfo`. Raises BadActivity if it is none."""
        return value_as(kind, self.content, "content")


class FileDownloadInfo(WireObject):
    """The content of a file that a Teams user sent; `download_url` needs no token, and ends after minutes.

    https://learn.microsoft.com/microsoftteams/platform/bots/how-to/bots-filesv4#message-activity-with-file-attachment-example
    """

    download_url: str | None = None
    unique_id: str | None = None
    file_type: str | None = None


class FileConsentCard(WireObject):
    """The content of a card that asks a Teams user, in a personal chat, whether the agent may send a file.

    `accept_context` or `decline_context` comes back with the answer.
    """

    description: str | None = None
    size_in_bytes: int | None = None
    accept_context: Any = None
    decline_context: Any = None


class FileUploadInfo(WireObject):
    """Where to PUT a file that the user wants, with `Content-Range: bytes 0-(n-1)/n` and without the agent's token."""

    content_url: str | None = None
    name: str | None = None
    upload_url: str | None = None
    unique_id: str | None = None
    file_type: str | None = None


class FileConsentCardResponse(WireObject):
    """The value of the invoke `fileConsent/invoke`: `action` is `accept` or `decline`."""

    type: str | None = "fileUpload"
    action: str | None = None
    context: Any = None
    upload_info: FileUploadInfo | None = None


class FileInfoCard(WireObject):
    """The content of a card that shows a file which was uploaded."""

    unique_id: str | None = None
    file_type: str | None = None
