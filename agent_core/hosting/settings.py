"""The settings: which there are, what they mean, and a clear word about each that is missing or wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from agent_core.channel.clouds import CLOUDS, PUBLIC, Cloud, token_service_url
from agent_core.errors import SettingsError
from agent_core.hosting.caller_settings import CALLERS, TENANTS, parse_callers, parse_tenants
from agent_core.hosting.credential_settings import CLIENT_ID as CLIENT_ID
from agent_core.hosting.credential_settings import CLIENT_SECRET as CLIENT_SECRET
from agent_core.hosting.credential_settings import TENANT_ID as TENANT_ID
from agent_core.hosting.credential_settings import app_credentials
from agent_core.turn.user_tokens import OAuthConnection

if TYPE_CHECKING:  # loaded when a token or a ticket is needed, so that a cold start is spared them
    from agent_core.channel.app_credentials import AppCredentials
    from agent_core.proactive.tickets import TicketMode

COSMOS = "CosmosConnection"
SERVICE_BUS = "ServiceBusConnection"

CLOUD = "AGENT_CLOUD"
TOKEN_SERVICE = "AGENT_TOKEN_SERVICE"
# What names the OAuth connections of the Azure Bot, in the Agents SDK's words; the handler's name stands in between.
OAUTH_HANDLERS = "AGENTAPPLICATION__USERAUTHORIZATION__HANDLERS"

SESSIONS = "CALLBACK_SESSIONS"

TICKETS = "AGENT_CALLBACK_TICKETS"
TICKET_KEYS = "AGENT_TICKET_KEYS"
# A key that can be guessed signs nothing.
MIN_TICKET_KEY = 32
# Host names, with commas between them; each stands for itself and everything below it.
FETCH_HOSTS = "AGENT_FETCH_HOSTS"
PRIVATE_HOSTS = "AGENT_PRIVATE_HOSTS"

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

# Two labels at least, and the last one no number: not all of `.com`, no wildcard, no address.
_HOST = re.compile(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]([a-z0-9-]*[a-z0-9])", re.ASCII)


class Settings:
    """The app's settings, read from the environment when they are first asked for, not before.

    A SettingsError names settings and never what they are set to: anybody may read it at `/api/health/ready`, and what
    is in the wrong setting may be a secret that belongs in another.

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
            raise SettingsError(f"The setting {CLOUD} is none of: {', '.join(CLOUDS)}")
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
    def fetch_hosts(self) -> tuple[str, ...]:
        """Hosts to fetch attachments from, without a token, besides those that channels keep them on."""
        return self._hosts(FETCH_HOSTS)

    @property
    def private_hosts(self) -> tuple[str, ...]:
        """Hosts, say of a calling agent, that may resolve to addresses of a private network; no others may."""
        return self._hosts(PRIVATE_HOSTS)

    def _hosts(self, name: str) -> tuple[str, ...]:
        hosts = tuple(each.strip().lower() for each in (self.get(name) or "").split(",") if each.strip())
        if wrong := [str(number) for number, host in enumerate(hosts, 1) if not _HOST.fullmatch(host)]:
            raise SettingsError(
                f"In the setting {name} the entry {', '.join(wrong)} is wrong: give names such as files.contoso.com, "
                "with commas between them, and no scheme, port, wildcard or address"
            )
        return hosts

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

    @property
    def callback_sessions(self) -> bool:
        """Whether the callback queue has sessions, and so gives the messages of a conversation one after the other.

        SettingsError if the setting says neither `true` nor `false`.
        """
        said = (self.get(SESSIONS) or "false").lower()
        if said not in ("true", "false"):
            raise SettingsError(f"The setting {SESSIONS} is {said!r}; use true or false")
        return said == "true"

    @property
    def ticket_mode(self) -> TicketMode:
        """Whether callbacks need a ticket: in Azure they do, unless the setting says otherwise."""
        from agent_core.proactive.tickets import TICKET_MODES

        said = (self.get(TICKETS) or ("optional" if self.development else "required")).lower()
        for mode in TICKET_MODES:
            if said == mode:
                return mode
        raise SettingsError(f"The setting {TICKETS} is none of: {', '.join(TICKET_MODES)}")

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
        for read in (
            lambda: self.cloud,
            lambda: self.credentials,
            lambda: self.token_service,
            lambda: self.ticket_mode,
            lambda: self.ticket_keys,
            lambda: self.fetch_hosts,
            lambda: self.private_hosts,
            lambda: self.callers,
            lambda: self.tenants,
            lambda: self.callback_sessions,
        ):
            try:
                read()
            except SettingsError as error:
                found += [str(error)] if str(error) not in found else []
        with suppress(SettingsError):
            if self.callers and not self.tenants:
                found.append(f"The setting {CALLERS} names agents and {TENANTS} no tenant: give the ids of theirs.")
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
