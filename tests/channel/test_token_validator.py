"""Who is let in, and who is not: good tokens of each kind and cloud, and each rule at its edge."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from agent_core.channel.clouds import CLOUDS, US_GOVERNMENT, Cloud
from tests.channel.token_issuers import (
    APP_ID,
    BOT_KEY,
    ENTRA_KEY,
    OTHER_TENANT,
    PARENT,
    PARENT_URL,
    STRANGER,
    TENANT,
    TENANT_KEY,
    WEBCHAT_KEY,
    Issuers,
    Setting,
    jwk,
    refusal,
    running_issuers,
)

EVERY_CLOUD = pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS)


@pytest.fixture(scope="module")
async def issuers() -> AsyncIterator[Issuers]:
    async with running_issuers() as issuers:
        yield issuers


@pytest.fixture
def setting(issuers: Issuers) -> Setting:
    return issuers.setting()


@EVERY_CLOUD
async def test_p1_6_the_bot_service_is_let_in_and_named(issuers: Issuers, cloud: Cloud) -> None:
    """P1.6, P2.2: the specification has no `callerId` for the Bot Service in China."""
    names = {"public": "urn:botframework:azure", "usgov": "urn:botframework:azureusgov", "china": None}
    setting = issuers.setting(cloud=cloud, callers={}, tenants=frozenset())
    answer = await setting.post(setting.bot_token(), callerId="urn:botframework:aadappid:evil")
    assert answer.status == 202
    assert [each.caller_id for each in setting.handled] == [names[cloud.name]]
    assert setting.server.calls == ["/bot/openid", "/bot/keys"]


@EVERY_CLOUD
@pytest.mark.parametrize("version", [1, 2])
async def test_p2_7_an_agent_is_let_in_with_a_token_of_entra(issuers: Issuers, cloud: Cloud, version: int) -> None:
    """P2.7, P2.8, P8.1: the caller is `appid` in version 1 and `azp` in version 2."""
    setting = issuers.setting(cloud=cloud)
    assert (await setting.post_as_agent(setting.entra_token(version=version))).status == 202
    assert [each.caller_id for each in setting.handled] == [f"urn:botframework:aadappid:{PARENT}"]
    assert setting.server.calls == ["/entra/openid", "/entra/keys"]


@EVERY_CLOUD
async def test_tokens_of_one_cloud_prove_nothing_in_another(issuers: Issuers, cloud: Cloud) -> None:
    for other in CLOUDS.values():
        setting = issuers.setting(cloud=cloud)
        setting.cloud = other
        answer = await setting.post(setting.bot_token())
        if other is cloud:
            assert answer.status == 202
        else:
            assert refusal(answer) == (401, "UnknownIssuer")
            assert setting.server.calls == []


@pytest.mark.parametrize("audience", [APP_ID.upper(), f"api://{APP_ID}", f"api://botid-{APP_ID}", [APP_ID]], ids=str)
async def test_p2_2_the_audience_is_the_app_id_in_any_of_its_forms(setting: Setting, audience: Any) -> None:
    """P2.2; whichever it is, the caller's identity has the app id, and the parent is not taken for the agent itself."""
    token = setting.entra_token(aud=audience)
    identity = await setting.validator.validate(token, setting.activity_of_agent())
    assert identity.claims["aud"] == APP_ID
    assert identity.calling_agent == PARENT
    own = setting.entra_token(aud=audience, appid=APP_ID)
    assert refusal(await setting.post_as_agent(own)) == (403, "OwnToken")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_p2_1_the_scheme_may_be_written_in_any_case(setting: Setting, scheme: str) -> None:
    answer = await setting.post(setting.bot_token().replace("Bearer", scheme))
    assert answer.status == 202


@pytest.mark.parametrize(
    ("claim", "seconds", "expected"),
    [
        ("exp", -299, 202),
        ("exp", -301, "ExpiredToken"),
        ("nbf", 299, 202),
        ("nbf", 301, "ImmatureToken"),
        ("iat", 299, 202),
        ("iat", 301, "ImmatureToken"),
    ],
)
async def test_p2_4_clocks_may_differ_by_five_minutes_and_no_more(
    setting: Setting, claim: str, seconds: int, expected: object
) -> None:
    changes: dict[str, Any] = {claim: setting.seconds + seconds}
    token = setting.bot_token(**changes)
    answer = await setting.post(token)
    assert expected in (answer.status, refusal(answer)[1] if answer.body else None)


async def test_p2_4_time_is_checked_by_the_clock_each_time(setting: Setting) -> None:
    token = setting.bot_token()
    await setting.clock.advance(timedelta(seconds=3600 + 299))
    assert (await setting.post(token)).status == 202
    await setting.clock.advance(timedelta(seconds=2))
    assert refusal(await setting.post(token)) == (401, "ExpiredToken")


@pytest.mark.parametrize(
    "claimed",
    [
        "HTTPS://SMBA.trafficmanager.net/emea/",
        "https://smba.trafficmanager.net:443/emea/",
        "https://smba.trafficmanager.net/emea",
    ],
)
async def test_p2_5_the_service_url_may_differ_in_case_port_and_slash(setting: Setting, claimed: str) -> None:
    assert (await setting.post(setting.bot_token(serviceurl=claimed))).status == 202


async def test_p2_6_a_channel_with_a_part_below_it_needs_the_endorsement_of_its_base(setting: Setting) -> None:
    assert (await setting.post(setting.bot_token(), channelId="msteams:COPILOT")).status == 202


async def test_p2_6_a_key_without_endorsements_may_speak_for_every_channel(setting: Setting) -> None:
    setting.server.bot_keys = [jwk("bot", BOT_KEY)]
    assert (await setting.post(setting.bot_token(), channelId="slack")).status == 202


async def test_p2_7_only_agents_of_named_tenants_may_call(issuers: Issuers) -> None:
    """P2.7: for one tenant, several, and all of the same cloud."""
    changes: dict[str, Any] = {"iss": f"https://sts.windows.net/{OTHER_TENANT}/", "tid": OTHER_TENANT}
    for tenants, expected in (
        (frozenset({TENANT}), 401),
        (frozenset({TENANT, OTHER_TENANT}), 202),
        (frozenset({"*"}), 202),
    ):
        setting = issuers.setting(tenants=tenants)
        answer = await setting.post_as_agent(setting.entra_token(**changes))
        assert (answer.status, expected) in ((202, 202), (401, 401))
        assert len(setting.server.calls) == (2 if expected == 202 else 0)


async def test_p2_7_a_key_for_one_tenant_signs_for_no_other(issuers: Issuers) -> None:
    """Entra's common key set may have keys with an issuer of their own."""
    setting = issuers.setting(tenants=frozenset({"*"}))
    token = setting.entra_token(TENANT_KEY, "other tenant")
    assert refusal(await setting.post_as_agent(token)) == (401, "WrongKey")
    for version, issuer in ((1, "https://sts.windows.net/{}/"), (2, "https://login.microsoftonline.com/{}/v2.0")):
        theirs = setting.entra_token(
            TENANT_KEY, "other tenant", version, iss=issuer.format(OTHER_TENANT), tid=OTHER_TENANT
        )
        assert (await setting.post_as_agent(theirs)).status == 202


async def test_p2_8_nobodys_agent_is_let_in_by_default(issuers: Issuers) -> None:
    setting = issuers.setting(callers={})
    assert refusal(await setting.post_as_agent(setting.entra_token())) == (403, "CallerNotAllowed")


async def test_p2_8_an_asterisk_lets_every_agent_in_of_the_tenants(issuers: Issuers) -> None:
    setting = issuers.setting(callers={"*": ("contoso.com",), STRANGER: ()})
    assert (await setting.post_as_agent(setting.entra_token())).status == 202
    # An entry of its own counts instead.
    stranger = setting.entra_token(appid=STRANGER)
    assert refusal(await setting.post_as_agent(stranger)) == (403, "ServiceUrlNotAllowed")


@pytest.mark.parametrize(
    ("service_url", "verified"),
    [
        (PARENT_URL, True),
        ("https://contoso.com", True),
        ("https://PARENT.contoso.com:443/x", True),
        ("https://evilcontoso.com/", False),
        ("https://contoso.com.evil.example/", False),
        ("https://contoso.com@evil.example/", False),
        ("https://contoso.com:8443/", False),
        ("http://contoso.com/", False),
        ("https://contoso.com\\@evil.example/", False),
        ("https://smba.trafficmanager.net/emea/", False),
        (None, False),
    ],
)
async def test_p8_7_an_agent_is_answered_at_the_hosts_that_are_set_for_it(
    setting: Setting, service_url: str | None, verified: bool
) -> None:
    """P8.7: its token says nothing of its serviceUrl, so only the settings can."""
    token = setting.entra_token()
    answer = await setting.post_as_agent(token, serviceUrl=service_url)
    assert (answer.status == 202) == verified
    if not verified:
        assert refusal(answer) == (403, "ServiceUrlNotAllowed")
        assert setting.handled == []
    # Replies in the answer go to whoever asked, and nowhere else.
    replies = await setting.post_as_agent(token, id="2", serviceUrl=service_url, deliveryMode="expectReplies")
    assert replies.status == 200
    stored = await setting.agent.proactive.get_conversation("c1")
    assert stored is not None
    assert stored.identity.service_url_verified == verified


@pytest.mark.parametrize("service_url", ["http://localhost:52123/", "http://127.0.0.1:9/", PARENT_URL])
async def test_p2_8_the_agents_own_token_counts_in_development_only(issuers: Issuers, service_url: str) -> None:
    setting = issuers.setting(development=True)
    token = setting.entra_token(appid=APP_ID)
    identity = await setting.validator.validate(token, setting.activity_of_agent().replace(service_url=service_url))
    assert identity.service_url_verified == (service_url != PARENT_URL)
    assert identity.calling_agent is None
    setting = issuers.setting()
    token = setting.entra_token(appid=APP_ID)
    assert refusal(await setting.post_as_agent(token, serviceUrl=service_url)) == (403, "OwnToken")


async def test_what_is_kept_of_a_token_proves_nothing(setting: Setting) -> None:
    identity = await setting.validator.validate(setting.entra_token(secret="s"), setting.activity_of_agent())
    assert set(identity.persisted()) == {"iss", "aud", "tid", "ver", "appid", "idtyp"}
    assert "secret" not in repr(identity)


async def test_the_two_issuers_keys_are_apart(setting: Setting) -> None:
    """P2.3: a key of Entra signs for no channel, and one of the Bot Service for no agent."""
    await setting.warm_up()
    for answer in (
        await setting.post(setting.bot_token(ENTRA_KEY, "entra")),
        await setting.post_as_agent(setting.entra_token(BOT_KEY, "bot")),
    ):
        assert refusal(answer) == (401, "UnknownKey")


async def test_a_key_of_one_channel_speaks_for_no_other(setting: Setting) -> None:
    """P2.6: who may sign for Web Chat cannot say that a message is from Teams."""
    token = setting.bot_token(WEBCHAT_KEY, "webchat")
    assert refusal(await setting.post(token)) == (403, "ChannelNotEndorsed")
    assert (await setting.post(token, channelId="webchat")).status == 202


async def test_many_callers_at_a_cold_start_wait_for_the_same_keys(setting: Setting) -> None:
    """P2.10: whoever comes while the keys are being fetched must not be told that his key is unknown."""
    answers = await asyncio.gather(*(setting.post(setting.bot_token(), id=str(number)) for number in range(20)))
    assert {answer.status for answer in answers} == {202}
    assert setting.server.calls == ["/bot/openid", "/bot/keys"]


async def test_the_government_has_addresses_of_its_own() -> None:
    """P2.2: the key sets are at fixed addresses, apart for each cloud."""
    hosts = {address.split("/")[2] for cloud in CLOUDS.values() for address in addresses(cloud)}
    assert len(hosts) == 6
    assert "https://login.botframework.azure.us/v1/.well-known/openidconfiguration" in addresses(US_GOVERNMENT)


def addresses(cloud: Cloud) -> list[str]:
    return [cloud.bot_service_metadata, cloud.entra_metadata]
