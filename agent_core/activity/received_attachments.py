"""What a user sent along, as a handler wants to see it: files and pictures, not the channel's copies of the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent_core.activity.activity import Activity
from agent_core.activity.attachments import Attachment, ContentTypes

_CARDS = ("application/vnd.microsoft.card.", "application/vnd.microsoft.teams.card.")


@dataclass(frozen=True, slots=True)
class ReceivedAttachment:
    """One thing that came with a message.

    Attributes:
        name: as the sender wrote it, empty if he did not: show it, and never use it as a path.
        content_type: what the sender says it is.
        file_type: the extension that Teams gives for a file, such as `pdf`.
        is_file: it has content to fetch, and is neither a picture nor a card.
        is_inline_image: a picture that the message shows.
        attachment: all that the channel said, with the address of the content.
    """

    name: str
    content_type: str
    file_type: str | None
    is_file: bool
    is_inline_image: bool
    attachment: Attachment


def received_attachments(activity: Activity) -> tuple[ReceivedAttachment, ...]:
    """The attachments of an activity; `text/html` without an address is left out, it repeats the text (Teams)."""
    return tuple(_received(each) for each in activity.attachments if not _repeats_the_text(each))


def _received(attachment: Attachment) -> ReceivedAttachment:
    content_type = attachment.content_type or ""
    is_image = content_type.lower().startswith("image/")
    is_download = content_type == ContentTypes.file_download_info
    fetchable = is_download or bool(attachment.content_url)
    content: Any = attachment.content
    file_type = content.get("fileType") if is_download and isinstance(content, Mapping) else None
    return ReceivedAttachment(
        name=attachment.name or "",
        content_type=content_type,
        file_type=file_type if isinstance(file_type, str) else None,
        is_file=fetchable and not is_image and not content_type.startswith(_CARDS),
        is_inline_image=is_image,
        attachment=attachment,
    )


def _repeats_the_text(attachment: Attachment) -> bool:
    return (attachment.content_type or "").lower() == "text/html" and not attachment.content_url
