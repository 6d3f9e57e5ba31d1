"""Tokens of a managed identity for Azure's own clients, through MSAL, so that azure-identity need not be installed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from agent_core.errors import SettingsError

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken


class ManagedIdentityCredential:
    """An `AsyncTokenCredential` for a user-assigned identity, or the app's own where no client id is given.

    MSAL blocks, so it runs in a thread; it keeps tokens until shortly before they expire, and however many ask at
    once, one request is made.
    """

    def __init__(self, client_id: str | None, now: Callable[[], datetime]) -> None:
        self._client_id = client_id
        self._now = now
        self._client: Any = None
        self._lock = asyncio.Lock()

    async def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **kwargs: Any,
    ) -> AccessToken:
        """A token for one scope, `https://…/.default`. Raises SettingsError if the identity gives none."""
        from azure.core.credentials import AccessToken

        resource = scopes[0].removesuffix("/.default")
        async with self._lock:
            result = await asyncio.to_thread(self._acquire, resource)
        if "access_token" not in result:
            raise SettingsError(
                f"The managed identity gave no token for {resource}: {result.get('error', 'unknown error')}. "
                "Check that the identity is assigned to the app and its client id is right."
            )
        return AccessToken(result["access_token"], int(self._now().timestamp()) + int(result["expires_in"]))

    def _acquire(self, resource: str) -> dict[str, Any]:
        if self._client is None:
            import msal
            import requests

            if self._client_id is None:
                identity = msal.SystemAssignedManagedIdentity()
            else:
                identity = msal.UserAssignedManagedIdentity(client_id=self._client_id)
            self._client = msal.ManagedIdentityClient(identity, http_client=requests.Session())
        return dict(self._client.acquire_token_for_client(resource=resource))

    async def close(self) -> None:
        """Nothing is held open between calls."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.close()
