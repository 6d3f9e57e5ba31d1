"""What a user sent along, without the channel's copies of the text."""

import pytest

from agent_core import Activity, Attachment
from agent_core.activity.received_attachments import received_attachments

# As Teams sends a file and a picture in a personal chat.
FILE = {
    "contentType": "application/vnd.microsoft.teams.file.download.info",
    "content": {"downloadUrl": "https://contoso.sharepoint.com/x?tempauth=1", "uniqueId": "1150", "fileType": "pdf"},
    "contentUrl": "https://contoso.sharepoint.com/personal/x.pdf",
    "name": "x.pdf",
}
PICTURE = {
    "contentType": "image/*",
    "contentUrl": "https://smba.trafficmanager.net/amer/v3/attachments/0-eus/views/original",
}
HTML = {"contentType": "text/html", "content": "<div><div>hello</div></div>"}
CARD = {"contentType": "application/vnd.microsoft.card.adaptive", "content": {"type": "AdaptiveCard"}}


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
