"""The settings: which there are, what they mean, and a clear word about each that is missing or wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from agent_core.channel.clouds import CLOUDS, PUBLIC, Cloud
from agent_core.errors import SettingsError
from agent_core.hosting.caller_settings import CALLERS, TENANTS, parse_callers, parse_tenants

# What names the channel's app, in the Agents SDK's words.
CLIENT_ID = "CONNECTIONS__SERVICE_CONNECTION__SETTINGS__CLIENTID"
CLIENT_SECRET = "CONNECTIONS__SERVICE_CONNECTION__SETTINGS__CLIENTSECRET"
TENANT_ID = "CONNECTIONS__SERVICE_CONNECTION__SETTINGS__TENANTID"

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
_AZURE_MARKS = (
    "CONTAINER_APP_NAME",
    "IDENTITY_ENDPOINT",
    "WEBSITE_INSTANCE_ID",
    "WEBSITE_POD_NAME",
    "WEBSITE_SITE_NAME",
)


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
    def tenants(self) -> frozenset[str]:
        """Ids of the tenants whose agents may call, `*` for all; the agent's own unless AGENT_TENANTS says otherwise.

        SettingsError for an entry that is none.
        """
        return parse_tenants(self.get(TENANTS), self.get(TENANT_ID))

    @property
    def callers(self) -> dict[str, tuple[str, ...]]:
        """The agents that may call, by app id in lower case or `*`, and the hosts where each may be answered.

        SettingsError for an entry of AGENT_CALLERS that is none.
        """
        return parse_callers(self.get(CALLERS))

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
        try:
            app_id = self.app_id
        except SettingsError as error:
            app_id = None
            found.append(str(error))
        if app_id is not None and self.get(CLIENT_SECRET) is not None and self.get(TENANT_ID) is None:
            found.append(f"The setting {TENANT_ID} is missing: a client secret belongs to an app of one tenant.")
        try:
            _ = self.cloud
        except SettingsError as error:
            found.append(str(error))
        try:
            if self.callers and not self.tenants:
                found.append(f"The setting {CALLERS} names agents and {TENANTS} no tenant: give the ids of theirs.")
        except SettingsError as error:
            found.append(str(error))
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
