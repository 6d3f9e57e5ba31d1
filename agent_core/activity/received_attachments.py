"""What a user sent along, as a handler wants to see it: files and pictures, not the channel's copies of the text."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from agent_core.activity.activity import Activity
from agent_core.activity.attachment_content import HEAD, judged_type, safe_name
from agent_core.activity.attachments import Attachment, ContentTypes
from agent_core.errors import AttachmentNotAvailable, AttachmentTooLarge

# As many of one message can be downloaded; a message with a thousand pictures costs no more.
MAX_DOWNLOADS = 10
MAX_BYTES = 10 * 1024 * 1024

_CARDS = ("application/vnd.microsoft.card.", "application/vnd.microsoft.teams.card.")
_DATA_URI = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class FetchedContent:
    """Content as it comes from where it is kept.

    Attributes:
        content_type: what the server says it is.
        chunks: raises AttachmentNotAvailable where it breaks off.
    """

    content_type: str | None
    chunks: AsyncIterator[bytes] = field(repr=False)


class AttachmentSource(Protocol):
    """Where the content of attachments comes from."""

    def __call__(
        self, attachment: Attachment, *, slack_token: str | None, max_redirects: int
    ) -> AbstractAsyncContextManager[FetchedContent]:
        """Fetch the content at the attachment's address. Raises AttachmentNotAvailable."""


@dataclass(frozen=True, slots=True)
class DownloadedAttachment:
    """Content of an attachment. It is a stranger's: show HTML and scripts to nobody, and run nothing.

    Attributes:
        name: safe to store it under, on any system.
        content_type: what its bytes and the claims make of it; never one that a browser would run.
    """

    content: bytes = field(repr=False)
    name: str
    content_type: str


@dataclass(frozen=True, slots=True)
class AttachmentStream:
    """Content of an attachment piece by piece, to be iterated over once; `name` and `content_type` as downloaded."""

    name: str
    content_type: str
    _chunks: AsyncIterator[bytes] = field(repr=False)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks


@dataclass(frozen=True, slots=True)
class ReceivedAttachment:
    """One thing that came with a message.

        for attachment in context.attachments:
            if attachment.is_file or attachment.is_inline_image:
                downloaded = await attachment.download(max_bytes=1_000_000)

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
    _source: AttachmentSource | None = field(default=None, repr=False, compare=False)

    async def download(
        self, *, max_bytes: int = MAX_BYTES, slack_token: str | None = None, max_redirects: int = 0
    ) -> DownloadedAttachment:
        """Fetch the content into memory; arguments and errors are those of `stream`."""
        async with self.stream(max_bytes=max_bytes, slack_token=slack_token, max_redirects=max_redirects) as content:
            body = b"".join([chunk async for chunk in content])
        return DownloadedAttachment(body, content.name, content.content_type)

    @asynccontextmanager
    async def stream(
        self, *, max_bytes: int = MAX_BYTES, slack_token: str | None = None, max_redirects: int = 0
    ) -> AsyncGenerator[AttachmentStream, None]:
        """Fetch the content piece by piece, into a storage of your own.

            async with attachment.stream() as content:
                await container.upload_blob(f"{uuid4()}/{content.name}", content)    # of azure.storage.blob.aio

        What came before an error was handed out by then: delete what you stored when this raises.

        Args:
            max_bytes: counted as they arrive, whatever was announced.
            slack_token: your Slack app's bot token; it goes to `files.slack.com` and nowhere else.
            max_redirects: how often, at most 3 times, to follow where the content's address leads on to; each is
                checked like the first. Never followed where a token was sent.

        Raises:
            AttachmentTooLarge: there is more of it than `max_bytes`.
            AttachmentNotAvailable: there is nothing to fetch, or it may not be fetched, or it could not be; its `code`
                says which.
            ChannelError: the agent got no token to fetch it with.
            TurnEnded: the turn is over.
        """
        async with self._fetched(max_bytes, slack_token, max_redirects) as fetched:
            chunks = _capped(fetched.chunks, max_bytes)
            async with aclosing(chunks):
                head = b""
                while len(head) < HEAD and (chunk := await anext(chunks, None)) is not None:
                    head += chunk
                content_type = judged_type(self.content_type, fetched.content_type, head[:HEAD], self.name)
                if content_type is None:
                    raise AttachmentNotAvailable(
                        "The content is not what it was said to be, or a page to sign in came instead of it; "
                        "ask for it to be sent again, as a file of its own kind",
                        code="ContentMismatch",
                    )
                async with aclosing(_after(head, chunks)) as content:
                    yield AttachmentStream(safe_name(self.name, content_type), content_type, content)

    @asynccontextmanager
    async def _fetched(
        self, max_bytes: int, slack_token: str | None, max_redirects: int
    ) -> AsyncGenerator[FetchedContent, None]:
        if not 0 <= max_redirects <= 3:
            raise ValueError("max_redirects must be between 0 and 3")
        address = address_of(self.attachment)
        if address == self.attachment.content_url and (address or "")[:5].lower() == "data:":
            yield _of_data_uri(address or "", max_bytes)
            return
        if address is None:
            raise AttachmentNotAvailable(
                "There is nothing to fetch here: it is a card or comes without an address. "
                "Ask is_file or is_inline_image first",
                code="NoAddress",
            )
        if self._source is None:
            raise AttachmentNotAvailable(
                f"Of one message {MAX_DOWNLOADS} attachments can be downloaded, through context.attachments in a turn; "
                "ask the user to send the others in a message of their own",
                code="TooMany",
            )
        async with self._source(self.attachment, slack_token=slack_token, max_redirects=max_redirects) as fetched:
            yield fetched


def received_attachments(activity: Activity, source: AttachmentSource | None = None) -> tuple[ReceivedAttachment, ...]:
    """The attachments of an activity; `text/html` without an address is left out, it repeats the text (Teams).

    The content of the first MAX_DOWNLOADS that have an address can be fetched from the source.
    """
    received = []
    left = MAX_DOWNLOADS
    for each in activity.attachments:
        if not _repeats_the_text(each):
            fetchable = address_of(each) is not None
            received.append(_received(each, source if fetchable and left > 0 else None))
            left -= fetchable
    return tuple(received)


def address_of(attachment: Attachment) -> str | None:
    """Where the content is: a Teams file's `downloadUrl`, for its `contentUrl` is a page; else the `contentUrl`."""
    if attachment.content_type == ContentTypes.file_download_info:
        content: Any = attachment.content
        url = content.get("downloadUrl") if isinstance(content, Mapping) else None
        return url if isinstance(url, str) and url else None
    return attachment.content_url or None


def _received(attachment: Attachment, source: AttachmentSource | None) -> ReceivedAttachment:
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
        _source=source,
    )


def _repeats_the_text(attachment: Attachment) -> bool:
    return (attachment.content_type or "").lower() == "text/html" and not attachment.content_url


async def _capped(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncGenerator[bytes, None]:
    length = 0
    async for chunk in chunks:
        length += len(chunk)
        if length > max_bytes:
            raise too_large(max_bytes)
        yield chunk


async def _after(head: bytes, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    if head:
        yield head
    async for chunk in chunks:
        yield chunk


def _of_data_uri(uri: str, max_bytes: int) -> FetchedContent:
    """RFC 2397. Channels should send none (A7123); it is decoded only if it will fit."""
    found = _DATA_URI.fullmatch(uri)
    encoded = found[3] if found else ""
    is_base64 = found is not None and found[2].lower().endswith(";base64")
    if len(encoded) > 4 * max_bytes + 4 or (is_base64 and len(encoded) * 3 // 4 > max_bytes + 2):
        raise too_large(max_bytes)
    try:
        data = unquote_to_bytes(encoded)
        body = base64.b64decode(data, validate=True) if is_base64 else data
    except (binascii.Error, ValueError):
        found = None
    if found is None:
        raise AttachmentNotAvailable("The content stands in a data URI that cannot be read", code="BadData")

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    return FetchedContent(found[1] or None, chunks())


def too_large(max_bytes: int) -> AttachmentTooLarge:
    """The error for content that goes on after so many bytes."""
    return AttachmentTooLarge(
        f"There is more of it than {max_bytes} bytes. Raise max_bytes if you have room for it, "
        "or tell the user how much you take.",
        limit=max_bytes,
    )
