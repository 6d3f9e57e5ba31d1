"""What a user sent along, without the channel's copies of the text."""

import base64

import pytest

from agent_core import (
    Activity,
    AgentApplication,
    Attachment,
    DownloadedAttachment,
    TurnContext,
    TurnState,
)
from agent_core.activity.received_attachments import MAX_DOWNLOADS, received_attachments
from agent_core.errors import AttachmentNotAvailable, NotSupported, TurnEnded
from agent_core.store.memory_store import MemoryStore
from agent_core.testing import ManualClock, MemoryQueue, TestAdapter

# As Teams sends a file and a picture in a personal chat.
FILE: dict[str, object] = {
    "contentType": "application/vnd.microsoft.teams.file.download.info",
    "content": {"downloadUrl": "https://contoso.sharepoint.com/x?tempauth=1", "uniqueId": "1150", "fileType": "pdf"},
    "contentUrl": "https://contoso.sharepoint.com/personal/x.pdf",
    "name": "x.pdf",
}
PICTURE = {
    "contentType": "image/*",
    "contentUrl": "https://smba.trafficmanager.net/amer/v3/attachments/0-eus/views/original",
}
HTML: dict[str, object] = {"contentType": "text/html", "content": "<div><div>hello</div></div>"}
PNG = b"\x89PNG\r\n\x1a\n"
CARD: dict[str, object] = {
    "contentType": "application/vnd.microsoft.card.adaptive",
    "content": {"type": "AdaptiveCard"},
}


def test_what_a_handler_needs_to_know_of_a_file_and_a_picture() -> None:
    activity = Activity.from_dict({"type": "message", "attachments": [FILE, PICTURE, HTML, CARD]})
    file, picture, card = received_attachments(activity)
    assert (file.name, file.file_type, file.is_file, file.is_inline_image) == ("x.pdf", "pdf", True, False)
    assert file.attachment == Attachment.from_dict(FILE)
    assert (picture.name, picture.content_type) == ("", "image/*")
    assert (picture.is_file, picture.is_inline_image) == (False, True)
    assert (card.is_file, card.is_inline_image) == (False, False)


def test_the_copy_of_the_text_is_left_out_and_a_real_html_file_is_not() -> None:
    """P1.20, contentTypes: `text/html` duplicates the text in Teams, and is no file."""
    page = {
        "contentType": "text/html",
        "contentUrl": "https://webchat.botframework.com/attachments/1",
        "name": "a.html",
    }
    (received,) = received_attachments(Activity.from_dict({"type": "message", "attachments": [HTML, page]}))
    assert received.is_file


@pytest.mark.parametrize("content", [None, "text", 1, [], {}, {"fileType": 1}])
def test_whatever_a_file_says_of_itself_is_no_error(content: object) -> None:
    activity = Activity.from_dict({"type": "message", "attachments": [{**FILE, "content": content}, {}]})
    file, nothing = received_attachments(activity)
    assert file.file_type is None
    assert file.is_file
    assert (nothing.content_type, nothing.is_file) == ("", False)


async def of_turn(files: dict[str, bytes], *attachments: dict[str, object]) -> list[DownloadedAttachment]:
    """What a handler gets that downloads everything, in a turn of a TestAdapter."""
    clock = ManualClock()
    adapter = TestAdapter(clock)
    adapter.files = files
    agent = AgentApplication(adapter, MemoryStore(clock.now), MemoryQueue(clock))
    downloaded: list[DownloadedAttachment] = []

    @agent.activity("message")
    async def keep(context: TurnContext, state: TurnState) -> None:
        downloaded.extend([await each.download(max_bytes=100) for each in context.attachments])

    received = [Attachment.from_dict(each) for each in attachments]
    await adapter.process(agent, adapter.activity(attachments=received))
    return downloaded


async def code_of(files: dict[str, bytes], *attachments: dict[str, object]) -> str:
    with pytest.raises(AttachmentNotAvailable) as refusal:
        await of_turn(files, *attachments)
    return refusal.value.code


async def test_a_users_test_gives_files_by_their_address() -> None:
    files = {"https://contoso.sharepoint.com/x?tempauth=1": b"%PDF-1.7", PICTURE["contentUrl"]: PNG}
    file, picture = await of_turn(files, FILE, dict(PICTURE))
    assert file == DownloadedAttachment(b"%PDF-1.7", "x.pdf", "application/octet-stream")
    assert picture == DownloadedAttachment(PNG, "attachment.png", "image/png")
    assert "PDF-1.7" not in repr(file), "contents are in no log"


async def test_what_cannot_be_downloaded_says_why() -> None:
    assert await code_of({}, dict(PICTURE)) == "Expired"
    assert await code_of({}, CARD) == "NoAddress"
    assert await code_of({}, {**FILE, "content": {}}) == "NoAddress"
    assert await code_of({PICTURE["contentUrl"]: b"x" * 101}, dict(PICTURE)) == "TooLarge"
    assert await code_of({PICTURE["contentUrl"]: b"no picture"}, dict(PICTURE)) == "ContentMismatch"


async def test_p9_3_so_many_of_one_message_are_fetched_and_no_more() -> None:
    """Cards and copies of the text do not count, they are not fetched."""
    files = {f"https://x/{number}": PNG for number in range(MAX_DOWNLOADS + 1)}
    pictures: list[dict[str, object]] = [{"contentType": "image/png", "contentUrl": url} for url in files]
    assert len(await of_turn(files, HTML, *pictures[:-1])) == MAX_DOWNLOADS
    assert await code_of(files, *pictures) == "TooMany"


@pytest.mark.parametrize(
    ("uri", "content", "content_type"),
    [
        ("data:image/png;base64," + base64.b64encode(PNG).decode(), PNG, "image/png"),
        ("DATA:;BASE64,aGVsbG8=", b"hello", "text/plain"),
        ("data:,a%20b%2C", b"a b,", "text/plain"),
        ("data:text/plain;charset=utf-8,%C3%BC", b"\xc3\xbc", "text/plain"),
        ("data:,", b"", "text/plain"),
    ],
)
async def test_p9_3_a_data_uri_is_decoded_without_a_network(uri: str, content: bytes, content_type: str) -> None:
    claimed = "image/*" if content == PNG else "text/plain"
    (downloaded,) = await of_turn({}, {"contentType": claimed, "contentUrl": uri})
    assert (downloaded.content, downloaded.content_type) == (content, content_type)


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("data:image/png;base64,AAA", "BadData"),
        ("data:image/png;base64,@@@@", "BadData"),
        ("data:image/png", "BadData"),
        ("data:image/png;base64," + "A" * 1000, "TooLarge"),
        ("data:," + "%41" * 101, "TooLarge"),
        ("data:,<script>alert(1)</script>", "ContentMismatch"),
    ],
)
async def test_p9_3_a_data_uri_has_the_same_limits(uri: str, code: str) -> None:
    """A7122, A7123: channels should send none."""
    assert await code_of({}, {"contentType": "", "contentUrl": uri}) == code


async def test_p9_3_a_teams_file_is_no_data_uri() -> None:
    assert await code_of({}, {**FILE, "content": {"downloadUrl": "data:,x"}}) == "Expired"


async def test_an_attachment_is_downloaded_within_its_turn() -> None:
    clock = ManualClock()
    adapter = TestAdapter(clock)
    agent = AgentApplication(adapter, MemoryStore(clock.now), MemoryQueue(clock))
    activity = adapter.activity(attachments=[Attachment.from_dict(PICTURE)])
    context = await adapter.process(agent, activity)
    with pytest.raises(TurnEnded):
        await context.attachments[0].download()
    with pytest.raises(NotSupported):
        await TurnContext(adapter, activity, now=clock.now()).attachments[0].download()
    with pytest.raises(AttachmentNotAvailable):
        await received_attachments(activity)[0].download()
