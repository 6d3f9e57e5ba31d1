"""The agent's tokens: one request however many ask, renewed in time, and no hammering where there is none."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.responses import Response

from agent_core.channel.app_credentials import AppCredentials, ClientSecret
from agent_core.channel.http_client import HttpClient
from agent_core.channel.msal_client import MsalClient
from agent_core.channel.token_provider import AccessToken, CachedTokenProvider, TokenKey
from agent_core.errors import ChannelError, SettingsError
from agent_core.hosting.managed_identity import ManagedIdentityCredential
from agent_core.testing import ManualClock
from tests.channel.identity_provider import IdentityProvider, replies, self_signed, trusting
from tests.serving import FakeChannel, anywhere, serve

SCOPE = "https://api.botframework.com/.default"
MINUTE = timedelta(minutes=1)


class Source:
    """Gives a token that says which one it is, or fails as told."""

    def __init__(self, clock: ManualClock, lifetime: timedelta = timedelta(hours=1)) -> None:
        self.asked: list[TokenKey] = []
        self.failures: list[ChannelError] = []
        self._clock = clock
        self._lifetime = lifetime

    async def acquire(self, scope: TokenKey) -> AccessToken:
        self.asked.append(scope)
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        now = self._clock.now()
        return AccessToken(f"token{len(self.asked)}", now + self._lifetime, now)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def source(clock: ManualClock) -> Source:
    return Source(clock)


@pytest.fixture
def tokens(source: Source, clock: ManualClock) -> CachedTokenProvider:
    return CachedTokenProvider(source.acquire, clock.now)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_p3_7_many_who_ask_at_once_get_one_token(tokens: CachedTokenProvider, source: Source) -> None:
    assert await asyncio.gather(*(tokens.token(SCOPE) for _ in range(100))) == ["token1"] * 100
    assert await tokens.token(SCOPE) == "token1"
    assert source.asked == [SCOPE]


async def test_p3_6_each_scope_has_its_own_token(tokens: CachedTokenProvider) -> None:
    found = await asyncio.gather(tokens.token(SCOPE), tokens.token("parent/.default"), tokens.token(SCOPE))
    assert list(found) == ["token1", "token2", "token1"]


async def test_p3_7_a_token_is_renewed_in_the_background_before_it_ends(
    tokens: CachedTokenProvider, source: Source, clock: ManualClock
) -> None:
    await tokens.token(SCOPE)
    await clock.advance(49 * MINUTE)
    assert await tokens.token(SCOPE) == "token1"
    await settle()
    assert len(source.asked) == 1
    await clock.advance(2 * MINUTE)
    assert await tokens.token(SCOPE) == "token1", "nobody waits for it"
    await settle()
    assert await tokens.token(SCOPE) == "token2"


async def test_p3_7_nobody_gets_a_token_with_less_than_five_minutes_left(
    tokens: CachedTokenProvider, clock: ManualClock
) -> None:
    await tokens.token(SCOPE)
    await clock.advance(55 * MINUTE)
    assert await tokens.token(SCOPE) == "token2"


async def test_where_there_is_no_new_token_the_old_one_serves_to_its_end(
    tokens: CachedTokenProvider, source: Source, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    await tokens.token(SCOPE)
    await clock.advance(56 * MINUTE)
    source.failures = [ChannelError("away", decision="unsent")] * 2
    assert await tokens.token(SCOPE) == "token1"
    assert "The old token serves" in caplog.text
    assert "token1" not in caplog.text
    await clock.advance(3 * MINUTE)
    with pytest.raises(ChannelError):
        await tokens.token(SCOPE)


async def test_p3_7_a_rejected_token_is_made_anew_once_for_all(
    tokens: CachedTokenProvider, source: Source, clock: ManualClock
) -> None:
    """A service that rejects every token gets no flood of new ones out of us."""
    await tokens.token(SCOPE)
    forced = await asyncio.gather(*(tokens.token(SCOPE, force_refresh=True) for _ in range(20)))
    assert forced == ["token2"] * 20
    assert await tokens.token(SCOPE, force_refresh=True) == "token2"
    await clock.advance(timedelta(seconds=31))
    assert await tokens.token(SCOPE, force_refresh=True) == "token3"
    assert await tokens.token(SCOPE) == "token3"


async def test_a_forced_token_that_is_not_to_be_had_is_an_error(tokens: CachedTokenProvider, source: Source) -> None:
    """The old one was rejected: it does not serve."""
    await tokens.token(SCOPE)
    source.failures = [ChannelError("away", decision="unsent")]
    with pytest.raises(ChannelError, match="away"):
        await tokens.token(SCOPE, force_refresh=True)


async def test_all_who_wait_get_the_error_each_one_of_his_own(tokens: CachedTokenProvider, source: Source) -> None:
    source.failures = [ChannelError("no", decision="misconfigured", code="invalid_client")]
    found = await asyncio.gather(*(tokens.token(SCOPE) for _ in range(5)), return_exceptions=True)
    assert len({id(error) for error in found}) == 5
    for error in found:
        assert isinstance(error, ChannelError)
        assert (error.decision, error.code, error.retry_after, str(error)) == (
            "misconfigured",
            "invalid_client",
            None,
            "no",
        )
    assert len(source.asked) == 1


async def test_after_a_failure_nobody_is_asked_for_a_moment(
    tokens: CachedTokenProvider, source: Source, clock: ManualClock
) -> None:
    source.failures = [ChannelError("away", decision="unsent")]
    for scope in (SCOPE, SCOPE, "parent/.default"):
        with pytest.raises(ChannelError) as braked:
            await tokens.token(scope)
        assert (braked.value.decision, braked.value.retry_after) == ("unsent", timedelta(seconds=2))
    assert len(source.asked) == 1
    await clock.advance(timedelta(seconds=2))
    assert await tokens.token(SCOPE) == "token2"


async def test_a_refusal_of_one_scope_leaves_the_others_alone(tokens: CachedTokenProvider, source: Source) -> None:
    """A parent that does not exist in our tenant must not stop the bot."""
    source.failures = [ChannelError("no", decision="misconfigured")]
    with pytest.raises(ChannelError):
        await tokens.token("nobody/.default")
    assert await tokens.token(SCOPE) == "token2"


async def test_a_caller_who_gives_up_takes_nothing_from_the_others(tokens: CachedTokenProvider, source: Source) -> None:
    waiting = [asyncio.create_task(tokens.token(SCOPE)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    assert await asyncio.gather(*waiting[1:]) == ["token1"] * 2
    assert len(source.asked) == 1


async def test_scopes_that_are_over_are_forgotten(
    tokens: CachedTokenProvider, source: Source, clock: ManualClock
) -> None:
    """Callers come and go for as long as the process lives."""
    for number in range(50):
        if number % 2:
            source.failures = [ChannelError("no", decision="misconfigured")]
            with pytest.raises(ChannelError):
                await tokens.token(f"{number}/.default", force_refresh=True)
        else:
            await tokens.token(f"{number}/.default", force_refresh=True)
    await clock.advance(timedelta(hours=2))
    await tokens.token(SCOPE)
    assert [len(each) for each in (tokens._tokens, tokens._failures, tokens._forced)] == [1, 0, 0]
    assert len(tokens._flights) <= 1


def test_another_event_loop_finds_the_tokens_and_can_ask_for_more(tokens: CachedTokenProvider) -> None:
    assert asyncio.run(tokens.token(SCOPE)) == "token1"
    assert asyncio.run(tokens.token(SCOPE)) == "token1"
    assert asyncio.run(tokens.token("other/.default")) == "token2"


class Endpoint:
    """A provider of tokens whose token endpoint is real, and told how to behave."""

    def __init__(self, provider: IdentityProvider, clock: ManualClock, http: HttpClient) -> None:
        self.provider = provider
        self.clock = clock
        credentials = AppCredentials("the-app", ClientSecret("s"), f"{provider.url}/tenant")
        client = MsalClient(credentials, http, clock.now, timeout=timedelta(seconds=0.5))
        self.tokens = CachedTokenProvider(client.acquire, clock.now)

    async def storm(self, callers: int = 30) -> set[str]:
        """Many ask for several scopes; what they got."""
        scopes = [SCOPE, "one/.default", "two/.default"]
        asking = (self.tokens.token(scopes[number % 3], force_refresh=number % 2 == 0) for number in range(callers))
        found = await asyncio.gather(*asking, return_exceptions=True)
        return {each.decision if isinstance(each, ChannelError) else str(each) for each in found}


@pytest.fixture
async def endpoint(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Endpoint]:
    provider = IdentityProvider()
    server = self_signed(tmp_path)
    http = HttpClient(allow_address=anywhere, ssl_context=trusting(server), connect_timeout=1)
    async with provider.serve(server):
        yield Endpoint(provider, clock, http)
        await http.close()


@pytest.mark.parametrize(
    ("fault", "decision", "asked", "later"),
    [
        (lambda: replies(503, {}), "unsent", 1, timedelta(seconds=2)),
        (lambda: replies(429, {}, retry_after="90"), "throttled", 1, timedelta(seconds=90)),
        (lambda: replies(401, {"error": "invalid_client"}), "misconfigured", 3, timedelta(seconds=2)),
    ],
)
async def test_an_endpoint_that_fails_or_throttles_gets_one_call_at_a_time(
    endpoint: Endpoint, fault: Callable[[], object], decision: str, asked: int, later: timedelta
) -> None:
    """Asserted at the server; Retry-After is respected to the second, by every scope."""
    provider = endpoint.provider
    provider.answers = [fault()] * 3  # type: ignore[list-item]  # of the table above
    for _ in range(3):
        assert await endpoint.storm() == {decision}
        await endpoint.clock.advance(later / 4)
    assert (provider.busiest, len(provider.asked)) == (1, asked)
    await endpoint.clock.advance(later)
    provider.answers = []
    assert await endpoint.storm() == {f"canary-token-{number}" for number in (1, 2, 3)}
    assert (provider.busiest, len(provider.asked)) == (1, asked + 3)


async def test_an_endpoint_that_hangs_gets_one_call_at_a_time(endpoint: Endpoint) -> None:
    provider = endpoint.provider
    await endpoint.tokens.token("first/.default")
    released = asyncio.Event()

    async def hang() -> Response:
        await released.wait()
        return provider.grant()

    provider.answers = [hang]
    assert await endpoint.storm() == {"unsent"}
    assert await endpoint.storm() == {"unsent"}
    assert len(provider.asked) == 2
    released.set()
    await endpoint.clock.advance(timedelta(seconds=2))
    assert len(await endpoint.storm()) == 3
    assert provider.busiest == 1


def granted(token: str) -> Response:
    # MSAL goes by the machine's clock.
    expires_on = str(int(datetime.now(UTC).timestamp()) + 3600)
    body = {"access_token": token, "expires_on": expires_on, "resource": "r", "token_type": "Bearer"}
    return Response(json.dumps(body), media_type="application/json")


@pytest.fixture
async def identity_endpoint(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeChannel]:
    """The endpoint that gives an app in Azure its managed identity's tokens, as MSAL asks it."""
    endpoint = FakeChannel()
    async with serve(endpoint.app()) as url:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{url}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "header")
        yield endpoint


async def test_azures_clients_get_the_managed_identitys_token_with_its_expiry(identity_endpoint: FakeChannel) -> None:
    identity_endpoint.answers = [lambda: granted("for-cosmos")]
    now = datetime(2026, 1, 5, 12, tzinfo=UTC)
    async with ManagedIdentityCredential("client", lambda: now) as credential:
        token = await credential.get_token("https://x.documents.azure.com/.default")
    assert token.token == "for-cosmos"
    assert 3500 <= token.expires_on - now.timestamp() <= 3600


async def test_an_identity_that_gives_no_token_is_named(identity_endpoint: FakeChannel) -> None:
    identity_endpoint.answers = [lambda: Response('{"statusCode": 400, "message": "no"}', 400)] * 10
    with pytest.raises(SettingsError, match="managed identity"):
        await ManagedIdentityCredential(None, lambda: datetime.now(UTC)).get_token("https://x/.default")
