"""What is tried again, when, and what the last error means of all attempts together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from starlette.responses import Response

from agent_core import Activity, ConversationParameters
from agent_core.channel.connector import Connector
from agent_core.channel.connector_client import ConnectorClient, ConnectorService
from agent_core.channel.http_client import HttpClient
from agent_core.channel.retries import Retries
from agent_core.errors import ChannelError, NotAllowed
from agent_core.testing import ManualClock
from tests.serving import FakeChannel, anywhere, serve

HELLO = Activity(type="message", text="hello")
SECOND = timedelta(seconds=1)


class Tokens:
    """Gives out tokens that say which one it is."""

    def __init__(self) -> None:
        self.made = 1
        self.forced = 0

    async def token(self, scope: str, *, force_refresh: bool = False) -> str:
        if force_refresh:
            self.forced += 1
            self.made += 1
        return f"token{self.made}"


class Setting:
    """A connector on a clock that moves by itself, and how long it waited."""

    def __init__(self, http: HttpClient, channel: FakeChannel, url: str) -> None:
        self.clock = ManualClock()
        self.channel = channel
        self.url = url
        self.waits: list[float] = []
        self.tokens = Tokens()
        self.client = ConnectorClient(http, self.tokens, self.clock.now, sleep=self.sleep, random=lambda: 0.5)

    async def sleep(self, delay: timedelta) -> None:
        self.waits.append(delay.total_seconds())
        await self.clock.advance(delay)

    def connector(self, url: str | None = None, check_url: Callable[[str], str] | None = None) -> Connector:
        return Connector(self.client, ConnectorService(url or self.url, "scope", check_url=check_url))


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    http = HttpClient(allow_address=anywhere, connect_timeout=1, read_timeout=1)
    channel = FakeChannel()
    async with serve(channel.app()) as url:
        yield Setting(http, channel, url + "/")
        await http.close()


def answer(status: int, body: str = "", **headers: str) -> Callable[[], Response]:
    return lambda: Response(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("status", [412, 429, 502, 503, 504])
async def test_p4_20_get_put_and_delete_are_repeated_after_what_passes(setting: Setting, status: int) -> None:
    connector = setting.connector()
    for call in (
        lambda: connector.get_conversation_members("c"),
        lambda: connector.update_activity("c", "1", HELLO),
        lambda: connector.delete_activity("c", "1"),
    ):
        setting.channel.calls.clear()
        setting.channel.answers = [answer(status), answer(status), answer(200)]
        await call()
        assert len(setting.channel.calls) == 3


@pytest.mark.parametrize("status", [412, 429])
async def test_p4_20_a_post_is_repeated_only_where_it_was_refused(setting: Setting, status: int) -> None:
    connector = setting.connector()
    for call in (
        lambda: connector.send_to_conversation("c", HELLO),
        lambda: connector.reply_to_activity("c", "1", HELLO),
        lambda: connector.create_conversation(ConversationParameters()),
    ):
        setting.channel.calls.clear()
        setting.channel.answers = [answer(status), answer(201, '{"id": "7"}')]
        await call()
        assert len(setting.channel.calls) == 2


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_p4_20_a_post_that_may_have_been_done_is_never_repeated(setting: Setting, status: int) -> None:
    """The channel takes no idempotency key: a repeat is a second message."""
    setting.channel.answers = [answer(status)]
    with pytest.raises(ChannelError) as failed:
        await setting.connector().send_to_conversation("c", HELLO)
    assert failed.value.decision == "ambiguous"
    assert (len(setting.channel.calls), setting.waits) == (1, [])


@pytest.mark.parametrize("status", [400, 403, 404, 500])
async def test_what_stays_wrong_is_not_repeated(setting: Setting, status: int) -> None:
    setting.channel.answers = [answer(status)]
    with pytest.raises(ChannelError):
        await setting.connector().update_activity("c", "1", HELLO)
    assert len(setting.channel.calls) == 1


async def test_what_is_worthless_late_is_not_repeated(setting: Setting) -> None:
    """A typing indicator, and an update of a stream: the next update has its text too."""
    setting.channel.answers = [answer(429)]
    with pytest.raises(ChannelError):
        await setting.connector().send_to_conversation("c", Activity(type="typing"))
    assert len(setting.channel.calls) == 1


async def test_p4_20_the_waits_grow_with_full_jitter_and_end_after_four_attempts(setting: Setting) -> None:
    setting.channel.answers = [answer(429)] * 9
    with pytest.raises(ChannelError) as failed:
        await setting.connector().send_to_conversation("c", HELLO)
    assert (failed.value.decision, failed.value.retry_after) == ("throttled", None)
    assert (len(setting.channel.calls), setting.waits) == (4, [0.5, 1.0, 2.0])


def test_full_jitter_takes_a_part_of_a_wait_that_doubles_up_to_a_limit() -> None:
    clock = ManualClock()
    for share in (0.0, 0.25, 1.0):
        retries = Retries(clock.now, clock.advance, lambda share=share: share, attempts=9, budget=timedelta(hours=1))  # type: ignore[misc]  # the default binds it
        waits = [retries.wait(attempt, None, clock.now()) for attempt in range(1, 6)]
        assert waits == [share * SECOND * seconds for seconds in (1, 2, 4, 8, 8)]


@pytest.mark.parametrize(
    ("header", "waited"),
    [("3", 3.0), ("2.5", 2.5), ("Mon, 05 Jan 2026 12:00:04 GMT", 4.0), ("0.1", 0.5), ("soon", 0.5), ("-1", 0.5)],
)
async def test_retry_after_is_never_undercut(setting: Setting, header: str, waited: float) -> None:
    setting.channel.answers = [answer(429, retry_after=header)]
    await setting.connector().send_to_conversation("c", HELLO)
    assert setting.waits == [waited]


async def test_retry_after_beyond_the_budget_is_passed_on_at_once(setting: Setting) -> None:
    """A turn has 15 s; what waits longer goes back to the queue."""
    setting.channel.answers = [answer(429, retry_after="6"), answer(429, retry_after="5")]
    with pytest.raises(ChannelError) as failed:
        await setting.connector().send_to_conversation("c", HELLO)
    assert (failed.value.decision, failed.value.retry_after) == ("throttled", 5 * SECOND)
    assert setting.waits == [6.0]


async def test_p4_23_a_conversation_that_stays_busy_is_throttled_with_a_growing_wait(setting: Setting) -> None:
    setting.channel.answers = [answer(412)] * 4
    with pytest.raises(ChannelError) as failed:
        await setting.connector().send_to_conversation("c", HELLO)
    assert (failed.value.decision, failed.value.status) == ("throttled", 412)
    assert setting.waits == [1.0, 2.0, 4.0]
    assert failed.value.retry_after == 8 * SECOND


async def test_a_rejected_token_is_renewed_once(setting: Setting) -> None:
    """P3.7, table: 401 once with a fresh token, and then it is the registration that is wrong."""
    setting.channel.answers = [answer(401), answer(201, '{"id": "7"}')]
    assert (await setting.connector().send_to_conversation("c", HELLO)).id == "7"
    assert [call.headers["authorization"] for call in setting.channel.calls] == ["Bearer token1", "Bearer token2"]
    setting.channel.answers = [answer(401, '{"error": {"code": "BotNotRegistered"}}')] * 9
    setting.channel.calls.clear()
    with pytest.raises(ChannelError, match="Azure Bot") as failed:
        await setting.connector().send_to_conversation("c", HELLO)
    assert (failed.value.decision, failed.value.code) == ("misconfigured", "BotNotRegistered")
    assert (len(setting.channel.calls), setting.tokens.forced, setting.waits) == (2, 2, [])


async def test_a_token_that_another_call_renewed_meanwhile_is_used(setting: Setting) -> None:
    def rejected() -> Response:
        setting.tokens.made = 5
        return Response(status_code=401)

    setting.channel.answers = [rejected, answer(429), answer(200)]
    await setting.connector().send_to_conversation("c", HELLO)
    assert [call.headers["authorization"] for call in setting.channel.calls] == ["Bearer token1"] + [
        "Bearer token5"
    ] * 2
    assert setting.tokens.forced == 0


async def test_without_a_token_a_401_is_final(setting: Setting) -> None:
    setting.channel.answers = [answer(401)]
    connector = Connector(setting.client, ConnectorService(setting.url, None))
    with pytest.raises(ChannelError) as failed:
        await connector.send_to_conversation("c", HELLO)
    assert (failed.value.decision, len(setting.channel.calls)) == ("misconfigured", 1)


MOVED = '{"error": {"code": "InvalidBotApiHost", "message": "Invalid bot api host. Please call https://%s."}}'


async def test_p4_20_a_conversation_in_another_cloud_is_tried_once_at_the_host_it_names(setting: Setting) -> None:
    """403 InvalidBotApiHost: only if the guard lets the token go there, with the path of before, over https."""
    asked: list[str] = []

    def guard(url: str) -> str:
        asked.append(url)
        if "evil" in url:
            raise NotAllowed("no")
        return setting.url + "gcc/"

    setting.channel.answers = [answer(403, MOVED % "smba.infra.gcc.teams.microsoft.com"), answer(403, MOVED % "again")]
    with pytest.raises(ChannelError, match="another Microsoft cloud") as failed:
        await setting.connector(setting.url + "teams/", guard).send_to_conversation("c", HELLO)
    assert failed.value.decision == "misconfigured"
    assert asked == ["https://smba.infra.gcc.teams.microsoft.com/teams/"]
    assert [call.path.split("/v3")[0] for call in setting.channel.calls] == ["/teams", "/gcc"]
    for said in (MOVED % "evil.example", '{"error": {"code": "InvalidBotApiHost"}}'):
        setting.channel.calls.clear()
        setting.channel.answers = [answer(403, said)]
        with pytest.raises(ChannelError) as failed:
            await setting.connector(None, guard).send_to_conversation("c", HELLO)
        assert (failed.value.decision, len(setting.channel.calls)) == ("misconfigured", 1)


@asynccontextmanager
async def dropping(times: int, then_gone: bool = False) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A service that reads a request and hangs up, so many times; then it answers 200, or is not there any more."""
    requests: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        if len(requests) == times and then_gone:
            server.close()
        if len(requests) > times:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", requests
    finally:
        server.close()


async def test_p4_20_a_lost_connection_is_repeated_for_an_edit_and_not_for_a_message(setting: Setting) -> None:
    async with dropping(2) as (url, requests):
        await setting.connector(url).update_activity("c", "1", HELLO)
        assert len(requests) == 3
    async with dropping(1) as (url, requests):
        with pytest.raises(ChannelError) as failed:
            await setting.connector(url).send_to_conversation("c", HELLO)
        assert (failed.value.decision, len(requests)) == ("ambiguous", 1)


async def test_what_never_left_is_repeated_even_for_a_message(setting: Setting) -> None:
    with pytest.raises(ChannelError) as failed:
        await setting.connector("http://127.0.0.1:9/").send_to_conversation("c", HELLO)
    assert failed.value.decision == "unsent"
    assert setting.waits == [0.5, 1.0, 2.0]


async def test_an_edit_that_may_have_been_done_stays_unsure_though_its_repeats_never_left(setting: Setting) -> None:
    async with dropping(1, then_gone=True) as (url, requests):
        with pytest.raises(ChannelError) as failed:
            await setting.connector(url).update_activity("c", "1", HELLO)
        assert (failed.value.decision, len(requests)) == ("ambiguous", 1)


async def test_a_deletion_whose_answer_was_lost_is_done(setting: Setting) -> None:
    setting.channel.answers = [answer(504), answer(404)]
    await setting.connector().delete_activity("c", "1")
    setting.channel.answers = [answer(404)]
    with pytest.raises(ChannelError) as failed:
        await setting.connector().delete_activity("c", "1")
    assert failed.value.decision == "gone"


async def test_a_message_waits_for_a_token_that_is_there_in_a_moment(setting: Setting) -> None:
    """Nothing has left yet: the brake of the token provider costs a wait, not the turn."""
    failures = [ChannelError("away", decision="unsent", retry_after=2 * SECOND)]

    class Failing(Tokens):
        async def token(self, scope: str, *, force_refresh: bool = False) -> str:
            if failures:
                raise failures.pop()
            return "token"

    setting.client._tokens = Failing()
    await setting.connector().send_to_conversation("c", HELLO)
    assert (len(setting.channel.calls), setting.waits) == (1, [2.0])
