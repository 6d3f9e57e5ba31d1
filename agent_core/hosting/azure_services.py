"""The services behind the agent, chosen by the settings and connected on first use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

from agent_core.channel.cloud_adapter import AgentIdentity, CloudAdapter
from agent_core.channel.url_guard import UrlGuard
from agent_core.errors import SettingsError
from agent_core.hosting import clock
from agent_core.hosting.settings import CLIENT_ID, COSMOS, SERVICE_BUS, Settings, missing_connection
from agent_core.proactive.queue import DeadLetterQueue, Queue
from agent_core.store.document_store import DocumentStore

if TYPE_CHECKING:  # loaded on first use, so that a cold start is spared them
    from agent_core.channel.attachment_downloader import AttachmentDownloader
    from agent_core.channel.connector_client import ConnectorClient
    from agent_core.channel.http_client import HttpClient
    from agent_core.channel.token_provider import CachedTokenProvider
    from agent_core.channel.user_token_client import UserTokenClient
    from agent_core.hosting.cosmos_store import CosmosConnection, CosmosStore
    from agent_core.hosting.managed_identity import ManagedIdentityCredential
    from agent_core.proactive.dead_letters import DeadLetters
    from agent_core.proactive.tickets import Tickets

logger = logging.getLogger(__name__)


class AzureServices:
    """The adapter, the store and the queues of one app.

    Building this reads no setting and connects to nothing; each service does so when it is first used.

    Attributes:
        adapter: talks with channels.
        store: Cosmos DB; in development, without a connection to it, a SQLite file.
        queue: the app's own work queue on Service Bus; in development, without a connection to it, the embedded one.
        tickets: who may continue what, as the settings say.
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
            user_tokens=lambda: self._user_tokens,
            downloader=lambda: self._downloader,
        )
        self.store = cast(DocumentStore, _OnFirstUse(self._open_store))
        self.queue = cast(Queue, _OnFirstUse(lambda: self._open_queue("WORK_QUEUE")))
        self.callbacks = cast(Queue, _OnFirstUse(lambda: self._open_queue("CALLBACK_QUEUE")))
        self.tickets = cast("Tickets", _OnFirstUse(self._open_tickets))
        self._http_client: HttpClient | None = None
        self._download_client: HttpClient | None = None

    @property
    def _http(self) -> HttpClient:
        from agent_core.channel.http_client import HttpClient

        self._http_client = self._http_client or HttpClient(allow_address=self._guard.allows_address)
        return self._http_client

    @cached_property
    def _identity_http(self) -> HttpClient:
        """For the identity provider, whose addresses come from settings and platform, and may be link-local."""
        from agent_core.channel.http_client import HttpClient

        return HttpClient(allow_address=lambda host, address: True)

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
        settings = self.settings
        return UrlGuard(
            development=settings.app_id is None,
            emulator=settings.app_id is not None and settings.development,
            cloud=settings.cloud,
            callers=settings.callers,
            fetch_hosts=settings.fetch_hosts,
            private_hosts=settings.private_hosts,
        )

    @property
    def guard(self) -> UrlGuard:
        """Where this agent may send."""
        return self._guard

    @cached_property
    def _connector(self) -> ConnectorClient:
        from agent_core.channel.connector_client import ConnectorClient

        tokens = self._tokens
        return ConnectorClient(
            self._http, tokens, clock.now, sleep=clock.sleep, cloud=self.settings.cloud, agentic_tokens=tokens
        )

    @cached_property
    def _downloader(self) -> AttachmentDownloader:
        from agent_core.channel.attachment_downloader import AttachmentDownloader
        from agent_core.channel.http_client import HttpClient

        # Connections of its own, so that long downloads leave those that messages are sent over alone.
        http = self._download_client = HttpClient(max_connections=20, allow_address=self._guard.allows_address)
        tokens = self._tokens
        return AttachmentDownloader(
            http, self._guard, partial(tokens.token, self.settings.cloud.connector_scope) if tokens else None
        )

    @cached_property
    def _tokens(self) -> CachedTokenProvider | None:
        from agent_core.channel.msal_client import MsalClient
        from agent_core.channel.token_provider import CachedTokenProvider

        credentials = self.settings.credentials
        if credentials is None:
            return None
        return CachedTokenProvider(MsalClient(credentials, self._identity_http, clock.now).acquire, clock.now)

    @cached_property
    def _user_tokens(self) -> UserTokenClient:
        from agent_core.channel.user_token_client import UserTokenClient

        app_id, tokens = self.settings.app_id, self._tokens
        if app_id is None or tokens is None:
            raise SettingsError(
                f"Users sign in through the Azure Bot, and the agent has no app id: set {CLIENT_ID}, and give the bot "
                "an OAuth connection. In tests, agent_core.testing.TestAdapter gives tokens without any of it."
            )

        async def agent_token(force_refresh: bool) -> str:
            return await tokens.token(self.settings.cloud.connector_scope, force_refresh=force_refresh)

        return UserTokenClient(
            self._http,
            agent_token,
            app_id=app_id,
            base_url=self.settings.token_service,
            connections=self.settings.oauth_connection,
        )

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
        from agent_core.hosting.cosmos_store import CosmosStore

        return CosmosStore(self._cosmos(self.settings.require("COSMOS_DATABASE"), create=self.settings.development))

    def open_foreign_cosmos(self, database: str | None = None) -> CosmosStore:
        """A store of its own on the same account, in which nothing is created; the caller closes it.

        Args:
            database: the agent's own if it is not given.
        """
        if not self.settings.has_cosmos:
            raise SettingsError(missing_connection(COSMOS, "accountEndpoint", "Cosmos DB"))
        from agent_core.hosting.cosmos_store import CosmosStore

        return CosmosStore(self._cosmos(database or self.settings.require("COSMOS_DATABASE"), create=False))

    def _cosmos(self, database: str, *, create: bool) -> CosmosConnection:
        from agent_core.hosting.cosmos_store import CosmosConnection

        text = self.settings.get(COSMOS)
        if text is not None:
            return CosmosConnection.from_connection_string(text, database=database, create_containers=create)
        return CosmosConnection(
            endpoint=self.settings.require(f"{COSMOS}__accountEndpoint"),
            key=None,
            credential=self._managed_identity(COSMOS),
            database=database,
            # An identity of the data plane cannot create containers; the deployment does.
            create_containers=False,
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

        sessions = name_setting == "CALLBACK_QUEUE" and settings.callback_sessions
        return SqliteQueue(settings.local_data / "queues.db", name, now=clock.now, requires_session=sessions)

    def _open_tickets(self) -> Tickets:
        from agent_core.proactive.tickets import Tickets

        return Tickets(self.settings.ticket_keys, self.settings.ticket_mode)

    def _managed_identity(self, prefix: str) -> ManagedIdentityCredential:
        from agent_core.hosting.managed_identity import ManagedIdentityCredential

        return ManagedIdentityCredential(self.settings.get(f"{prefix}__clientId"), clock.now)

    async def drain_dead_letters(self, letters: DeadLetters) -> int:
        """Take over what the two queues put aside by themselves; returns how much. Raises like `DeadLetters.drain`."""
        names = [self.settings.require(name) for name in ("CALLBACK_QUEUE", "WORK_QUEUE")]
        callbacks, work = cast(DeadLetterQueue, self.callbacks), cast(DeadLetterQueue, self.queue)
        # At once: an empty queue is asked for a second or two.
        drained = await asyncio.gather(
            letters.drain(callbacks, names[0], is_work=False),
            letters.drain(work, names[1], is_work=True),
            return_exceptions=True,
        )
        for each in drained:
            if isinstance(each, BaseException):
                raise each
        return sum(each for each in drained if isinstance(each, int))

    async def close(self) -> None:
        """Let go of what is open; each service opens again if it is used again."""
        for service in (self.store, self.queue, self.callbacks):
            # A service that was never used has nothing to close, and must not be opened for it.
            opened = cast(_OnFirstUse, service).opened
            if opened is not None:
                await opened.close()
        clients = [self._http_client, self._download_client, self.__dict__.get("_identity_http")]
        for client in clients:
            if client is not None:
                await client.close()


class _OnFirstUse:
    """Stands for a service until one of its methods is called, and then passes every call on."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self.opened: Any = None

    def __getattr__(self, name: str) -> Any:
        if self.opened is None:
            self.opened = self._build()
        return getattr(self.opened, name)
