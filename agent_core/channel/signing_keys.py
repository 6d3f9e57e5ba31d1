"""The public keys with which the Bot Service signs its tokens."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from agent_core.channel.http_client import HttpClient
from agent_core.errors import AgentError

logger = logging.getLogger(__name__)

# https://learn.microsoft.com/azure/bot-service/rest-api/bot-framework-rest-connector-authentication
KEYS_URL = "https://login.botframework.com/v1/.well-known/keys"
FRESH_FOR = timedelta(hours=24)
# A token with an unknown key id makes us look again, but no flood of them makes us look more often than this.
LOOK_AGAIN_AFTER = timedelta(minutes=5)
READ_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key. `endorsements` are the channels it may speak for; empty for a key that names none."""

    key: Any
    endorsements: tuple[str, ...]


class SigningKeys:
    """Keys by key id: fetched on first use, once for all who wait, and again after a day."""

    def __init__(self, http: HttpClient, now: Callable[[], datetime], url: str = KEYS_URL) -> None:
        self._http = http
        self._now = now
        self._url = url
        self._keys: Mapping[str, SigningKey] = {}
        self._asked: datetime | None = None
        self._lock = asyncio.Lock()

    async def get(self, key_id: str) -> SigningKey | None:
        """The key of that id, None if the service does not know it; old keys serve while a refresh fails."""
        if self._must_ask(key_id):
            async with self._lock:
                if self._must_ask(key_id):
                    await self._refresh()
        return self._keys.get(key_id)

    def _must_ask(self, key_id: str) -> bool:
        if self._asked is None:
            return True
        age = self._now() - self._asked
        return age > FRESH_FOR or (key_id not in self._keys and age > LOOK_AGAIN_AFTER)

    async def _refresh(self) -> None:
        try:
            answer = await self._http.request("GET", self._url, read_timeout=READ_TIMEOUT)
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            self._keys = _parsed(answer.body)
            self._asked = self._now()
        except (AgentError, ValueError, KeyError, TypeError) as error:
            logger.warning("The signing keys could not be fetched, %d old ones serve: %s", len(self._keys), error)
            if self._keys:
                # Without any key nobody can be let in, and the next one looks again; with old ones it can wait.
                self._asked = self._now()


def _parsed(body: bytes) -> dict[str, SigningKey]:
    from jwt import PyJWK, PyJWTError  # on first use: it brings cryptography

    keys = {}
    for jwk in json.loads(body)["keys"]:
        if jwk.get("kty") == "RSA" and isinstance(jwk.get("kid"), str):
            endorsements = tuple(str(each) for each in jwk.get("endorsements") or ())
            try:
                keys[jwk["kid"]] = SigningKey(PyJWK(jwk, algorithm="RS256").key, endorsements)
            except PyJWTError as error:
                logger.warning("One of the signing keys cannot be used (%s)", type(error).__name__)
    return keys
