"""The settings: which there are, what they mean, and a clear word about each that is missing or wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from agent_core.channel.app_credentials import AppCredentials
from agent_core.channel.clouds import CLOUDS, PUBLIC, Cloud
from agent_core.errors import SettingsError
from agent_core.hosting.credential_settings import CLIENT_ID as CLIENT_ID
from agent_core.hosting.credential_settings import CLIENT_SECRET as CLIENT_SECRET
from agent_core.hosting.credential_settings import TENANT_ID as TENANT_ID
from agent_core.hosting.credential_settings import app_credentials

COSMOS = "CosmosConnection"
SERVICE_BUS = "ServiceBusConnection"

CLOUD = "AGENT_CLOUD"

DEFAULTS = {
    "CALLBACK_QUEUE": "agent-callbacks",
    "WORK_QUEUE": "agent-work",
    "COSMOS_DATABASE": "agent",
    "AGENT_LOCAL_DATA": ".local",
    CLOUD: PUBLIC.name,
}

# Set by the platform wherever the app runs in Azure: with one of them nothing counts as development.
_AZURE_MARKS = ("WEBSITE_INSTANCE_ID", "WEBSITE_SITE_NAME", "WEBSITE_POD_NAME")


class Settings:
    """The app's settings, read from the environment when they are first asked for, not before.

    An identity-based connection is a group of settings with one prefix, as the Functions host reads them too:
    `CosmosConnection__accountEndpoint`, `__credential`, `__clientId`.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    @classmethod
    def from_environment(cls) -> Settings:
        """The process's environment; nothing of it is read yet."""
        return cls(os.environ)

    def get(self, name: str) -> str | None:
        """A setting's value or default; an empty one counts as missing."""
        return self._values.get(name) or DEFAULTS.get(name)

    def require(self, name: str) -> str:
        """Like `get`, but SettingsError where there is none."""
        value = self.get(name)
        if value is None:
            raise SettingsError(f"The setting {name} is missing")
        return value

    @cached_property
    def development(self) -> bool:
        """A process on a developer's machine: Core Tools and the local engine say so, and nothing of Azure is about."""
        said = (self.get("AZURE_FUNCTIONS_ENVIRONMENT") or "").lower() == "development"
        return said and not any(self.get(mark) for mark in _AZURE_MARKS)

    @property
    def app_id(self) -> str | None:
        """The agent's app id. Missing is allowed in development only."""
        app_id = self.get(CLIENT_ID)
        if app_id is None and not self.development:
            raise SettingsError(
                f"The setting {CLIENT_ID} is missing: give the app id of the Azure Bot. "
                "Without it only a development process (AZURE_FUNCTIONS_ENVIRONMENT=Development) answers."
            )
        return app_id

    @property
    def cloud(self) -> Cloud:
        """The Microsoft cloud that the Azure Bot is in; SettingsError for a name that is none."""
        name = self.require(CLOUD).lower()
        if name not in CLOUDS:
            raise SettingsError(f"The setting {CLOUD} is {name!r}; use one of: {', '.join(CLOUDS)}")
        return CLOUDS[name]

    @property
    def credentials(self) -> AppCredentials | None:
        """As whom the agent speaks; None in development without an app id. SettingsError for a contradiction."""
        app_id = self.app_id
        return None if app_id is None else app_credentials(self.get, app_id, self.cloud)

    @property
    def local_data(self) -> Path:
        """The folder for the embedded store and queue."""
        return Path(self.require("AGENT_LOCAL_DATA"))

    def has_connection(self, prefix: str, endpoint: str) -> bool:
        """Whether a connection is set, by connection string or by the endpoint of an identity-based one."""
        return self.get(prefix) is not None or self.get(f"{prefix}__{endpoint}") is not None

    @property
    def has_cosmos(self) -> bool:
        """Whether documents go to Cosmos DB."""
        return self.has_connection(COSMOS, "accountEndpoint")

    @property
    def has_service_bus(self) -> bool:
        """Whether messages go to Azure Service Bus."""
        return self.has_connection(SERVICE_BUS, "fullyQualifiedNamespace")

    def problems(self) -> list[str]:
        """Everything that is missing or contradicts itself, at once."""
        found = []
        for name in ("cloud", "credentials"):
            try:
                getattr(self, name)
            except SettingsError as error:
                found += [str(error)] if str(error) not in found else []
        if not self.development and not self.has_cosmos:
            found.append(missing_connection(COSMOS, "accountEndpoint", "Cosmos DB"))
        if not self.development and not self.has_service_bus:
            found.append(missing_connection(SERVICE_BUS, "fullyQualifiedNamespace", "Service Bus"))
        return found


def missing_connection(prefix: str, endpoint: str, service: str) -> str:
    """What to say where a connection is needed and there is none."""
    return (
        f"No connection to {service}: set {prefix}__{endpoint} (with {prefix}__credential=managedidentity), "
        f"or {prefix} to a connection string. Only a development process works without."
    )
