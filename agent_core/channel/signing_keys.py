"""The public keys of one issuer: fetched from where that issuer publishes them, and kept."""

from __future__ import annotations

import asyncio
import json
import logging
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agent_core.channel.http_client import HttpClient
from agent_core.errors import AgentError, KeysUnavailable

if TYPE_CHECKING:  # on first use: it takes 50 ms to import
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

logger = logging.getLogger(__name__)

FRESH_FOR = timedelta(hours=24)
# "Cached for five days": older ones may have been withdrawn.
# https://learn.microsoft.com/azure/bot-service/rest-api/bot-framework-rest-connector-authentication
KEPT_FOR = timedelta(days=5)
# A token with an unknown key id makes us look again, but no flood of them makes us look more often than this.
LOOK_AGAIN_AFTER = timedelta(minutes=5)
# Nor, where there are no keys at all and nobody can be let in, more often than this.
LOOK_AGAIN_WITHOUT_KEYS_AFTER = timedelta(seconds=5)
# For the OpenID document and the keys together; a channel waits 15 seconds for its answer.
FETCH_TIMEOUT = 5.0
MIN_BITS = 2048


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key.

    Attributes:
        endorsements: the channels that it may speak for; None for a key that says nothing of channels.
        issuer: whose tokens it may sign, with `{tenantid}` for a tenant's id; None for all of its set's.
    """

    key: RSAPublicKey
    endorsements: frozenset[str] | None
    issuer: str | None


class SigningKeys:
    """The keys of one issuer by key id: fetched on first use, once for all who wait, and again after a day.

    Two callers at once share one fetch; while it is under way, whoever's key is known already does not wait. What is
    kept is the issuer's last answer, and nothing about keys that were asked for and are not in it.

    Args:
        metadata: the address of the issuer's OpenID document. Its `jwks_uri` must be on the same server.
        issuer: what the document must name as its `issuer`.
        timeout: seconds for a fetch.
    """

    def __init__(
        self, http: HttpClient, now: Callable[[], datetime], metadata: str, issuer: str, timeout: float = FETCH_TIMEOUT
    ) -> None:
        self._http = http
        self._now = now
        self._metadata = metadata
        self._issuer = issuer
        self._timeout = timeout
        self._keys: Mapping[str, SigningKey] = {}
        self._fetched: datetime | None = None
        self._tried: datetime | None = None
        self._failed = False
        self._lock = asyncio.Lock()

    async def get(self, key_id: str) -> SigningKey | None:
        """The key of that id, None if the issuer says that it has no such key.

        Keys that are older than a day serve on while no newer ones can be fetched, for five days.

        Raises:
            KeysUnavailable: the issuer could not be asked, so nothing can be said of that key.
        """
        known = self._current().get(key_id)
        if self._must_ask(key_id) and not (known and self._lock.locked()):
            async with self._lock:
                if self._must_ask(key_id):
                    await self._refresh()
            known = self._current().get(key_id)
        if known is None and self._failed:
            raise KeysUnavailable(f"The signing keys of {self._issuer} cannot be fetched right now; try again")
        return known

    def _current(self) -> Mapping[str, SigningKey]:
        return self._keys if self._fetched and self._now() - self._fetched < KEPT_FOR else {}

    def _must_ask(self, key_id: str) -> bool:
        now, keys = self._now(), self._current()
        if self._tried and now - self._tried < (LOOK_AGAIN_AFTER if keys else LOOK_AGAIN_WITHOUT_KEYS_AFTER):
            return False
        return key_id not in keys or self._fetched is None or now - self._fetched > FRESH_FOR

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                keys = _parsed(await self._fetch(await self._keys_url()))
            if not keys:
                raise ValueError("there is no usable key")
        except (AgentError, ValueError, KeyError, TypeError, TimeoutError, RecursionError) as error:
            self._failed = True
            logger.warning(
                "The signing keys of %s could not be fetched, %d old ones serve: %s",
                self._issuer,
                len(self._current()),
                str(error) or type(error).__name__,
            )
        else:
            self._keys, self._failed, self._fetched = keys, False, self._now()
        # Not where the fetch was cancelled: whoever waits then tries himself.
        self._tried = self._now()

    async def _keys_url(self) -> str:
        document = await self._fetch(self._metadata)
        if document["issuer"] != self._issuer:
            raise ValueError("the OpenID document is another issuer's")
        if "RS256" not in document["id_token_signing_alg_values_supported"]:
            raise ValueError("the OpenID document offers no RS256")
        url = document["jwks_uri"]
        if not isinstance(url, str) or _server(url) != _server(self._metadata):
            raise ValueError("the OpenID document names keys on another server")
        return url

    async def _fetch(self, url: str) -> dict[str, Any]:
        answer = await self._http.request("GET", url)
        if answer.status != 200:
            raise ValueError(f"status {answer.status}")
        document = json.loads(answer.body)
        if not isinstance(document, dict):
            raise ValueError("the answer is no JSON object")
        return document


def _server(url: str) -> tuple[str, str]:
    """Scheme and authority as they are written: whatever differs, if only in user information, is another server."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _parsed(document: Mapping[str, Any]) -> dict[str, SigningKey]:
    """The RSA keys for signatures; others are left out, and one that cannot be used takes no other with it."""
    keys = {}
    for jwk in document["keys"]:
        if not isinstance(jwk, dict) or jwk.get("kty") != "RSA":
            continue
        if jwk.get("use", "sig") != "sig" or jwk.get("alg", "RS256") != "RS256":
            continue
        try:
            if not isinstance(jwk["kid"], str):
                raise ValueError("its id is no string")
            keys[jwk["kid"]] = _signing_key(jwk)
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("One of the signing keys cannot be used: %s", error)
    return keys


def _signing_key(jwk: Mapping[str, Any]) -> SigningKey:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers  # on first use: it takes 50 ms

    endorsements, issuer = jwk.get("endorsements"), jwk.get("issuer")
    if not isinstance(endorsements, list | None) or not isinstance(issuer, str | None):
        raise ValueError("its endorsements or its issuer are malformed")
    key = RSAPublicNumbers(_integer(jwk["e"]), _integer(jwk["n"])).public_key()
    if key.key_size < MIN_BITS:
        raise ValueError(f"it has {key.key_size} bits, less than {MIN_BITS}")
    return SigningKey(key, None if endorsements is None else frozenset(map(str, endorsements)), issuer)


def _integer(text: str) -> int:
    return int.from_bytes(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
