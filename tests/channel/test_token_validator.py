"""Every check of the Bot Service's token, with real keys from a real key server."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from starlette.responses import Response

from agent_core import Activity, ConversationAccount
from agent_core.channel.http_client import HttpClient
from agent_core.channel.signing_keys import SigningKeys
from agent_core.channel.token_validator import TokenValidator
from agent_core.errors import NotAllowed, NotAuthenticated
from agent_core.testing import ManualClock
from tests.serving import FakeChannel, anywhere, serve

APP_ID = "11111111-2222-3333-4444-555555555555"
SERVICE_URL = "https://smba.trafficmanager.net/emea/"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ACTIVITY = Activity(
    type="message", channel_id="msteams", service_url=SERVICE_URL, conversation=ConversationAccount(id="a:1")
)


def jwks(**keys: rsa.RSAPrivateKey) -> str:
    entries = []
    for key_id, key in keys.items():
        entry = json.loads(RSAAlgorithm.to_jwk(key.public_key()))
        entries.append({**entry, "kid": key_id, "endorsements": ["msteams", "webchat"]})
    return json.dumps({"keys": entries})


class Setting:
    """A validator, its key server and its clock."""

    def __init__(self, url: str, server: FakeChannel, http: HttpClient) -> None:
        self.clock = ManualClock()
        self.server = server
        self.keys = SigningKeys(http, self.clock.now, url + "/keys")
        self.validator = TokenValidator(APP_ID, self.keys, self.clock.now)

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(self.clock.now().timestamp())
        good = {
            "iss": "https://api.botframework.com",
            "aud": APP_ID,
            "exp": now + 3600,
            "nbf": now,
            "serviceurl": SERVICE_URL,
        }
        return {name: value for name, value in {**good, **changes}.items() if value is not None}

    def header(self, key: rsa.RSAPrivateKey = KEY, key_id: str = "k1", **changes: Any) -> str:
        return "Bearer " + jwt.encode(self.claims(**changes), key, algorithm="RS256", headers={"kid": key_id})


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    server = FakeChannel()
    server.answers = [lambda: Response(jwks(k1=KEY), media_type="application/json")] * 3
    http = HttpClient(allow_address=anywhere)
    async with serve(server.app()) as url:
        yield Setting(url, server, http)
        await http.close()


async def test_a_good_token_is_accepted_and_its_keys_are_fetched_once(setting: Setting) -> None:
    for _ in range(3):
        identity = await setting.validator.validate(setting.header(), ACTIVITY)
    assert identity.service_url_verified
    assert identity.persisted() == {"aud": APP_ID, "iss": "https://api.botframework.com"}
    assert len(setting.server.calls) == 1


async def test_the_service_url_may_differ_in_case_port_and_slash(setting: Setting) -> None:
    header = setting.header(serviceurl="HTTPS://SMBA.trafficmanager.net:443/emea")
    await setting.validator.validate(header, ACTIVITY)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"aud": "another"}, "InvalidAudienceError"),
        ({"aud": None}, "MissingRequiredClaimError"),
        ({"exp": None}, "MissingRequiredClaimError"),
        ({"exp": 1}, "ExpiredToken"),
        ({"nbf": 4102444800}, "ImmatureToken"),
        ({"iss": "https://api.botframework.com/"}, "UnknownIssuer"),
        ({"iss": "https://sts.windows.net/x/"}, "UnknownIssuer"),
        ({"iss": None}, "UnknownIssuer"),
    ],
)
async def test_a_token_with_a_wrong_claim_is_refused(setting: Setting, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(NotAuthenticated) as refused:
        await setting.validator.validate(setting.header(**changes), ACTIVITY)
    assert refused.value.code == code


async def test_five_minutes_of_difference_between_clocks_are_tolerated_and_no_more(setting: Setting) -> None:
    header = setting.header()
    await setting.clock.advance(timedelta(seconds=3600 + 299))
    await setting.validator.validate(header, ACTIVITY)
    await setting.clock.advance(timedelta(seconds=2))
    with pytest.raises(NotAuthenticated):
        await setting.validator.validate(header, ACTIVITY)


@pytest.mark.parametrize("changes", [{"serviceurl": "https://smba.trafficmanager.net/amer/"}, {"serviceurl": None}])
async def test_a_token_for_another_service_is_not_allowed(setting: Setting, changes: dict[str, Any]) -> None:
    with pytest.raises(NotAllowed) as refused:
        await setting.validator.validate(setting.header(**changes), ACTIVITY)
    assert refused.value.code == "ServiceUrlMismatch"


async def test_a_key_speaks_only_for_the_channels_it_is_endorsed_for(setting: Setting) -> None:
    with pytest.raises(NotAllowed) as refused:
        await setting.validator.validate(setting.header(), ACTIVITY.replace(channel_id="slack"))
    assert refused.value.code == "ChannelNotEndorsed"


async def test_a_foreign_signature_is_refused(setting: Setting) -> None:
    with pytest.raises(NotAuthenticated) as refused:
        await setting.validator.validate(setting.header(OTHER_KEY), ACTIVITY)
    assert refused.value.code == "InvalidSignatureError"


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer a b", "Bearer a,Bearer b", "Bearer x", "Bearer a.b.c"],
)
async def test_what_is_no_single_bearer_token_is_refused(setting: Setting, header: str | None) -> None:
    with pytest.raises(NotAuthenticated):
        await setting.validator.validate(header, ACTIVITY)
    assert setting.server.calls == []


async def test_only_rs256_counts_whatever_the_header_says(setting: Setting) -> None:
    def segment(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    unsigned = f"Bearer {segment({'alg': 'none', 'kid': 'k1'})}.{segment(setting.claims())}."
    secret = "Bearer " + jwt.encode(setting.claims(), "k" * 32, algorithm="HS256", headers={"kid": "k1"})
    for header in (unsigned, secret):
        with pytest.raises(NotAuthenticated) as refused:
            await setting.validator.validate(header, ACTIVITY)
        assert refused.value.code == "WrongAlgorithm"
    assert setting.server.calls == []


async def test_strangers_cause_no_request(setting: Setting) -> None:
    """An unknown issuer is refused before any key is looked up."""
    with pytest.raises(NotAuthenticated):
        await setting.validator.validate(setting.header(key_id="new", iss="https://evil.example"), ACTIVITY)
    assert setting.server.calls == []


async def test_unknown_keys_are_looked_up_at_most_every_five_minutes(setting: Setting) -> None:
    for number in range(20):
        with pytest.raises(NotAuthenticated):
            await setting.validator.validate(setting.header(key_id=f"random{number}"), ACTIVITY)
    assert len(setting.server.calls) == 1
    setting.server.answers = [lambda: Response(jwks(k1=KEY, k2=OTHER_KEY), media_type="application/json")]
    await setting.clock.advance(timedelta(minutes=6))
    await setting.validator.validate(setting.header(OTHER_KEY, "k2"), ACTIVITY)
    assert len(setting.server.calls) == 2


async def test_old_keys_serve_while_the_key_server_fails(setting: Setting) -> None:
    await setting.validator.validate(setting.header(), ACTIVITY)
    setting.server.answers = [lambda: Response("oops", 500), lambda: Response("not json", 200)]
    await setting.clock.advance(timedelta(hours=25))
    await setting.validator.validate(setting.header(), ACTIVITY)
    assert len(setting.server.calls) == 2


async def test_without_any_key_nobody_comes_in_and_the_next_one_looks_again(setting: Setting) -> None:
    good = setting.server.answers[0]
    setting.server.answers = [lambda: Response("", 503), good]
    with pytest.raises(NotAuthenticated):
        await setting.validator.validate(setting.header(), ACTIVITY)
    await setting.validator.validate(setting.header(), ACTIVITY)


async def test_many_at_a_cold_start_wait_for_the_same_keys(setting: Setting) -> None:
    """Whoever comes while the keys are being fetched must not be told that his key is unknown."""
    await asyncio.gather(*(setting.validator.validate(setting.header(), ACTIVITY) for _ in range(10)))
    assert len(setting.server.calls) == 1


async def test_one_bad_key_does_not_take_the_others_with_it(setting: Setting) -> None:
    good = json.loads(jwks(k1=KEY))["keys"]
    document = json.dumps({"keys": [{"kty": "RSA", "kid": "bad", "n": "AQ", "e": "AQAB"}, *good]})
    setting.server.answers = [lambda: Response(document, media_type="application/json")]
    await setting.validator.validate(setting.header(), ACTIVITY)


async def test_a_service_url_that_is_none_is_another_service(setting: Setting) -> None:
    with pytest.raises(NotAllowed):
        await setting.validator.validate(setting.header(serviceurl="https://[bad/"), ACTIVITY)
