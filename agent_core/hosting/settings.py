"""The settings: which there are, what they mean, and a clear word about each that is missing or wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from agent_core.channel.clouds import CLOUDS, PUBLIC, Cloud, token_service_url
from agent_core.errors import SettingsError
from agent_core.proactive.tickets import TICKET_MODES, TicketMode
from agent_core.turn.user_tokens import OAuthConnection

# What names the channel's app, in the Agents SDK's words.
CLIENT_ID = "CONNECTIONS__SERVICE_CONNECTION__SETTINGS__CLIENTID"
CLIENT_SECRET = "CONNECTIONS__SERVICE_CONNECTION__SETTINGS__CLIENTSECRET"
TENANT_ID = "CONNECTIONS__SERVICE_CONNECTION__SETTINGS__TENANTID"

COSMOS = "CosmosConnection"
SERVICE_BUS = "ServiceBusConnection"

CLOUD = "AGENT_CLOUD"
TOKEN_SERVICE = "AGENT_TOKEN_SERVICE"
# What names the OAuth connections of the Azure Bot, in the Agents SDK's words; the handler's name stands in between.
OAUTH_HANDLERS = "AGENTAPPLICATION__USERAUTHORIZATION__HANDLERS"

TICKETS = "AGENT_CALLBACK_TICKETS"
TICKET_KEYS = "AGENT_TICKET_KEYS"
# A key that can be guessed signs nothing.
MIN_TICKET_KEY = 32

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
    def token_service(self) -> str:
        """The base address of the user token service, the cloud's own if no other is set.

        SettingsError for one that must not receive the agent's token.
        """
        return token_service_url(self.get(TOKEN_SERVICE) or self.cloud.token_service, self.cloud)

    def oauth_connection(self, name: str) -> OAuthConnection:
        """What handlers mean by a name such as `graph`: an OAuth connection, by default one of the same name."""

        def setting(what: str) -> str | None:
            # Environments spell these in upper case.
            prefixes = (f"{OAUTH_HANDLERS}__{each}__SETTINGS" for each in (name.upper(), name))
            return next((found for prefix in prefixes if (found := self.get(f"{prefix}__{what}"))), None)

        given = {"title": setting("TITLE"), "text": setting("TEXT")}
        return OAuthConnection(
            name, setting("AZUREBOTOAUTHCONNECTIONNAME") or name, **{key: text for key, text in given.items() if text}
        )

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

    @property
    def ticket_mode(self) -> TicketMode:
        """Whether callbacks need a ticket: in Azure they do, unless the setting says otherwise."""
        said = (self.get(TICKETS) or ("optional" if self.development else "required")).lower()
        for mode in TICKET_MODES:
            if said == mode:
                return mode
        raise SettingsError(f"The setting {TICKETS} is {said!r}; use one of: {', '.join(TICKET_MODES)}")

    @property
    def ticket_keys(self) -> tuple[bytes, ...]:
        """What signs tickets, the newest first. SettingsError: one is too short, or one is needed and missing."""
        keys = [key.strip() for key in (self.get(TICKET_KEYS) or "").split(",") if key.strip()]
        advice = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        if any(len(key) < MIN_TICKET_KEY for key in keys):
            raise SettingsError(f"A key in {TICKET_KEYS} has less than {MIN_TICKET_KEY} characters; {advice}")
        if not keys and self.ticket_mode == "required":
            raise SettingsError(
                f"The setting {TICKET_KEYS} is missing, and callbacks need tickets that are signed; {advice}. "
                f"Or let whoever may publish continue any conversation: {TICKETS}=off"
            )
        return tuple(key.encode() for key in keys)

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
            _ = self.token_service
        except SettingsError as error:
            found.append(str(error))
        try:
            _ = self.ticket_mode, self.ticket_keys
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
