"""How the agent proves who it is: each kind of credentials against a real token endpoint, and what failures say."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12
from starlette.responses import Response

from agent_core.channel.app_credentials import (
    AppCredentials,
    Certificate,
    ClientSecret,
    FederatedIdentity,
    ManagedIdentity,
    Proof,
    WorkloadIdentity,
)
from agent_core.channel.http_client import HttpClient
from agent_core.channel.msal_client import MsalClient
from agent_core.channel.token_provider import AgenticIdentity
from agent_core.errors import ChannelError
from tests.channel.identity_provider import IdentityProvider, SelfSigned, replies, self_signed, trusting, x5c_key
from tests.serving import anywhere

SCOPE = "https://api.botframework.com/.default"
SECRET = "canary-secret"


class Setting:
    """A token endpoint in Azure's place."""

    def __init__(self, provider: IdentityProvider, http: HttpClient, folder: Path) -> None:
        self.provider = provider
        self.http = http
        self.folder = folder

    def client(self, proof: Proof, tenant: str = "tenant", timeout: float = 5) -> MsalClient:
        credentials = AppCredentials("the-app", proof, f"{self.provider.url}/{tenant}")
        return MsalClient(credentials, self.http, lambda: datetime.now(UTC), timeout=timedelta(seconds=timeout))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> SelfSigned:
    return self_signed(tmp_path_factory.mktemp("server"))


@pytest.fixture
async def setting(server: SelfSigned, tmp_path: Path) -> AsyncIterator[Setting]:
    provider = IdentityProvider()
    http = HttpClient(allow_address=anywhere, ssl_context=trusting(server), connect_timeout=5)
    async with provider.serve(server):
        yield Setting(provider, http, tmp_path)
        await http.close()


@pytest.fixture
async def platform(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[IdentityProvider]:
    """The endpoint that gives an app in Azure its managed identity's tokens."""
    platform = IdentityProvider(prefix="canary-assertion-")
    async with platform.serve() as url:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{url}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "canary-header")
        yield platform


async def test_p3_1_a_client_secret_gets_a_token_from_the_apps_own_tenant(setting: Setting) -> None:
    token = await setting.client(ClientSecret(SECRET)).acquire(SCOPE)
    assert token.value == "canary-token-1"
    assert timedelta(minutes=59) < token.expires_at - token.acquired_at <= timedelta(hours=1)
    (asked,) = setting.provider.asked
    assert asked["grant_type"] == "client_credentials"
    assert (asked["client_id"], asked["client_secret"], asked["scope"]) == ("the-app", SECRET, SCOPE)
    assert asked["tenant"] == "tenant"


async def test_p3_1_p3_2_a_legacy_multi_tenant_bot_asks_the_tenant_of_the_bot_service(setting: Setting) -> None:
    await setting.client(ClientSecret(SECRET), tenant="botframework.com").acquire(SCOPE)
    assert setting.provider.asked[0]["tenant"] == "botframework.com"


async def test_nobody_is_asked_whether_the_authority_is_microsofts(setting: Setting) -> None:
    """The provider's address is none that MSAL knows; it asks for its metadata, once, and nothing else."""
    client = setting.client(ClientSecret(SECRET))
    await client.acquire(SCOPE)
    await client.acquire("other/.default")
    assert setting.provider.discovered == ["/tenant/v2.0/.well-known/openid-configuration"]


async def test_p3_7_each_acquire_is_a_new_token(setting: Setting) -> None:
    """MSAL's own cache would make a forced refresh impossible."""
    client = setting.client(ClientSecret(SECRET))
    assert [(await client.acquire(SCOPE)).value for _ in range(2)] == ["canary-token-1", "canary-token-2"]


@pytest.mark.parametrize("password", [None, "canary-password"])
async def test_p3_4_a_certificate_in_pem_signs_and_is_sent_along(setting: Setting, password: str | None) -> None:
    """x5c lets Entra trust by subject name and issuer (SNI); without it only the registered certificate is known."""
    own = self_signed(setting.folder, "agent", password)
    await setting.client(Certificate(own.key_file, own.certificate_file, password)).acquire(SCOPE)
    check_assertion(setting.provider, own)


async def test_p3_4_a_certificate_in_a_pfx_signs_and_is_sent_along(setting: Setting) -> None:
    own = self_signed(setting.folder, "agent")
    pfx = setting.folder / "agent.pfx"
    encryption = BestAvailableEncryption(b"canary-password")
    pfx.write_bytes(pkcs12.serialize_key_and_certificates(b"agent", own.key, own.certificate, None, encryption))
    await setting.client(Certificate(pfx, None, "canary-password")).acquire(SCOPE)
    check_assertion(setting.provider, own)


def check_assertion(provider: IdentityProvider, own: SelfSigned) -> None:
    (asked,) = provider.asked
    assert asked["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    assertion = asked["client_assertion"]
    header = jwt.get_unverified_header(assertion)
    key = x5c_key(header["x5c"][0])
    assert key == own.certificate.public_key()
    claims = jwt.decode(
        assertion, key, algorithms=["PS256"], audience=f"{provider.url}/tenant/oauth2/v2.0/token", issuer="the-app"
    )
    assert claims["sub"] == "the-app"


async def test_a_certificate_that_was_renewed_is_read_again_after_a_refusal(setting: Setting) -> None:
    own = self_signed(setting.folder, "agent")
    client = setting.client(Certificate(own.key_file, own.certificate_file))
    setting.provider.answers = [replies(401, {"error": "invalid_client", "error_codes": [700027]})]
    with pytest.raises(ChannelError, match="AADSTS700027"):
        await client.acquire(SCOPE)
    renewed = self_signed(setting.folder, "agent")
    setting.provider.asked.clear()
    await client.acquire(SCOPE)
    check_assertion(setting.provider, renewed)


async def test_p3_3_a_managed_identity_asks_the_platform_for_the_resource(
    setting: Setting, platform: IdentityProvider
) -> None:
    token = await setting.client(ManagedIdentity()).acquire(SCOPE)
    assert token.value == "canary-assertion-1"
    (asked,) = platform.asked
    assert (asked["client_id"], asked["resource"]) == ("the-app", "https://api.botframework.com")
    assert asked["header"] == "canary-header"
    assert setting.provider.asked == []


async def test_p3_5_a_federated_identity_trades_the_platforms_token(
    setting: Setting, platform: IdentityProvider
) -> None:
    client = setting.client(FederatedIdentity("the-identity", "api://AzureADTokenExchange"))
    assert (await client.acquire(SCOPE)).value == "canary-token-1"
    assert (await client.acquire(SCOPE)).value == "canary-token-2"
    assert [(each["client_id"], each["resource"]) for each in platform.asked] == [
        ("the-identity", "api://AzureADTokenExchange")
    ] * 2
    assert [each["client_assertion"] for each in setting.provider.asked] == platform.tokens, "a fresh one each time"
    assert setting.provider.asked[0]["client_id"] == "the-app"


async def test_a_federated_identity_that_the_platform_does_not_know_is_named(
    setting: Setting, platform: IdentityProvider
) -> None:
    platform.answers = [replies(400, {"statusCode": 400, "message": "canary"})]
    with pytest.raises(ChannelError, match="the-identity") as refused:
        await setting.client(FederatedIdentity("the-identity", "api://AzureADTokenExchange")).acquire(SCOPE)
    assert refused.value.decision == "misconfigured"
    assert setting.provider.asked == []


async def test_p3_5_a_workload_identitys_token_is_read_anew_each_time(setting: Setting) -> None:
    file = setting.folder / "token"
    client = setting.client(WorkloadIdentity(file))
    for assertion in ("first", "second"):
        file.write_text(assertion + "\n")
        await client.acquire(SCOPE)
    assert [each["client_assertion"] for each in setting.provider.asked] == ["first", "second"]
    file.unlink()
    with pytest.raises(ChannelError, match="FileNotFoundError") as missing:
        await client.acquire(SCOPE)
    assert missing.value.decision == "misconfigured"


EXCHANGE = "api://AzureAdTokenExchange/.default"


@pytest.mark.parametrize("user", ["the-user", None])
async def test_p3_8_an_agentic_identity_proves_itself_step_by_step(setting: Setting, user: str | None) -> None:
    """The app's token for its instance, the instance's token, and its user's, all from the tenant it is in."""
    identity = AgenticIdentity("customer", "the-instance", user, "apx/.default")
    token = await setting.client(ClientSecret(SECRET)).acquire(identity)
    app, instance, *of_user = setting.provider.asked
    assert {each["tenant"] for each in setting.provider.asked} == {"customer"}
    assert (app["client_id"], app["client_secret"], app["scope"]) == ("the-app", SECRET, EXCHANGE)
    assert app["fmi_path"] == "the-instance"
    assert (instance["client_id"], instance["scope"]) == ("the-instance", EXCHANGE)
    assert instance["client_assertion"] == "canary-token-1"
    if user is None:
        assert (token.value, of_user) == ("canary-token-2", [])
        return
    (last,) = of_user
    assert (last["grant_type"], last["user_id"], last["scope"]) == ("user_fic", "the-user", "apx/.default")
    assert (last["client_id"], last["client_assertion"]) == ("the-instance", "canary-token-1")
    assert last["user_federated_identity_credential"] == "canary-token-2"
    assert token.value == "canary-token-3"


async def test_p3_8_each_refused_step_is_the_end(setting: Setting, platform: IdentityProvider) -> None:
    identity = AgenticIdentity("customer", "the-instance", "the-user", "apx/.default")
    for step in range(3):
        setting.provider.asked.clear()
        refusal = replies(401, {"error": "invalid_client", "error_description": "canary"})
        setting.provider.answers = [replies(200, {"access_token": "t", "expires_in": 9})] * step + [refusal]
        with pytest.raises(ChannelError, match="invalid_client") as refused:
            await setting.client(ClientSecret(SECRET)).acquire(identity)
        assert (refused.value.decision, len(setting.provider.asked)) == ("misconfigured", step + 1)
    with pytest.raises(ChannelError, match="FederatedCredentials"):
        await setting.client(ManagedIdentity()).acquire(identity)
    assert platform.asked == []


@pytest.mark.parametrize(
    ("status", "body", "headers", "decision", "seconds"),
    [
        (401, {"error": "invalid_client", "error_description": f"{SECRET} is wrong"}, {}, "misconfigured", None),
        (400, {"error": f"<{SECRET}>"}, {}, "misconfigured", None),
        (400, {"error": "unauthorized_client", "error_codes": "x"}, {}, "misconfigured", None),
        (200, {"access_token": "a\r\nb: c", "expires_in": 1}, {}, "misconfigured", None),
        (200, {"access_token": "t", "expires_in": "soon"}, {}, "misconfigured", None),
        (400, {"error": "temporarily_unavailable"}, {}, "unsent", None),
        (429, {"error": "too_many"}, {"retry_after": "7"}, "throttled", 7),
        (429, None, {}, "throttled", None),
        (503, None, {"retry_after": "2.5"}, "unsent", 2.5),
        (500, {"error": "server_error"}, {}, "unsent", None),
        (302, None, {"location": "http://127.0.0.1:9/canary"}, "unsent", None),
    ],
)
async def test_each_failure_says_what_it_calls_for_and_never_a_secret(
    setting: Setting,
    status: int,
    body: object,
    headers: dict[str, str],
    decision: str,
    seconds: float | None,
) -> None:
    client = setting.client(ClientSecret(SECRET))
    setting.provider.answers = [replies(status, body, **headers)]
    with pytest.raises(ChannelError) as failed:
        await client.acquire(SCOPE)
    error = failed.value
    assert error.decision == decision
    assert error.retry_after == (None if seconds is None else timedelta(seconds=seconds))
    assert "canary" not in f"{error!r} {error} {error.__dict__}"
    assert (error.__cause__, error.__context__) == (None, None)
    assert (await client.acquire(SCOPE)).value, "and the next time it may be given"


async def test_an_endpoint_that_is_not_reached_leaves_the_message_unsent(setting: Setting) -> None:
    credentials = AppCredentials("the-app", ClientSecret(SECRET), "https://127.0.0.1:9/tenant")
    with pytest.raises(ChannelError) as unreached:
        await MsalClient(credentials, setting.http, lambda: datetime.now(UTC)).acquire(SCOPE)
    assert unreached.value.decision == "unsent"


async def test_a_hanging_endpoint_costs_its_time_and_leaves_no_thread(setting: Setting) -> None:
    released = asyncio.Event()

    async def hang() -> Response:
        await released.wait()
        return setting.provider.grant()

    client = setting.client(ClientSecret(SECRET), timeout=0.8)
    await client.acquire(SCOPE)
    threads = threading.active_count()
    for _ in range(3):
        setting.provider.answers = [hang]
        began = asyncio.get_running_loop().time()
        with pytest.raises(ChannelError) as hung:
            await client.acquire(SCOPE)
        assert hung.value.decision == "unsent"
        assert asyncio.get_running_loop().time() - began < 4
    assert (await client.acquire(SCOPE)).value == "canary-token-2"
    released.set()
    assert threading.active_count() <= threads + 1


async def test_no_secret_is_in_any_log_repr_or_error(
    setting: Setting, platform: IdentityProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """Canaries in every setting, header and body, with every logger at DEBUG: also MSAL's, httpcore's and asyncio's."""
    for name in (None, "msal", "urllib3", "httpcore", "httpx", "asyncio", "agent_core"):
        caplog.set_level(logging.DEBUG, logger=name)
    own = self_signed(setting.folder, "agent", "canary-password")
    file = setting.folder / "token"
    file.write_text("canary-workload")
    shown = []
    proofs: list[Proof] = [
        ClientSecret(SECRET),
        Certificate(own.key_file, own.certificate_file, "canary-password"),
        Certificate(own.key_file, own.certificate_file, "canary-wrong-password"),
        FederatedIdentity("the-identity", "api://AzureADTokenExchange"),
        WorkloadIdentity(file),
        ManagedIdentity(),
    ]
    canary = {"error": "invalid_client", "error_description": "canary-said", "access": "canary-body"}
    for proof in proofs:
        client = setting.client(proof)
        for provider in (setting.provider, platform):
            provider.answers = []
        for answers in ([], [replies(401, canary)], [replies(200, text="canary-html")], [replies(500, canary)]):
            setting.provider.answers = list(answers)
            platform.answers = [] if isinstance(proof, FederatedIdentity) else list(answers)
            try:
                shown.append(repr(await client.acquire(SCOPE)))
            except ChannelError as error:
                shown.append(f"{error!r} {error.__dict__} {error.__cause__!r} {error.__context__!r}")
        shown += [repr(client), repr(client._credentials)]
    messages = [record.getMessage() + str(record.exc_info or "") for record in caplog.records]
    assert any("httpcore" in record.name for record in caplog.records), "everything is logged"
    assert len(shown) == len(proofs) * 6
    assert not [text for text in shown + messages if "canary" in text]
