"""The agent's credentials: each kind under the Agents SDK's names, and a clear word about every contradiction."""

from pathlib import Path

import pytest

from agent_core.channel.app_credentials import (
    AppCredentials,
    Certificate,
    ClientSecret,
    FederatedIdentity,
    ManagedIdentity,
    WorkloadIdentity,
)
from agent_core.errors import SettingsError
from agent_core.hosting.azure_services import AzureServices
from agent_core.hosting.settings import Settings

PREFIX = "CONNECTIONS__SERVICE_CONNECTION__SETTINGS__"
AUTHORITY = "https://login.microsoftonline.com"


def settings(**values: str) -> Settings:
    """Settings of an app in development, by the last part of their names."""
    given = {"CLIENTID": "app", **values}
    named = {name if name.startswith(("AZURE_", "AGENT_")) else PREFIX + name: given[name] for name in given}
    return Settings({"AZURE_FUNCTIONS_ENVIRONMENT": "Development", **named})


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "file"
    path.write_text("x")
    return str(path)


def test_without_a_kind_it_is_the_one_whose_settings_are_there(file: str) -> None:
    tenant = f"{AUTHORITY}/t"
    path = Path(file)
    found = {
        settings().credentials: AppCredentials("app", ManagedIdentity()),
        settings(CLIENTSECRET="s", TENANTID="t").credentials: AppCredentials("app", ClientSecret("s"), tenant),
        settings(CERTPFXFILE=file, TENANTID="t").credentials: AppCredentials("app", Certificate(path, None), tenant),
        settings(CERTPEMFILE=file, CERTKEYFILE=file, CERTPASSWORD="p", TENANTID="t").credentials: AppCredentials(
            "app", Certificate(path, path, "p"), tenant
        ),
        settings(FEDERATEDCLIENTID="i", TENANTID="t").credentials: AppCredentials(
            "app", FederatedIdentity("i", "api://AzureADTokenExchange"), tenant
        ),
        settings(FEDERATEDTOKENFILE=file, TENANTID="t").credentials: AppCredentials(
            "app", WorkloadIdentity(path), tenant
        ),
    }
    assert list(found) == list(found.values())


@pytest.mark.parametrize(
    ("kind", "proof"),
    [
        ("clientsecret", ClientSecret("s")),
        ("UserManagedIdentity", ManagedIdentity()),
        ("FederatedCredentials", FederatedIdentity("i", "api://AzureADTokenExchange")),
    ],
)
def test_the_kind_may_be_named_as_the_agents_sdk_does(kind: str, proof: object) -> None:
    own = {"clientsecret": {"CLIENTSECRET": "s"}, "FederatedCredentials": {"FEDERATEDCLIENTID": "i"}}.get(kind, {})
    credentials = settings(AUTHTYPE=kind, TENANTID="t", **own).credentials
    assert credentials is not None
    assert credentials.proof == proof


def test_p3_5_a_workload_identitys_file_is_the_platforms_where_none_is_set(file: str) -> None:
    credentials = settings(AUTHTYPE="WorkloadIdentity", TENANTID="t", AZURE_FEDERATED_TOKEN_FILE=file).credentials
    assert credentials is not None
    assert credentials.proof == WorkloadIdentity(Path(file))
    # The platform sets it for other purposes too: alone it decides nothing.
    credentials = settings(CLIENTSECRET="s", TENANTID="t", AZURE_FEDERATED_TOKEN_FILE=file).credentials
    assert credentials is not None
    assert credentials.proof == ClientSecret("s")


@pytest.mark.parametrize(
    ("cloud", "expected"),
    [
        ("public", "https://login.microsoftonline.com/botframework.com"),
        ("usgov", "https://login.microsoftonline.us/MicrosoftServices.onmicrosoft.us"),
        ("china", "https://login.partner.microsoftonline.cn/microsoftservices.partner.onmschina.cn"),
    ],
)
@pytest.mark.parametrize("tenant", ["common", "Organizations"])
def test_p3_1_a_legacy_multi_tenant_bot_gets_its_token_from_the_clouds_own_tenant(
    cloud: str, expected: str, tenant: str
) -> None:
    credentials = settings(CLIENTSECRET="s", TENANTID=tenant, AGENT_CLOUD=cloud).credentials
    assert credentials is not None
    assert credentials.authority == expected


def test_an_authority_of_the_agents_sdk_is_understood() -> None:
    credentials = settings(CLIENTSECRET="s", AUTHORITY=f"{AUTHORITY}/botframework.com/").credentials
    assert credentials is not None
    assert credentials.authority == f"{AUTHORITY}/botframework.com"


def test_the_exchange_is_that_of_the_cloud() -> None:
    credentials = settings(FEDERATEDCLIENTID="i", TENANTID="t", AGENT_CLOUD="usgov").credentials
    assert credentials is not None
    assert credentials.proof == FederatedIdentity("i", "api://AzureADTokenExchangeUSGov")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"CLIENTSECRET": "s"}, ["TENANTID", "botframework.com"]),
        ({"AUTHTYPE": "ClientSecret", "TENANTID": "t"}, ["CLIENTSECRET is missing"]),
        ({"AUTHTYPE": "Certificate", "TENANTID": "t"}, ["CERTKEYFILE is missing", "CERTPEMFILE is missing"]),
        ({"AUTHTYPE": "WorkloadIdentity", "TENANTID": "t"}, ["AZURE_FEDERATED_TOKEN_FILE is missing"]),
        ({"AUTHTYPE": "FederatedCredentials"}, ["FEDERATEDCLIENTID is missing", "TENANTID is missing"]),
        ({"AUTHTYPE": "SystemManagedIdentity"}, ["AUTHTYPE is none of", "UserManagedIdentity"]),
        ({"AUTHTYPE": "UserManagedIdentity", "CLIENTSECRET": "s"}, ["UserManagedIdentity", "CLIENTSECRET"]),
        ({"AUTHTYPE": "ClientSecret", "CLIENTSECRET": "s", "CERTPFXFILE": "x", "TENANTID": "t"}, ["CERTPFXFILE"]),
        ({"CLIENTSECRET": "s", "FEDERATEDCLIENTID": "i", "TENANTID": "t"}, ["ClientSecret, FederatedCredentials"]),
        ({"CERTPFXFILE": "/none", "TENANTID": "t"}, ["CERTPFXFILE names no file"]),
        ({"CERTPFXFILE": "/none", "CERTPEMFILE": "/none", "TENANTID": "t"}, ["but not both"]),
        ({"CLIENTSECRET": "s", "TENANTID": "t/../evil"}, ["TENANTID must be"]),
        ({"CLIENTSECRET": "s", "TENANTID": "t?x"}, ["TENANTID must be"]),
        ({"CLIENTSECRET": "s", "AUTHORITY": "https://evil.example/t"}, ["AUTHORITY must be", AUTHORITY]),
        ({"CLIENTSECRET": "s", "AUTHORITY": "http://login.microsoftonline.com/t"}, ["AUTHORITY must be"]),
        ({"CLIENTSECRET": "s", "AUTHORITY": f"{AUTHORITY}/t/v2.0"}, ["AUTHORITY must be"]),
        ({"CLIENTSECRET": "s", "AUTHORITY": f"{AUTHORITY}/t", "TENANTID": "u"}, ["two tenants"]),
        ({"CLIENTSECRET": "s", "TENANTID": "t", "AGENT_CLOUD": "mars"}, ["AGENT_CLOUD"]),
    ],
)
def test_what_contradicts_itself_is_said_before_anything_fails(values: dict[str, str], said: list[str]) -> None:
    found = settings(**values)
    (problem,) = found.problems()
    for words in said:
        assert words in problem
    with pytest.raises(SettingsError):
        _ = found.credentials


def test_a_secret_in_the_wrong_setting_is_in_no_problem() -> None:
    """Anybody may read the problems at `/api/health/ready`."""
    names = ("AGENT_CLOUD", "AGENT_CALLBACK_TICKETS", "AGENT_TENANTS", "AGENT_CALLERS", "AGENT_FETCH_HOSTS")
    wrong = dict.fromkeys((*names, "AGENT_PRIVATE_HOSTS", "AGENT_TOKEN_SERVICE", "AGENT_TICKET_KEYS"), "canary secret")
    for values in (wrong, {"AUTHTYPE": "canary secret"}, {"CLIENTSECRET": "s", "TENANTID": "canary secret"}):
        problems = " ".join(settings(**values).problems())
        assert "canary" not in problems
        assert all(name in problems for name in values if name.startswith("AGENT_") and "SERVICE" not in name)


async def test_secrets_are_in_no_settings_problem_or_repr(file: str) -> None:
    values = {"CLIENTSECRET": "canary-secret", "CERTPASSWORD": "canary-password", "CERTPFXFILE": file}
    found = settings(**values, TENANTID="t")
    assert "canary" not in " ".join([*found.problems(), repr(found)])
    one = settings(CLIENTSECRET="canary-secret", TENANTID="t")
    services = AzureServices(one)
    assert "canary" not in f"{one.credentials!r} {services._connector!r} {services._connector.__dict__!r}"
    await services.close()


def test_without_an_app_id_there_are_no_credentials() -> None:
    assert Settings({"AZURE_FUNCTIONS_ENVIRONMENT": "Development"}).credentials is None
