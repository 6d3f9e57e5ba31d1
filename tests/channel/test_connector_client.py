"""What goes over the wire to the channel, and what every odd answer means."""

import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from starlette.responses import Response

from agent_core import Activity, ChannelAccount, ConversationParameters
from agent_core.channel.connector import AttachmentInfo, Connector, CopilotStudioConnector, PagedMembers
from agent_core.channel.connector_client import ConnectorClient, ConnectorService
from agent_core.channel.http_client import HttpClient
from agent_core.errors import ChannelError, NotSupported
from agent_core.testing import ManualClock
from tests.serving import FakeChannel, anywhere, serve

CONVERSATION = "19:abc@thread.tacv2;messageid=1/ä"
QUOTED = "19%3Aabc%40thread.tacv2%3Bmessageid%3D1%2F%C3%A4"
BASE = f"/base/v3/conversations/{QUOTED}"
HELLO = Activity(type="message", text="hello")


class FixedToken:
    async def token(self, scope: str, *, force_refresh: bool = False) -> str:
        return f"the-token-for-{scope}"


@pytest.fixture
def channel() -> FakeChannel:
    return FakeChannel()


@pytest.fixture
async def service_url(channel: FakeChannel) -> AsyncIterator[str]:
    async with serve(channel.app()) as url:
        yield url + "/base/"


@pytest.fixture
async def client() -> AsyncIterator[ConnectorClient]:
    http = HttpClient(allow_address=anywhere, connect_timeout=1, read_timeout=1)
    clock = ManualClock()
    yield ConnectorClient(http, FixedToken(), clock.now, sleep=clock.advance, random=lambda: 0.5)
    await http.close()


@pytest.fixture
def connector(client: ConnectorClient, service_url: str) -> Connector:
    return Connector(client, ConnectorService(service_url, "scope"))


def answer(status: int, body: str = "", **headers: str) -> Callable[[], Response]:
    return lambda: Response(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


def told(body: object) -> Callable[[], Response]:
    return answer(200, json.dumps(body))


async def test_p4_1_p4_3_each_id_is_quoted_as_one_segment(connector: Connector, channel: FakeChannel) -> None:
    """Teams ids hold ':', '@', ';' and '='; unquoted, some of them are another route."""
    await connector.send_to_conversation(CONVERSATION, HELLO)
    await connector.reply_to_activity(CONVERSATION, "1/2", HELLO)
    await connector.update_activity(CONVERSATION, "1/2", HELLO)
    await connector.delete_activity(CONVERSATION, "1/2")
    assert [(call.method, call.path) for call in channel.calls] == [
        ("POST", f"{BASE}/activities"),
        ("POST", f"{BASE}/activities/1%2F2"),
        ("PUT", f"{BASE}/activities/1%2F2"),
        ("DELETE", f"{BASE}/activities/1%2F2"),
    ]
    headers = channel.calls[0].headers
    assert headers["authorization"] == "Bearer the-token-for-scope"
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert headers["accept"] == "application/json"
    assert headers["user-agent"]


@pytest.mark.parametrize("bad", ["", ".", ".."])
async def test_an_id_that_would_be_another_route_goes_nowhere(
    connector: Connector, channel: FakeChannel, bad: str
) -> None:
    with pytest.raises(ChannelError) as failed:
        await connector.update_activity(bad, "1", HELLO)
    assert failed.value.decision == "rejected"
    with pytest.raises(ChannelError):
        await connector.delete_activity("c", bad)
    assert channel.calls == []


async def test_section_4_every_route_of_conversations(connector: Connector, channel: FakeChannel) -> None:
    ann, bob = {"id": "29:a", "name": "Ann", "email": "ann@x"}, {"id": "29:b"}
    channel.answers = [
        told({"conversations": [{"id": "c1", "members": [ann, 7]}, {"members": []}, 8], "continuationToken": "n"}),
        told({"conversations": None}),
        told([ann, bob, {"name": "no id"}, {"id": 7}, None]),
        told(ann),
        told({"members": [ann], "continuationToken": "more"}),
        told([bob]),
        answer(200),
        told({"id": "h"}),
    ]
    page = await connector.get_conversations()
    assert [(each.id, len(each.members)) for each in page.conversations] == [("c1", 1)]
    assert page.continuation_token == "n"
    assert (await connector.get_conversations("n")).conversations == []
    assert [each.id for each in await connector.get_conversation_members(CONVERSATION)] == ["29:a", "29:b"]
    assert (await connector.get_conversation_member(CONVERSATION, "29:a/?")).to_dict() == ann
    members = await connector.get_conversation_paged_members(CONVERSATION, page_size=50, continuation_token="a&b")
    assert members == PagedMembers([ChannelAccount.from_dict(ann)], "more")
    assert [each.id for each in await connector.get_activity_members(CONVERSATION, "1")] == ["29:b"]
    await connector.delete_conversation_member(CONVERSATION, "29:b")
    assert (await connector.send_conversation_history(CONVERSATION, [HELLO])).id == "h"
    assert [(call.method, call.path, call.query) for call in channel.calls] == [
        ("GET", "/base/v3/conversations", ""),
        ("GET", "/base/v3/conversations", "continuationToken=n"),
        ("GET", f"{BASE}/members", ""),
        ("GET", f"{BASE}/members/29%3Aa%2F%3F", ""),
        ("GET", f"{BASE}/pagedmembers", "pageSize=50&continuationToken=a%26b"),
        ("GET", f"{BASE}/activities/1/members", ""),
        ("DELETE", f"{BASE}/members/29%3Ab", ""),
        ("POST", f"{BASE}/activities/history", ""),
    ]
    assert channel.calls[-1].body == {"activities": [{"type": "message", "text": "hello"}]}


async def test_an_answer_that_is_no_member_is_an_error(connector: Connector, channel: FakeChannel) -> None:
    channel.answers = [told([])]
    with pytest.raises(ChannelError, match="no member"):
        await connector.get_conversation_member("c", "m")


async def test_p4_21_paged_members_come_page_after_page(connector: Connector, channel: FakeChannel) -> None:
    """A page is fetched when it is due; a token that comes back unchanged ends it."""
    channel.answers = [
        told({"members": [{"id": "1"}, {"id": "2"}], "continuationToken": "t1"}),
        told({"members": [{"id": "3"}], "continuationToken": "t2"}),
        told({"members": [{"id": "4"}], "continuationToken": "t2"}),
    ]
    seen = []
    async for member in connector.get_paged_members("c", page_size=2):
        seen.append((member.id, len(channel.calls)))
    assert seen == [("1", 1), ("2", 1), ("3", 2), ("4", 3)]
    assert [call.query for call in channel.calls] == [
        "pageSize=2",
        "pageSize=2&continuationToken=t1",
        "pageSize=2&continuationToken=t2",
    ]


async def test_section_4_every_route_of_attachments(connector: Connector, channel: FakeChannel) -> None:
    channel.answers = [
        told({"id": "att/1"}),
        told({"name": "a.txt", "type": "text/plain", "views": [{"viewId": "original", "size": 3}, {"viewId": "x"}, 7]}),
        lambda: Response(b"\x00\xff\x01", 200, media_type="application/octet-stream"),
        answer(302, "", location="https://blob.example/secret"),
    ]
    uploaded = await connector.upload_attachment(
        CONVERSATION, name="a.txt", content_type="text/plain", content=b"abc", thumbnail=b"t"
    )
    assert uploaded.id == "att/1"
    assert await connector.get_attachment_info("att/1") == AttachmentInfo(
        "a.txt", "text/plain", {"original": 3, "x": None}
    )
    assert await connector.get_attachment("att/1") == b"\x00\xff\x01"
    with pytest.raises(ChannelError, match="Redirects are not followed") as redirected:
        await connector.get_attachment("att/1", "thumb")
    assert redirected.value.decision == "misconfigured"
    assert [(call.method, call.path) for call in channel.calls] == [
        ("POST", f"{BASE}/attachments"),
        ("GET", "/base/v3/attachments/att%2F1"),
        ("GET", "/base/v3/attachments/att%2F1/views/original"),
        ("GET", "/base/v3/attachments/att%2F1/views/thumb"),
    ]
    assert channel.calls[0].body == {
        "type": "text/plain",
        "name": "a.txt",
        "originalBase64": "YWJj",
        "thumbnailBase64": "dA==",
    }
    assert channel.calls[2].headers["accept"] == "application/octet-stream"


async def test_section_4_every_route_of_teams(connector: Connector, channel: FakeChannel) -> None:
    teams = connector.teams
    channel.answers = [
        told({"id": "t", "name": "Team"}),
        told({"conversations": [{"id": "c1"}, None]}),
        told({"details": {"id": "m"}}),
        told({"user": {"id": "u"}}),
        answer(202),
        *[answer(202, '{"operationId": "op/1"}')] * 4,
        told({"state": "Completed"}),
        told({"failedEntryResponses": [{"entryId": "29:a", "error": "x"}], "continuationToken": "n"}),
        answer(200),
    ]
    assert (await teams.get_team_details("19:t@x"))["name"] == "Team"
    assert await teams.get_team_channels("19:t@x") == [{"id": "c1"}]
    assert (await teams.get_meeting_info("m=="))["details"] == {"id": "m"}
    assert (await teams.get_meeting_participant("m==", "u", "tenant"))["user"] == {"id": "u"}
    assert await teams.send_meeting_notification("m==", {"type": "targetedMeetingNotification"}) == {}
    assert await teams.send_message_to_list_of_users(HELLO, "tenant", ["29:a"]) == "op/1"
    assert await teams.send_message_to_all_users_in_tenant(HELLO, "tenant") == "op/1"
    assert await teams.send_message_to_all_users_in_team(HELLO, "tenant", "19:t") == "op/1"
    assert await teams.send_message_to_list_of_channels(HELLO, "tenant", ["19:c"]) == "op/1"
    assert (await teams.get_operation_state("op/1"))["state"] == "Completed"
    assert await teams.get_failed_entries("op/1") == ([{"entryId": "29:a", "error": "x"}], "n")
    await teams.cancel_operation("op/1")
    assert [(call.method, call.path.removeprefix("/base/"), call.query) for call in channel.calls] == [
        ("GET", "v3/teams/19%3At%40x", ""),
        ("GET", "v3/teams/19%3At%40x/conversations", ""),
        ("GET", "v1/meetings/m%3D%3D", ""),
        ("GET", "v1/meetings/m%3D%3D/participants/u", "tenantId=tenant"),
        ("POST", "v1/meetings/m%3D%3D/notification", ""),
        ("POST", "v3/batch/conversation/users", ""),
        ("POST", "v3/batch/conversation/tenant", ""),
        ("POST", "v3/batch/conversation/team", ""),
        ("POST", "v3/batch/conversation/channels", ""),
        ("GET", "v3/batch/conversation/op%2F1", ""),
        ("GET", "v3/batch/conversation/failedentries/op%2F1", ""),
        ("DELETE", "v3/batch/conversation/op%2F1", ""),
    ]
    message = {"type": "message", "text": "hello"}
    assert [call.body for call in channel.calls[5:9]] == [
        {"activity": message, "tenantId": "tenant", "members": [{"id": "29:a"}]},
        {"activity": message, "tenantId": "tenant"},
        {"activity": message, "tenantId": "tenant", "teamId": "19:t"},
        {"activity": message, "tenantId": "tenant", "members": [{"id": "19:c"}]},
    ]


async def test_a_message_to_many_without_an_operation_may_have_been_sent(
    connector: Connector, channel: FakeChannel
) -> None:
    channel.answers = [answer(202)]
    with pytest.raises(ChannelError) as failed:
        await connector.teams.send_message_to_all_users_in_tenant(HELLO, "tenant")
    assert failed.value.decision == "ambiguous"


async def test_a_conversation_is_created_and_must_have_an_id(connector: Connector, channel: FakeChannel) -> None:
    """`activityId: null` and others that are no text are as if they were not there."""
    parameters = ConversationParameters(members=[ChannelAccount(id="29:x")], tenant_id="t")
    channel.answers = [answer(201, '{"id": "a:1", "activityId": null, "serviceUrl": "https://x/"}')]
    created = await connector.create_conversation(parameters)
    assert (created.id, created.activity_id, created.service_url) == ("a:1", None, "https://x/")
    assert channel.calls[0].path == "/base/v3/conversations"
    channel.answers = [answer(200, "{}")]
    with pytest.raises(ChannelError, match="id"):
        await connector.create_conversation(parameters)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"id": "7"}', "7"),
        ("", None),
        ("{}", None),
        ('{"id": null}', None),
        ('{"id": 7}', None),
        ('"7"', None),
        ("<html></html>", None),
        ("[" * 100_000, None),
    ],
)
async def test_p4_2_a_success_without_an_id_is_a_success(
    connector: Connector, channel: FakeChannel, body: str, expected: str | None
) -> None:
    channel.answers = [answer(201, body)]
    assert (await connector.send_to_conversation("c", HELLO)).id == expected


NESTED = {"error": {"innerHttpError": {"statusCode": 403, "body": {"code": "BotDisabledByAdmin", "message": "off"}}}}


@pytest.mark.parametrize(
    ("told", "decision", "code"),
    [
        (answer(400, '{"error": {"code": "BadSyntax", "message": "no"}}'), "rejected", "BadSyntax"),
        (answer(400, '{"error": {"code": "Bad Argument"}}'), "rejected", "Bad Argument"),
        (answer(400, '{"error": {"code": "MissingProperty"}}'), "rejected", "MissingProperty"),
        (answer(401), "misconfigured", None),
        (answer(401, '{"error": {"code": "BotNotRegistered"}}'), "misconfigured", "BotNotRegistered"),
        (answer(403, '{"error": {"code": "BotDisabledByAdmin"}}'), "blocked", "BotDisabledByAdmin"),
        (answer(403, '{"error": {"code": "BotNotInConversationRoster"}}'), "blocked", "BotNotInConversationRoster"),
        (answer(403, '{"error": {"code": "ConversationBlockedByUser"}}'), "blocked", "ConversationBlockedByUser"),
        (answer(403, '{"error": {"code": "ForbiddenOperationException"}}'), "blocked", "ForbiddenOperationException"),
        (
            answer(403, '{"errorCode": 209, "message": "{\\"subCode\\": \\"MessageWritesBlocked\\"}"}'),
            "blocked",
            "209",
        ),
        (answer(403, json.dumps(NESTED)), "blocked", "BotDisabledByAdmin"),
        (answer(403, '{"error": {"code": "NotEnoughPermissions"}}'), "rejected", "NotEnoughPermissions"),
        (answer(403, '{"error": {"code": "InvalidBotApiHost"}}'), "misconfigured", "InvalidBotApiHost"),
        (answer(403, '{"message": "Failed to decrypt conversation id"}'), "rejected", None),
        (answer(404, '"NotFound"'), "gone", "NotFound"),
        (answer(404, '{"error": {"code": "ConversationNotFound"}}'), "gone", "ConversationNotFound"),
        (answer(404), "gone", None),
        (answer(409, "<html>"), "rejected", None),
        (answer(413, '{"error": {"code": "MessageSizeTooBig"}}'), "rejected", "MessageSizeTooBig"),
        (answer(408), "ambiguous", None),
        (answer(500, '{"error": "text"}'), "ambiguous", None),
        (answer(500, "[" * 100_000), "ambiguous", None),
        (answer(502, "<html>Bad gateway</html>"), "ambiguous", None),
        (answer(503), "ambiguous", None),
        (answer(504), "ambiguous", None),
        (answer(302, "", location="http://127.0.0.1:9/"), "misconfigured", None),
    ],
)
async def test_p4_5_p4_20_each_failure_of_a_post_says_what_it_calls_for_and_is_not_repeated(
    client: ConnectorClient,
    service_url: str,
    channel: FakeChannel,
    told: Callable[[], Response],
    decision: str,
    code: str | None,
) -> None:
    """The table of Teams: 400 to 413 are final, and after a 5xx it may have been done. No redirect is followed."""
    channel.answers = [told]
    connector = Connector(client, ConnectorService(service_url, None))
    with pytest.raises(ChannelError) as failed:
        await connector.send_to_conversation("c", HELLO)
    assert (failed.value.decision, failed.value.code) == (decision, code)
    assert "hello" not in str(failed.value)
    assert len(channel.calls) == 1


async def test_an_error_has_all_that_the_channel_said(connector: Connector, channel: FakeChannel) -> None:
    body = {"errorCode": 209, "message": json.dumps({"subCode": "MessageWritesBlocked", "message": "Blocked by user"})}
    channel.answers = [answer(403, json.dumps(body), ms_cv="cv.1")]
    with pytest.raises(ChannelError) as failed:
        await connector.send_to_conversation("c", HELLO)
    error = failed.value
    assert (error.status, error.code, error.sub_code) == (403, "209", "MessageWritesBlocked")
    assert (error.said, error.request_id, error.retry_after) == ("Blocked by user", "cv.1", None)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("17", timedelta(seconds=17)),
        ("11.5", timedelta(seconds=11.5)),
        ("Mon, 05 Jan 2026 12:01:00 GMT", timedelta(minutes=1)),
        ("999999999", timedelta(days=1)),
    ],
)
async def test_retry_after_is_read_in_all_its_forms(
    connector: Connector, channel: FakeChannel, header: str, expected: timedelta
) -> None:
    """What does not fit into the budget is not waited for, but passed on."""
    channel.answers = [answer(429, retry_after=header)]
    with pytest.raises(ChannelError) as failed:
        await connector.send_to_conversation("c", HELLO)
    assert (failed.value.decision, failed.value.retry_after) == ("throttled", expected)
    assert len(channel.calls) == 1


async def test_copilot_studio_is_answered_at_its_own_url_without_a_token(
    client: ConnectorClient, service_url: str, channel: FakeChannel
) -> None:
    """Proactive 3.5: it takes what the agent says, and has no other route."""
    url = service_url.rstrip("/") + "/flow?sig=1"
    connector = CopilotStudioConnector(client, ConnectorService(url, None))
    await connector.send_to_conversation("c", HELLO)
    await connector.reply_to_activity("c", "1", HELLO)
    assert [(call.method, call.path, call.query) for call in channel.calls] == [("POST", "/base/flow", "sig=1")] * 2
    assert not any("authorization" in call.headers for call in channel.calls)
    refused: list[Any] = [
        connector.update_activity("c", "1", HELLO),
        connector.delete_activity("c", "1"),
        connector.create_conversation(ConversationParameters()),
        connector.get_conversation_member("c", "m"),
        connector.send_conversation_history("c", [HELLO]),
        connector.upload_attachment("c", name="n", content_type="t", content=b""),
        connector.teams.get_team_details("t"),
        connector.teams.send_message_to_all_users_in_tenant(HELLO, "t"),
    ]
    for call in refused:
        with pytest.raises(NotSupported):
            await call
    assert len(channel.calls) == 2
