"""What goes over the wire to the channel, and what every odd answer means."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from starlette.responses import Response

from agent_core import Activity, ChannelAccount, ConversationParameters
from agent_core.channel.connector_client import ConnectorClient
from agent_core.channel.http_client import HttpClient
from agent_core.errors import ChannelError
from agent_core.testing import ManualClock
from tests.serving import FakeChannel, anywhere, serve

CONVERSATION = "19:abc@thread.tacv2;messageid=1/ä"
QUOTED = "19%3Aabc%40thread.tacv2%3Bmessageid%3D1%2F%C3%A4"
HELLO = Activity(type="message", text="hello")


class FixedToken:
    async def token(self) -> str:
        return "the-token"


@pytest.fixture
def channel() -> FakeChannel:
    return FakeChannel()


@pytest.fixture
async def service_url(channel: FakeChannel) -> AsyncIterator[str]:
    async with serve(channel.app()) as url:
        yield url + "/base/"


@pytest.fixture
async def connector() -> AsyncIterator[ConnectorClient]:
    http = HttpClient(allow_address=anywhere, connect_timeout=1, read_timeout=1)
    yield ConnectorClient(http, FixedToken(), ManualClock().now)
    await http.close()


async def test_ids_are_quoted_as_one_segment_each(
    connector: ConnectorClient, channel: FakeChannel, service_url: str
) -> None:
    """Teams ids hold ':', '@', ';' and '='; unquoted, some of them are another route."""
    await connector.send_to_conversation(service_url, CONVERSATION, HELLO)
    await connector.reply_to_activity(service_url, CONVERSATION, "1/2", HELLO)
    await connector.update_activity(service_url, CONVERSATION, "1/2", HELLO)
    await connector.delete_activity(service_url, CONVERSATION, "1/2")
    await connector.get_conversation_members(service_url, CONVERSATION)
    base = f"/base/v3/conversations/{QUOTED}"
    assert [(call.method, call.path) for call in channel.calls] == [
        ("POST", f"{base}/activities"),
        ("POST", f"{base}/activities/1%2F2"),
        ("PUT", f"{base}/activities/1%2F2"),
        ("DELETE", f"{base}/activities/1%2F2"),
        ("GET", f"{base}/members"),
    ]
    assert channel.calls[0].headers["authorization"] == "Bearer the-token"
    assert channel.calls[0].headers["content-type"] == "application/json; charset=utf-8"


async def test_a_conversation_is_created_and_must_have_an_id(
    connector: ConnectorClient, channel: FakeChannel, service_url: str
) -> None:
    parameters = ConversationParameters(members=[ChannelAccount(id="29:x")], tenant_id="t")
    channel.answers = [lambda: Response('{"id": "a:1", "activityId": "7", "serviceUrl": null}', 201)]
    created = await connector.create_conversation(service_url, parameters)
    assert (created.id, created.activity_id) == ("a:1", "7")
    assert channel.calls[0].path == "/base/v3/conversations"
    channel.answers = [lambda: Response("{}", 200)]
    with pytest.raises(ChannelError, match="id"):
        await connector.create_conversation(service_url, parameters)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"id": "7"}', "7"),
        (b"", None),
        (b"{}", None),
        (b'{"id": null}', None),
        (b'{"id": 7}', None),
        (b'"7"', None),
        (b"<html></html>", None),
    ],
)
async def test_a_success_without_an_id_is_a_success(
    connector: ConnectorClient, channel: FakeChannel, service_url: str, body: bytes, expected: str | None
) -> None:
    channel.answers = [lambda: Response(body, 201)]
    assert (await connector.send_to_conversation(service_url, "c", HELLO)).id == expected


def answer(status: int, body: str = "", **headers: str) -> Callable[[], Response]:
    return lambda: Response(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("told", "decision", "code"),
    [
        (answer(400, '{"error": {"code": "BadSyntax", "message": "no"}}'), "rejected", "BadSyntax"),
        (answer(401), "misconfigured", None),
        (answer(403, '{"error": {"code": "ConversationBlockedByUser"}}'), "blocked", "ConversationBlockedByUser"),
        (
            answer(403, '{"errorCode": 209, "message": "{\\"subCode\\": \\"MessageWritesBlocked\\"}"}'),
            "blocked",
            "209",
        ),
        (answer(403, '{"error": {"code": "NotEnoughPermissions"}}'), "rejected", "NotEnoughPermissions"),
        (answer(404, '"NotFound"'), "gone", "NotFound"),
        (answer(404), "gone", None),
        (answer(409, "<html>"), "rejected", None),
        (answer(412), "throttled", None),
        (answer(413, '{"error": {"code": "MessageSizeTooBig"}}'), "rejected", "MessageSizeTooBig"),
        (answer(429), "throttled", None),
        (answer(408), "ambiguous", None),
        (answer(500, '{"error": "text"}'), "ambiguous", None),
        (answer(502, "<html>Bad gateway</html>"), "ambiguous", None),
        (answer(504), "ambiguous", None),
        (answer(302, "", location="http://127.0.0.1:9/"), "rejected", None),
    ],
)
async def test_each_failure_says_what_it_calls_for(
    connector: ConnectorClient,
    channel: FakeChannel,
    service_url: str,
    told: Callable[[], Response],
    decision: str,
    code: str | None,
) -> None:
    channel.answers = [told]
    with pytest.raises(ChannelError) as failed:
        await connector.send_to_conversation(service_url, "c", HELLO)
    assert (failed.value.decision, failed.value.code) == (decision, code)
    assert "hello" not in str(failed.value)
    assert len(channel.calls) == 1, "nothing is repeated, and no redirect followed"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("7", timedelta(seconds=7)),
        ("1.5", timedelta(seconds=1.5)),
        ("Mon, 05 Jan 2026 12:01:00 GMT", timedelta(minutes=1)),
        ("Mon, 05 Jan 2026 11:00:00 GMT", timedelta(0)),
        ("-3", timedelta(0)),
        ("999999999", timedelta(days=1)),
        ("soon", None),
        ("1e300", None),
        ("nan", None),
    ],
)
async def test_retry_after_is_read_in_all_its_forms(
    connector: ConnectorClient, channel: FakeChannel, service_url: str, header: str, expected: timedelta | None
) -> None:
    channel.answers = [answer(429, retry_after=header)]
    with pytest.raises(ChannelError) as failed:
        await connector.send_to_conversation(service_url, "c", HELLO)
    assert failed.value.retry_after == expected


async def test_what_never_left_may_be_repeated_and_what_may_have_arrived_may_not(connector: ConnectorClient) -> None:
    with pytest.raises(ChannelError) as unsent:
        await connector.send_to_conversation("http://127.0.0.1:9/", "c", HELLO)
    assert unsent.value.decision == "unsent"
