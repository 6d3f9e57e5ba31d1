"""When keys are fetched, which of them count, and what happens while they cannot be."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from agent_core import Activity
from agent_core.channel.signing_keys import SigningKeys
from agent_core.errors import KeysUnavailable, NotAuthenticated
from agent_core.testing import ManualClock
from tests.channel.token_issuers import (
    ATTACKER_KEY,
    BOT_KEY,
    PARENT_URL,
    Issuers,
    KeyServer,
    Setting,
    jwk,
    refusal,
    rsa_key,
    running_issuers,
    segment,
)
from tests.local.running import until
from tests.serving import serve

FETCH = ["/bot/openid", "/bot/keys"]


@pytest.fixture(scope="module")
async def issuers() -> AsyncIterator[Issuers]:
    async with running_issuers() as issuers:
        yield issuers


@pytest.fixture
def setting(issuers: Issuers) -> Setting:
    return issuers.setting()


@pytest.fixture
def server(setting: Setting) -> KeyServer:
    return setting.server


async def test_p2_10_keys_are_kept_for_a_day(setting: Setting, server: KeyServer) -> None:
    assert (await setting.post(setting.bot_token())).status == 202
    await setting.clock.advance(timedelta(hours=24))
    assert (await setting.post(setting.bot_token())).status == 202
    assert server.calls == FETCH
    await setting.clock.advance(timedelta(seconds=1))
    assert (await setting.post(setting.bot_token())).status == 202
    assert server.calls == FETCH * 2


async def test_p2_10_ten_thousand_unknown_keys_cause_one_fetch_in_five_minutes_and_are_forgotten(
    issuers: Issuers, setting: Setting, server: KeyServer
) -> None:
    """R13: nothing is noted about a key that the issuer has not."""
    assert (await setting.post(setting.bot_token())).status == 202
    activity = Activity.from_dict(setting.activity())
    claims = segment(setting.bot_claims())
    await setting.clock.advance(timedelta(minutes=5))
    tracemalloc.start()
    try:
        before = 0
        for number in range(10_000):
            if number == 1000:  # by then the issuer has been asked again
                gc.collect()
                before = tracemalloc.get_traced_memory()[0]
            header = segment({"alg": "RS256", "kid": f"random {number}"})
            with pytest.raises(NotAuthenticated) as refused:
                await setting.validator.validate(f"Bearer {header}.{claims}.AAAA", activity)
            assert refused.value.code == "UnknownKey"
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert server.calls == FETCH * 2
    assert grown < 9000  # a byte a key
    # Five seconds or more have passed for the server, which may be closing the connection at this moment.
    await issuers.http.close()
    await setting.clock.advance(timedelta(minutes=5))
    assert refusal(await setting.post(f"Bearer {header}.{claims}.AAAA")) == (401, "UnknownKey")
    assert server.calls == FETCH * 3


async def test_p2_10_a_new_key_is_found_after_five_minutes_at_most(setting: Setting, server: KeyServer) -> None:
    assert (await setting.post(setting.bot_token())).status == 202
    new = rsa_key()
    server.bot_keys.append(jwk("new", new))
    assert refusal(await setting.post(setting.bot_token(new, "new"))) == (401, "UnknownKey")
    await setting.clock.advance(timedelta(minutes=5))
    assert (await setting.post(setting.bot_token(new, "new"))).status == 202
    assert server.calls == FETCH * 2


async def test_a_key_that_its_issuer_takes_back_counts_no_more(setting: Setting, server: KeyServer) -> None:
    assert (await setting.post(setting.bot_token())).status == 202
    server.bot_keys = [jwk("new", ATTACKER_KEY)]
    await setting.clock.advance(timedelta(hours=25))
    assert refusal(await setting.post(setting.bot_token())) == (401, "UnknownKey")


async def test_p2_10_old_keys_serve_for_five_days_while_none_can_be_fetched(
    setting: Setting, server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """They are asked for every five minutes then, not once more a day later."""
    assert (await setting.post(setting.bot_token())).status == 202
    server.status = 500
    await setting.clock.advance(timedelta(hours=25))
    for _ in range(3):
        assert (await setting.post(setting.bot_token())).status == 202
    assert server.calls == [*FETCH, "/bot/openid"]
    await setting.clock.advance(timedelta(minutes=5))
    assert (await setting.post(setting.bot_token())).status == 202
    assert server.calls == [*FETCH, "/bot/openid", "/bot/openid"]
    assert "https://api.botframework.com could not be fetched, 3 old ones serve: status 500" in caplog.text
    await setting.clock.advance(timedelta(days=4))
    assert refusal(await setting.post(setting.bot_token())) == (503, "KeysUnavailable")
    server.status = 200
    await setting.clock.advance(timedelta(seconds=5))
    assert (await setting.post(setting.bot_token())).status == 202


async def test_an_unknown_key_is_not_called_so_while_the_issuer_cannot_be_asked(
    setting: Setting, server: KeyServer
) -> None:
    """A key that came up during an outage is a good caller's; 401 would lose his activity."""
    assert (await setting.post(setting.bot_token())).status == 202
    server.status = 500
    await setting.clock.advance(timedelta(minutes=5))
    answer = await setting.post(setting.bot_token(ATTACKER_KEY, "new"))
    assert refusal(answer) == (503, "KeysUnavailable")
    assert (await setting.post(setting.bot_token())).status == 202
    assert server.calls == [*FETCH, "/bot/openid"]


async def test_without_keys_the_channel_is_asked_to_try_again(setting: Setting, server: KeyServer) -> None:
    """At a cold start: 503, for a good token is not to be lost; one look every five seconds, not one per request."""
    server.status = 503
    for _ in range(20):
        answer = await setting.post(setting.bot_token())
        assert refusal(answer) == (503, "KeysUnavailable")
        assert answer.headers["retry-after"] == "5"
    assert server.calls == ["/bot/openid"]
    server.status = 200
    await setting.clock.advance(timedelta(seconds=5))
    assert (await setting.post(setting.bot_token())).status == 202
    assert setting.handled[0].id == "in1"


async def test_many_at_once_make_one_fetch_even_if_it_fails(setting: Setting, server: KeyServer) -> None:
    server.status = 500
    answers = await asyncio.gather(*(setting.post(setting.bot_token(), id=str(number)) for number in range(50)))
    assert {answer.status for answer in answers} == {503}
    assert server.calls == ["/bot/openid"]


async def test_a_key_server_that_hangs_is_given_up_after_seconds(issuers: Issuers) -> None:
    """P2.10: for both documents together."""
    server, clock = issuers.setting().server, ManualClock()
    server.held = asyncio.Event()
    keys = SigningKeys(
        issuers.http, clock.now, server.url + "/bot/openid", "https://api.botframework.com", timeout=0.05
    )
    async with asyncio.timeout(5):  # the client alone would wait for 10 seconds
        with pytest.raises(KeysUnavailable):
            await keys.get("bot")
    server.held.set()
    server.held = None
    await clock.advance(timedelta(seconds=5))
    assert await keys.get("bot") is not None


async def test_whoever_has_a_known_key_does_not_wait_for_new_ones(setting: Setting, server: KeyServer) -> None:
    assert (await setting.post(setting.bot_token())).status == 202
    await setting.clock.advance(timedelta(hours=25))
    server.held = asyncio.Event()
    first = asyncio.create_task(setting.post(setting.bot_token()))
    await until(lambda: len(server.calls) == 3)
    assert (await setting.post(setting.bot_token(), id="2")).status == 202
    assert not first.done()
    server.held.set()
    assert (await first).status == 202
    assert server.calls == FETCH * 2


async def test_a_caller_who_goes_away_takes_nobodys_keys_with_him(setting: Setting, server: KeyServer) -> None:
    server.held = asyncio.Event()
    first = asyncio.create_task(setting.post(setting.bot_token()))
    await until(lambda: len(server.calls) == 1)
    second = asyncio.create_task(setting.post(setting.bot_token(), id="2"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    server.held.set()
    server.held = None
    assert (await second).status == 202


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"issuer": "https://api.botframework.com/"},
        {"jwks_uri": "https://evil.example/keys"},
        {"jwks_uri": "http://127.0.0.1:1/bot/keys"},
        {"jwks_uri": "{server}.evil.example/bot/keys"},
        {"jwks_uri": "{server}@evil.example/bot/keys"},
        {"jwks_uri": "/bot/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": None},
        {"jwks_uri": ["{server}/bot/keys"]},
        {"id_token_signing_alg_values_supported": ["ES256"]},
        {"id_token_signing_alg_values_supported": None},
    ],
    ids=str,
)
async def test_p2_11_an_openid_document_that_is_not_the_issuers_gives_no_keys(
    setting: Setting, server: KeyServer, document: dict[str, Any]
) -> None:
    """P2.11: its issuer, the server of its keys and its algorithms are checked before any key is asked for."""
    for name, value in document.items():
        server.bot_document[name] = value.format(server=server.url) if isinstance(value, str) else value
    assert refusal(await setting.post(setting.bot_token())) == (503, "KeysUnavailable")
    assert server.calls == ["/bot/openid"]


async def test_p2_11_keys_on_another_server_are_not_asked_for(setting: Setting, server: KeyServer) -> None:
    """However good they are, and if only the port is another."""
    canary = KeyServer()
    async with serve(canary.app()) as canary.url:
        server.bot_document["jwks_uri"] = canary.url + "/bot/keys"
        assert refusal(await setting.post(setting.bot_token())) == (503, "KeysUnavailable")
    assert canary.calls == []


async def test_p2_11_entras_document_is_that_of_all_tenants(setting: Setting, server: KeyServer) -> None:
    server.entra_document["issuer"] = "https://login.microsoftonline.com/common/v2.0"
    assert refusal(await setting.post_as_agent(setting.entra_token())) == (503, "KeysUnavailable")
    server.entra_document["issuer"] = "https://login.microsoftonline.com/{tenantid}/v2.0"
    await setting.clock.advance(timedelta(seconds=5))
    assert (await setting.post_as_agent(setting.entra_token(), serviceUrl=PARENT_URL)).status == 202


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "bot",
        {"kty": "RSA", "kid": "bad", "n": "AQ", "e": "AQAB"},
        {"kty": "RSA", "kid": "bad", "n": 7, "e": "AQAB"},
        {"kty": "RSA", "kid": "bad"},
        {"kty": "RSA", "kid": 7, "n": "AQ", "e": "AQAB"},
        {"kty": "EC", "kid": "bot", "crv": "P-256", "x": "AQ", "y": "AQ"},
        {"kty": "oct", "kid": "bot", "k": "AQ"},
        jwk("bad", BOT_KEY, endorsements="msteams"),
        jwk("bad", BOT_KEY, issuer=["x"]),
        jwk("bad", BOT_KEY) | {"use": "enc", "kid": "bot"},
        jwk("bad", BOT_KEY) | {"alg": "RS512", "kid": "bot"},
    ],
    ids=[
        "null",
        "text",
        "short modulus",
        "number as modulus",
        "no modulus",
        "number as id",
        "curve",
        "symmetric",
        "endorsements no list",
        "issuer a list",
        "for encryption",
        "other algorithm",
    ],
)
async def test_a_key_that_cannot_be_used_takes_no_other_with_it(
    setting: Setting, server: KeyServer, bad: object
) -> None:
    good = jwk("good", BOT_KEY)
    server.bot_keys = [good, bad]  # type: ignore[list-item]  # what no issuer would publish
    assert (await setting.post(setting.bot_token(key_id="good"))).status == 202
    assert refusal(await setting.post(setting.bot_token(key_id="bad"))) == (401, "UnknownKey")
    assert refusal(await setting.post(setting.bot_token(key_id="bot"))) == (401, "UnknownKey")


@pytest.mark.parametrize(
    "keys",
    [[], None, "keys", {"kid": "bot"}, [jwk("bot", BOT_KEY) | {"kty": "EC"}]],
    ids=["empty", "null", "text", "a key alone", "curve"],
)
async def test_a_key_set_without_a_key_replaces_none(setting: Setting, server: KeyServer, keys: Any) -> None:
    assert (await setting.post(setting.bot_token())).status == 202
    server.bot_keys = keys
    await setting.clock.advance(timedelta(hours=25))
    assert (await setting.post(setting.bot_token())).status == 202
    assert server.calls == FETCH * 2
