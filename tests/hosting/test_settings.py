"""What is set, what is missing, and that nothing is read before it is asked for."""

import pytest

from agent_core.errors import SettingsError
from agent_core.hosting.settings import (
    CLIENT_ID,
    CLIENT_SECRET,
    CLOUD,
    TENANT_ID,
    TICKET_KEYS,
    TICKETS,
    TOKEN_SERVICE,
    Settings,
)
from agent_core.turn.user_tokens import OAuthConnection

DEVELOPMENT = {"AZURE_FUNCTIONS_ENVIRONMENT": "Development"}


class Watched(dict[str, str]):
    """An environment that notes what is read of it."""

    def __init__(self, values: dict[str, str]) -> None:
        super().__init__(values)
        self.read: list[str] = []

    def get(self, name: str, default: object = None) -> str | None:  # type: ignore[override]  # only this form is used
        self.read.append(name)
        return super().get(name)


def test_building_settings_reads_nothing() -> None:
    environment = Watched({CLIENT_SECRET: "secret"})
    Settings(environment)
    assert environment.read == []


@pytest.mark.parametrize(
    "mark",
    ["CONTAINER_APP_NAME", "IDENTITY_ENDPOINT", "WEBSITE_INSTANCE_ID", "WEBSITE_POD_NAME", "WEBSITE_SITE_NAME"],
)
def test_p2_9_nothing_in_azure_counts_as_development(mark: str) -> None:
    """P2.9: with any of the platform's marks there is no way to do without tokens."""
    assert Settings(DEVELOPMENT).development
    assert not Settings({**DEVELOPMENT, mark: "x"}).development
    assert not Settings({}).development
    with pytest.raises(SettingsError, match=CLIENT_ID):
        _ = Settings({**DEVELOPMENT, mark: "x"}).app_id


def test_an_app_id_is_optional_in_development_only() -> None:
    assert Settings(DEVELOPMENT).app_id is None
    assert Settings({CLIENT_ID: "app"}).app_id == "app"
    with pytest.raises(SettingsError, match=CLIENT_ID):
        _ = Settings({}).app_id


def test_everything_that_is_missing_is_said_at_once() -> None:
    problems = Settings({}).problems()
    assert len(problems) == 4
    for name in (
        CLIENT_ID,
        "AGENT_TICKET_KEYS",
        "CosmosConnection__accountEndpoint",
        "ServiceBusConnection__fullyQualifiedNamespace",
    ):
        assert any(name in problem for problem in problems), name
    assert Settings(DEVELOPMENT).problems() == []
    assert [TENANT_ID in each for each in Settings({**DEVELOPMENT, CLIENT_ID: "a", CLIENT_SECRET: "s"}).problems()] == [
        True
    ]


def test_an_empty_setting_is_a_missing_one() -> None:
    assert Settings({"CALLBACK_QUEUE": ""}).get("CALLBACK_QUEUE") == "agent-callbacks"
    with pytest.raises(SettingsError, match="NO_SUCH"):
        Settings({"NO_SUCH": ""}).require("NO_SUCH")


@pytest.mark.parametrize("name", ["CosmosConnection", "CosmosConnection__accountEndpoint"])
def test_a_connection_is_a_string_or_an_identity(name: str) -> None:
    assert Settings({name: "x"}).has_cosmos


def test_tickets_are_required_in_azure_and_optional_in_development_unless_the_setting_says() -> None:
    key = "k" * 32
    assert Settings({}).ticket_mode == "required"
    assert Settings(DEVELOPMENT).ticket_mode == "optional"
    assert Settings({**DEVELOPMENT, TICKETS: "Required"}).ticket_mode == "required"
    assert Settings({TICKETS: "off"}).ticket_keys == ()
    assert Settings({TICKET_KEYS: f"{key}, {key.upper()},"}).ticket_keys == (key.encode(), key.upper().encode())
    assert Settings(DEVELOPMENT).ticket_keys == ()


@pytest.mark.parametrize(
    ("values", "words"),
    [({}, TICKET_KEYS), ({TICKET_KEYS: "short"}, "32 characters"), ({TICKETS: "maybe"}, "required, optional, off")],
)
def test_a_problem_with_tickets_is_said_with_what_to_do(values: dict[str, str], words: str) -> None:
    problems = Settings({TICKETS: "required", **DEVELOPMENT, **values}).problems()
    assert len(problems) == 1
    assert words in problems[0]
    assert "short" not in problems[0]


def test_x15_the_token_service_is_the_clouds_unless_another_of_the_bot_services_is_set() -> None:
    assert Settings({}).token_service == "https://api.botframework.com"
    assert Settings({CLOUD: "usgov"}).token_service == "https://api.botframework.azure.us"
    other = {TOKEN_SERVICE: "https://token.botframework.com/"}
    assert Settings(other).token_service == "https://token.botframework.com"
    (problem,) = Settings({**DEVELOPMENT, TOKEN_SERVICE: "https://evil.example"}).problems()
    assert "user token service" in problem
    assert "evil" not in problem


@pytest.mark.parametrize("spelled", ["GRAPH", "graph"])
def test_an_oauth_connection_is_named_in_the_agents_sdks_words(spelled: str) -> None:
    prefix = f"AGENTAPPLICATION__USERAUTHORIZATION__HANDLERS__{spelled}__SETTINGS"
    values = {
        f"{prefix}__AZUREBOTOAUTHCONNECTIONNAME": "GraphOAuth",
        f"{prefix}__TITLE": "Go",
        f"{prefix}__TEXT": "Now",
    }
    assert Settings(values).oauth_connection("graph") == OAuthConnection("graph", "GraphOAuth", "Go", "Now")
    assert Settings({}).oauth_connection("graph") == OAuthConnection("graph", "graph")


@pytest.mark.parametrize("name", ["AGENT_FETCH_HOSTS", "AGENT_PRIVATE_HOSTS"])
def test_p9_1_hosts_are_names_with_commas_between_them(name: str) -> None:
    settings = Settings({name: " Files.contoso.com, cdn.example.co.uk,,xn--bcher-kva.example "})
    found = settings.fetch_hosts if name == "AGENT_FETCH_HOSTS" else settings.private_hosts
    assert found == ("files.contoso.com", "cdn.example.co.uk", "xn--bcher-kva.example")
    assert Settings({}).fetch_hosts == Settings({}).private_hosts == ()


@pytest.mark.parametrize(
    "host",
    [
        "com",
        "*",
        "*.com",
        "*.contoso.com",
        ".com",
        "https://contoso.com",
        "contoso.com/x",
        "contoso.com:8443",
        "contoso.com.",
        "10.0.0.1",
        "0x7f.1",
        "[::1]",
        "localhost",
        "a b.com",
        "b\u00fccher.example",
    ],
)
def test_p9_1_no_wildcard_no_top_level_and_no_address_is_a_host(host: str) -> None:
    settings = Settings({**DEVELOPMENT, "AGENT_FETCH_HOSTS": f"good.example,{host}"})
    with pytest.raises(SettingsError, match="AGENT_FETCH_HOSTS"):
        _ = settings.fetch_hosts
    (problem,) = settings.problems()
    assert "AGENT_FETCH_HOSTS the entry 2 is wrong" in problem
    assert repr(host) not in problem
