"""The agent's own token: one request however many ask, and a word that helps where there is none."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from starlette.responses import Response

from agent_core.channel.token_provider import AppCredentials, MsalTokenProvider
from agent_core.errors import ChannelError, SettingsError
from agent_core.hosting.managed_identity import ManagedIdentityCredential
from tests.serving import FakeChannel, serve


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


async def test_a_managed_identitys_token_is_fetched_once_for_all_who_ask(identity_endpoint: FakeChannel) -> None:
    identity_endpoint.answers = [lambda: granted("the-token")]
    provider = MsalTokenProvider(AppCredentials("11111111-2222-3333-4444-555555555555", "tenant"))
    assert await asyncio.gather(*(provider.token() for _ in range(20))) == ["the-token"] * 20
    assert await provider.token() == "the-token"
    (call,) = identity_endpoint.calls
    assert call.headers["x-identity-header"] == "header"


async def test_a_refused_token_says_which_app_and_never_a_secret(identity_endpoint: FakeChannel) -> None:
    identity_endpoint.answers = [lambda: Response('{"statusCode": 400, "message": "no"}', 400)] * 10
    credentials = AppCredentials("the-app", "tenant")
    with pytest.raises(ChannelError, match="the-app") as refused:
        await MsalTokenProvider(credentials).token()
    assert refused.value.decision == "misconfigured"
    assert "s3cret" not in repr(AppCredentials("the-app", "tenant", "s3cret"))


async def test_an_identity_provider_that_is_not_reached_leaves_the_message_unsent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:9/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "header")
    with pytest.raises(ChannelError) as unreached:
        await MsalTokenProvider(AppCredentials("the-app", "tenant")).token()
    assert unreached.value.decision == "unsent"


async def test_a_client_secret_is_used_where_there_is_one() -> None:
    """MSAL is given the app's own tenant; what it would ask for is not reachable here."""
    asked = threading.Event()

    class Offline(MsalTokenProvider):
        def _acquire(self) -> dict[str, object]:
            asked.set()
            return {"error": "invalid_client", "error_description": "AADSTS7000215: the secret s3cret is wrong"}

    with pytest.raises(ChannelError, match="invalid_client") as refused:
        await Offline(AppCredentials("the-app", "tenant", "s3cret")).token()
    assert asked.is_set()
    assert "s3cret" not in str(refused.value)


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
