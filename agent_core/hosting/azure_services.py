"""The services behind the agent, chosen by the settings and connected on first use."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from agent_core.channel.cloud_adapter import AgentIdentity, CloudAdapter
from agent_core.channel.url_guard import UrlGuard
from agent_core.errors import SettingsError
from agent_core.hosting import clock
from agent_core.hosting.managed_identity import ManagedIdentityCredential
from agent_core.hosting.settings import CLIENT_SECRET, COSMOS, SERVICE_BUS, TENANT_ID, Settings, missing_connection
from agent_core.proactive.queue import Queue
from agent_core.store.document_store import DocumentStore

if TYPE_CHECKING:  # loaded on first use, so that a cold start is spared them
    from agent_core.channel.connector_client import ConnectorClient
    from agent_core.channel.http_client import HttpClient

logger = logging.getLogger(__name__)


class AzureServices:
    """The adapter, the store and the queues of one app.

    Building this reads no setting and connects to nothing; each service does so when it is first used.

    Attributes:
        adapter: talks with channels.
        store: Cosmos DB; in development, without a connection to it, a SQLite file.
        queue: the app's own work queue on Service Bus; in development, without a connection to it, the embedded one.
        callbacks: the queue that external systems publish to; for tools that play their part.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.adapter = CloudAdapter(
            identity=lambda: self._identity,
            connector=lambda: self._connector,
            guard=lambda: self._guard,
            now=clock.now,
            sleep=clock.sleep,
        )
        self.store = cast(DocumentStore, _OnFirstUse(self._open_store))
        self.queue = cast(Queue, _OnFirstUse(lambda: self._open_queue("WORK_QUEUE")))
        self.callbacks = cast(Queue, _OnFirstUse(lambda: self._open_queue("CALLBACK_QUEUE")))
        self._http_client: HttpClient | None = None

    @property
    def _http(self) -> HttpClient:
        from agent_core.channel.http_client import HttpClient

        self._http_client = self._http_client or HttpClient()
        return self._http_client

    @cached_property
    def _identity(self) -> AgentIdentity:
        app_id = self.settings.app_id
        if app_id is None:
            return AgentIdentity(None, None)
        from agent_core.channel.token_validator import TokenValidator

        settings = self.settings
        validator = TokenValidator(
            app_id,
            self._http,
            clock.now,
            cloud=settings.cloud,
            tenants=settings.tenants,
            callers=settings.callers,
            development=settings.development,
        )
        return AgentIdentity(app_id, validator)

    @cached_property
    def _guard(self) -> UrlGuard:
        return UrlGuard(development=self.settings.app_id is None)

    @cached_property
    def _connector(self) -> ConnectorClient:
        from agent_core.channel.connector_client import ConnectorClient
        from agent_core.channel.token_provider import AppCredentials, MsalTokenProvider

        app_id = self.settings.app_id
        if app_id is None:
            return ConnectorClient(self._http, None, clock.now)
        secret = self.settings.get(CLIENT_SECRET)
        tenant = self.settings.require(TENANT_ID) if secret else ""
        return ConnectorClient(self._http, MsalTokenProvider(AppCredentials(app_id, tenant, secret)), clock.now)

    def _open_store(self) -> DocumentStore:
        settings = self.settings
        if settings.has_cosmos:
            return self._open_cosmos()
        if not settings.development:
            raise SettingsError(missing_connection(COSMOS, "accountEndpoint", "Cosmos DB"))
        from agent_core.store.sqlite_store import SqliteStore

        path = settings.local_data / "documents.db"
        logger.warning("Without %s documents are kept in %s, on this machine only", COSMOS, path)
        return SqliteStore(path, clock.now)

    def _open_cosmos(self) -> DocumentStore:
        from agent_core.hosting.cosmos_store import CosmosConnection, CosmosStore

        settings = self.settings
        database = settings.require("COSMOS_DATABASE")
        text = settings.get(COSMOS)
        if text is not None:
            create = settings.development
            return CosmosStore(
                CosmosConnection.from_connection_string(text, database=database, create_containers=create)
            )
        return CosmosStore(
            CosmosConnection(
                endpoint=settings.require(f"{COSMOS}__accountEndpoint"),
                key=None,
                credential=self._managed_identity(COSMOS),
                database=database,
                # An identity of the data plane cannot create containers; the deployment does.
                create_containers=False,
            )
        )

    def _open_queue(self, name_setting: str) -> Queue:
        settings = self.settings
        name = settings.require(name_setting)
        if settings.has_service_bus:
            from agent_core.hosting.service_bus_queue import ServiceBusConnection, ServiceBusQueue

            text = settings.get(SERVICE_BUS)
            connection = ServiceBusConnection(
                connection_string=text,
                fully_qualified_namespace=settings.get(f"{SERVICE_BUS}__fullyQualifiedNamespace"),
                credential=None if text else self._managed_identity(SERVICE_BUS),
            )
            return ServiceBusQueue(connection, name)
        if not settings.development:
            raise SettingsError(missing_connection(SERVICE_BUS, "fullyQualifiedNamespace", "Service Bus"))
        from agent_core.hosting.sqlite_queue import SqliteQueue

        return SqliteQueue(settings.local_data / "queues.db", name, now=clock.now)

    def _managed_identity(self, prefix: str) -> ManagedIdentityCredential:
        return ManagedIdentityCredential(self.settings.get(f"{prefix}__clientId"), clock.now)

    async def close(self) -> None:
        """Let go of what is open; each service opens again if it is used again."""
        for service in (self.store, self.queue, self.callbacks):
            # A service that was never used has nothing to close, and must not be opened for it.
            opened = cast(_OnFirstUse, service).opened
            if opened is not None:
                await opened.close()
        if self._http_client is not None:
            await self._http_client.close()


class _OnFirstUse:
    """Stands for a service until one of its methods is called, and then passes every call on."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self.opened: Any = None

    def __getattr__(self, name: str) -> Any:
        if self.opened is None:
            self.opened = self._build()
        return getattr(self.opened, name)
