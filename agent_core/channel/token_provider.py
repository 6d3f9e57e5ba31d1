"""The agent's own token for the Bot Connector."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent_core.errors import ChannelError

SCOPE = "https://api.botframework.com/.default"
RESOURCE = "https://api.botframework.com"


class TokenProvider(Protocol):
    """Gives out the agent's token."""

    async def token(self) -> str:
        """A bearer token for the Bot Connector, valid for some minutes at least.

        Raises:
            ChannelError: `misconfigured`, if the identity provider refuses; `unsent`, if it is not reached.
        """


@dataclass(frozen=True, slots=True)
class AppCredentials:
    """As whom the agent speaks: a secret, or a user-assigned managed identity where there is none."""

    app_id: str
    tenant_id: str
    client_secret: str | None = field(default=None, repr=False)


class MsalTokenProvider:
    """Tokens through MSAL, which keeps them until shortly before they expire.

    MSAL blocks, so it runs in a thread; however many ask at once, there is one request.
    """

    def __init__(self, credentials: AppCredentials) -> None:
        self._credentials = credentials
        self._client: Any = None
        self._lock = asyncio.Lock()

    async def token(self) -> str:
        async with self._lock:
            try:
                result = await asyncio.to_thread(self._acquire)
            except OSError as error:  # requests' errors are OSErrors: no connection, no answer
                raise ChannelError(
                    f"No token: the identity provider was not reached ({type(error).__name__})", decision="unsent"
                ) from error
        if result.get("error") in ("temporarily_unavailable", "server_error"):
            raise ChannelError(f"No token yet: the identity provider says {result['error']}", decision="unsent")
        if "access_token" not in result:
            raise ChannelError(
                f"No token for app {self._credentials.app_id}: {result.get('error', 'unknown error')}. "
                "Check the app id, its tenant and its secret or managed identity.",
                decision="misconfigured",
                code=str(result.get("error")),
            )
        return str(result["access_token"])

    def _acquire(self) -> dict[str, Any]:
        import msal  # on first use: 70 ms that a cold start need not pay

        credentials = self._credentials
        if credentials.client_secret is None:
            if self._client is None:
                import requests

                identity = msal.UserAssignedManagedIdentity(client_id=credentials.app_id)
                self._client = msal.ManagedIdentityClient(identity, http_client=requests.Session())
            return dict(self._client.acquire_token_for_client(resource=RESOURCE))
        if self._client is None:
            self._client = msal.ConfidentialClientApplication(
                credentials.app_id,
                authority=f"https://login.microsoftonline.com/{credentials.tenant_id}",
                client_credential=credentials.client_secret,
            )
        return dict(self._client.acquire_token_for_client(scopes=[SCOPE]))
