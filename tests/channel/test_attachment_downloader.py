"""Files come from where each channel keeps them, and a token goes only where a validated one pointed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from agent_core import Activity, Attachment, ClaimsIdentity
from agent_core.activity.received_attachments import ReceivedAttachment, received_attachments
from agent_core.channel.attachment_downloader import AttachmentDownloader
from agent_core.channel.http_client import HttpClient
from agent_core.channel.url_guard import UrlGuard
from agent_core.errors import AttachmentNotAvailable, AttachmentTooLarge, ChannelError
from tests.canary import TOKEN, Canary
from tests.serving import anywhere

Watched = tuple[Canary, HttpClient]
VERIFIED = ClaimsIdentity({"aud": "app"}, service_url_verified=True)
SERVICE = "https://smba.trafficmanager.net/amer/"
PICTURE = "https://smba.trafficmanager.net/amer/v3/attachments/0-eus-d1-2a/views/original"
FILE = "application/vnd.microsoft.teams.file.download.info"
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
SLACK = "https://files.slack.com/files-pri/T1-F1/report.pdf"


def ok(body: bytes, content_type: str = "application/octet-stream", more: str = "") -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body
    )


def moved(location: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode()


def received(
    watched: Watched,
    attachment: Mapping[str, object],
    *,
    channel: str = "msteams",
    service_url: str = SERVICE,
    identity: ClaimsIdentity = VERIFIED,
    max_seconds: float = 5,
) -> ReceivedAttachment:
    """The attachment as a turn would have it."""

    async def token() -> str:
        return TOKEN

    downloader = AttachmentDownloader(watched[1], UrlGuard(development=False), token, max_seconds=max_seconds)
    activity = Activity.from_dict(
        {"type": "message", "channelId": channel, "serviceUrl": service_url, "attachments": [attachment]}
    )

    def source(each: Attachment, *, slack_token: str | None, max_redirects: int) -> object:
        return downloader.fetch(activity, identity, each, slack_token=slack_token, max_redirects=max_redirects)

    (found,) = received_attachments(activity, source)  # type: ignore[arg-type]  # closures have no protocol
    return found


async def refused(attachment: ReceivedAttachment, code: str, **options: object) -> AttachmentNotAvailable:
    with pytest.raises(AttachmentNotAvailable) as refusal:
        await attachment.download(**options)  # type: ignore[arg-type]  # what the tests say
    assert refusal.value.code == code
    return refusal.value


async def test_section_9_a_file_of_teams_comes_from_its_download_url_without_a_token(watched: Watched) -> None:
    """1.5: `content.downloadUrl` holds its own permission; `contentUrl` is a page."""
    seen, _ = watched
    seen.answer = ok(b"%PDF-1.7", "application/pdf")
    url = "https://contoso.sharepoint.com/download.aspx?UniqueId=1&tempauth=v1.secret"
    content = {"downloadUrl": url, "uniqueId": "1150", "fileType": "pdf"}
    page = "https://contoso.sharepoint.com/personal/x.pdf"
    file = {"contentType": FILE, "content": content, "contentUrl": page, "name": "x.pdf"}
    downloaded = await received(watched, file).download()
    assert (downloaded.content, downloaded.name) == (b"%PDF-1.7", "x.pdf")
    assert downloaded.content_type == "application/pdf"
    (visit,) = seen.visits
    assert visit.line == "GET /download.aspx?UniqueId=1&tempauth=v1.secret HTTP/1.1"
    assert (visit.server_name, seen.bearers) == ("contoso.sharepoint.com", [])


async def test_section_9_a_picture_of_teams_comes_from_the_verified_service_with_the_token(watched: Watched) -> None:
    seen, _ = watched
    seen.answer = ok(PNG, "image/png")
    downloaded = await received(watched, {"contentType": "image/*", "contentUrl": PICTURE}).download()
    assert (downloaded.content, downloaded.content_type, downloaded.name) == (PNG, "image/png", "attachment.png")
    assert seen.bearers == [f"Bearer {TOKEN}"]


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": ClaimsIdentity({"aud": "app"})},
        {"identity": ClaimsIdentity({"aud": "app", "ver": "2.0", "azp": "parent"}, service_url_verified=True)},
        {"service_url": "https://webchat.botframework.com/"},
        {"channel": "webchat"},
        {"channel": "directline"},
        {"channel": "slack"},
        {"url": "https://smba.trafficmanager.net/amer/v3/conversations/c1/members"},
        {"url": "https://smba.trafficmanager.net/amer/v3/attachments/1/views/../../../conversations"},
        {"url": "https://smba.trafficmanager.net/amer/v3/attachments/1/../../conversations/views/c1"},
        {"url": "https://smba.trafficmanager.net/amer/v3/attachments/1%2f..%2f..%2fconversations/views/c1"},
        {"url": "https://smba.trafficmanager.net/amer/v3/attachments/1/views/original?to=evil"},
        {"url": "https://smba.trafficmanager.net/x?/v3/attachments/1/views/original"},
        {"url": "https://contoso.sharepoint.com/v3/attachments/1/views/original"},
        {
            "url": "https://contoso.sharepoint.com/v3/attachments/1/views/o",
            "service_url": "https://contoso.sharepoint.com",
        },
        {"url": "https://media.botframework.com/v3/attachments/1/views/original"},
    ],
    ids=[
        "serviceUrl not verified",
        "an agent is calling",
        "another service",
        "webchat",
        "directline",
        "slack",
        "another route of the connector",
        "dots behind",
        "dots between",
        "encoded dots",
        "a query",
        "path in a query",
        "another host",
        "another host that calls itself the service",
        "another host of the connector",
    ],
)
async def test_p9_1_in_doubt_no_token_goes_along(watched: Watched, changes: dict[str, object]) -> None:
    """P9.1: what may be fetched is not what may receive the token."""
    seen, _ = watched
    seen.answer = ok(PNG)
    options = dict(changes)
    attachment = {"contentType": "image/*", "contentUrl": options.pop("url", PICTURE)}
    found = received(watched, attachment, **options)  # type: ignore[arg-type]  # as parametrised
    await found.download(slack_token="canary-of-slack")
    assert len(seen.visits) == 1
    assert seen.bearers == []


@pytest.mark.parametrize("channel", ["webchat", "directline", "facebook"])
async def test_section_9_other_channels_need_no_token(watched: Watched, channel: str) -> None:
    seen, _ = watched
    attachment = {
        "contentType": "text/plain",
        "contentUrl": "https://webchat.botframework.com/a/1?t=x",
        "name": "a.txt",
    }
    downloaded = await received(watched, attachment, channel=channel).download()
    assert (downloaded.content, downloaded.content_type, downloaded.name) == (b"content", "text/plain", "a.txt")
    assert seen.bearers == []


async def test_section_9_a_file_of_slack_needs_the_token_that_the_app_gives(watched: Watched) -> None:
    """Never the one of the activity: `channelData.ApiToken` is not even looked at."""
    seen, _ = watched
    attachment = {"contentType": "application/pdf", "contentUrl": SLACK}
    file = received(watched, attachment, channel="slack")
    assert "slack_token" in str(await refused(file, "HostNotAllowed"))
    assert seen.connections == 0
    assert (await file.download(slack_token="xoxb-1")).content == b"content"
    assert seen.bearers == ["Bearer xoxb-1"]
    await refused(received(watched, attachment), "HostNotAllowed", slack_token="xoxb-1")


@pytest.mark.parametrize(
    "url",
    [
        "https://files.slack.com.evil.example/",
        "http://files.slack.com/",
        "https://files.slack.com:8443/",
        "https://x.files.slack.com/",
        "https://slack.com/",
    ],
)
async def test_section_9_slacks_token_goes_to_slacks_files_only(watched: Watched, url: str) -> None:
    attachment = {"contentType": "application/pdf", "contentUrl": url}
    await refused(received(watched, attachment, channel="slack"), "HostNotAllowed", slack_token="xoxb-1")
    assert watched[0].connections == 0


@pytest.mark.parametrize("with_token", [True, False])
async def test_p9_2_no_redirect_is_followed_unasked_nor_ever_with_a_token(watched: Watched, with_token: bool) -> None:
    seen, _ = watched
    seen.answer = moved("https://media.botframework.com/2")
    url = PICTURE if with_token else "https://media.botframework.com/1"
    picture = received(watched, {"contentType": "image/*", "contentUrl": url})
    error = await refused(picture, "Redirected", max_redirects=3 if with_token else 0)
    assert error.status == 302
    assert len(seen.visits) == 1
    assert len(seen.bearers) == with_token


async def test_p9_2_three_redirects_are_followed_where_asked_for_and_no_more(watched: Watched) -> None:
    seen, _ = watched
    picture = received(watched, {"contentType": "image/*", "contentUrl": "https://media.botframework.com/1"})
    hops = [moved("/2"), moved("https://contoso.sharepoint.com/3"), moved("//media.botframework.com/4")]
    seen.answers = [*hops, ok(PNG)]
    assert (await picture.download(max_redirects=3)).content == PNG
    assert [visit.line.split()[1] for visit in seen.visits] == ["/1", "/2", "/3", "/4"]
    seen.answers = [*hops, moved("/5")]
    await refused(picture, "Redirected", max_redirects=3)
    with pytest.raises(ValueError, match="max_redirects"):
        await picture.download(max_redirects=4)


@pytest.mark.parametrize(
    "framing", ["content-length: 100000\r\n\r\n", "transfer-encoding: chunked\r\n\r\n186A0\r\n", "\r\n"]
)
async def test_p9_3_the_size_is_counted_as_it_arrives(watched: Watched, framing: str) -> None:
    """P9.3: with a length, without one, and with one that lies: one byte over the limit and it is over."""
    seen, _ = watched
    seen.answer = f"HTTP/1.1 200 OK\r\n{framing}".encode() + b"x" * 100_000 + b"\r\n0\r\n\r\n"
    file = received(watched, {"contentType": "text/plain", "contentUrl": "https://media.botframework.com/1"})
    error = await refused(file, "TooLarge", max_bytes=99_999)
    assert isinstance(error, AttachmentTooLarge)
    assert error.limit == 99_999


async def test_p9_3_a_file_of_exactly_the_limit_is_none_too_large(watched: Watched) -> None:
    seen, _ = watched
    file = received(watched, {"contentType": "text/plain", "contentUrl": "https://media.botframework.com/1"})
    seen.answer = ok(b"x" * 5000)
    assert len((await file.download(max_bytes=5000)).content) == 5000
    await refused(file, "TooLarge", max_bytes=4999)
    seen.answer = ok(b"")
    assert (await file.download(max_bytes=0)).content == b""


async def test_p9_3_a_stream_hands_out_what_came_before_the_limit_and_then_ends(watched: Watched) -> None:
    seen, _ = watched
    seen.answer = ok(b"x" * 300_000)
    file = received(watched, {"contentType": "text/plain", "contentUrl": "https://media.botframework.com/1"})
    got: list[bytes] = []

    async def read() -> None:
        async with file.stream(max_bytes=200_000) as content:
            async for chunk in content:
                got.append(chunk)

    with pytest.raises(AttachmentTooLarge):
        await read()
    assert 0 < len(b"".join(got)) <= 200_000
    async with file.stream() as content:
        assert (content.name, content.content_type) == ("attachment.txt", "text/plain")
        async for _ in content:
            break
    # What was left of it is dropped with its connection; the next one is whole.
    assert len((await file.download()).content) == 300_000


async def test_p9_3_a_server_that_trickles_ends_by_time() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n" + b"x" * 600)
        while not writer.transport.is_closing():
            writer.write(b".")
            await asyncio.sleep(0.02)
        writer.close()

    listener = await asyncio.start_server(trickle, "127.0.0.1", 0)
    http = HttpClient(allow_address=anywhere)
    downloader = AttachmentDownloader(http, UrlGuard(development=True), None, max_seconds=0.2)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"

    async def read() -> None:
        async with downloader.fetch(Activity(), ClaimsIdentity(), Attachment(content_url=url)) as fetched:
            async for _ in fetched.chunks:
                pass

    with pytest.raises(AttachmentNotAvailable) as refusal:
        await read()
    assert (refusal.value.code, refusal.value.status) == ("Unreachable", 200)
    await http.close()
    listener.close()
    await listener.wait_closed()
    await asyncio.sleep(0.05)  # lets the server see its connection go


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", "Expired"),
        (b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n", "Expired"),
        (b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", "Expired"),
        (b"HTTP/1.1 410 No\r\ncontent-length: 0\r\n\r\n", "Expired"),
        (b"HTTP/1.1 429 No\r\ncontent-length: 0\r\n\r\n", "Unreachable"),
        (b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", "Unreachable"),
        (b"HTTP/1.1 204 No\r\n\r\n", "Unreachable"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\nconnection: close\r\n\r\nhalf", "Unreachable"),
        (b"nonsense\r\n\r\n", "Unreachable"),
        (ok(b"\x1f\x8b", more="content-encoding: gzip\r\n"), "Compressed"),
        (ok(b"<!doctype html><title>Sign in</title>", "text/html"), "ContentMismatch"),
        (ok(b"MZ\x90\0 a program", "image/png"), "ContentMismatch"),
    ],
)
async def test_p9_3_what_cannot_be_had_says_why(watched: Watched, answer: bytes, code: str) -> None:
    seen, _ = watched
    seen.answer = answer
    picture = received(
        watched, {"contentType": "image/png", "contentUrl": "https://media.botframework.com/1"}, max_seconds=0.5
    )
    await refused(picture, code)


async def test_without_a_token_there_is_no_picture_and_the_reason_comes_out(watched: Watched) -> None:
    async def no_token() -> str:
        raise ChannelError("No token", decision="misconfigured")

    downloader = AttachmentDownloader(watched[1], UrlGuard(development=False), no_token)
    activity = Activity.from_dict({"channelId": "msteams", "serviceUrl": SERVICE})
    attachment = Attachment(content_type="image/*", content_url=PICTURE)
    with pytest.raises(ChannelError):
        async with downloader.fetch(activity, VERIFIED, attachment):
            raise AssertionError
    assert watched[0].connections == 0


async def test_what_went_wrong_names_no_secret_of_the_address(watched: Watched) -> None:
    """A download URL is a permission: none of it but the host is in an error."""
    watched[0].answer = b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n"
    for host in ("contoso.sharepoint.com", "evil.example"):
        content = {"downloadUrl": f"https://{host}/x?tempauth=canary-secret"}
        with pytest.raises(AttachmentNotAvailable) as refusal:
            await received(watched, {"contentType": FILE, "content": content}).download()
        assert "canary-secret" not in str(refusal.value) + repr(refusal.value) + str(refusal.value.__cause__)
