"""What is set, what is missing, and that nothing is read before it is asked for."""

import pytest

from agent_core.errors import SettingsError
from agent_core.hosting.settings import CLIENT_ID, CLIENT_SECRET, TENANT_ID, Settings

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
    assert len(problems) == 3
    for name in (CLIENT_ID, "CosmosConnection__accountEndpoint", "ServiceBusConnection__fullyQualifiedNamespace"):
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
