"""A brake per tenant: where a channel throttles the agent in several conversations, all instances wait.

A limit of one conversation holds up that conversation alone; the app's limit in a tenant (50 requests a second in
Teams) is met in several at once. https://learn.microsoft.com/microsoftteams/platform/bots/how-to/rate-limit
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from agent_core.errors import DocumentChanged, DocumentExists, StoreError
from agent_core.store.document_store import CONVERSATIONS, DocumentStore, JsonObject, id_for, parse_time, time_text

logger = logging.getLogger(__name__)

# What one instance read is good for this long.
LOOKED_UP_FOR = timedelta(seconds=1)
# Refusals in this many conversations within this time are the tenant's and not a conversation's.
CONVERSATIONS_THROTTLED = 2
WITHIN = timedelta(seconds=60)
# One refusal cannot stop a tenant for longer.
LONGEST = timedelta(minutes=5)


class Throttle:
    """Reads and sets the brakes."""

    def __init__(self, store: DocumentStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._refusals: dict[str, dict[str, datetime]] = {}
        self._looked_up: dict[str, tuple[datetime, datetime | None]] = {}

    async def until(self, tenant_id: str | None) -> datetime | None:
        """Until when nothing shall be sent to the tenant; None if it may. A store that fails brakes nobody."""
        if not tenant_id:
            return None
        now = self._now()
        looked_up = self._looked_up.get(tenant_id)
        if looked_up is None or now - looked_up[0] > LOOKED_UP_FOR:
            partition, document_id = _place(tenant_id)
            until = None
            with suppress(StoreError):
                stored = await self._store.read(CONVERSATIONS, partition, document_id)
                until = parse_time(stored.body["until"]) if stored else None
            self._looked_up = {key: value for key, value in self._looked_up.items() if now - value[0] <= LOOKED_UP_FOR}
            looked_up = self._looked_up[tenant_id] = (now, until)
        until = looked_up[1]
        return until if until is not None and until > now else None

    async def note(self, tenant_id: str | None, conversation_id: str, until: datetime) -> None:
        """A conversation was throttled until then. Of two instances at once, the later end stays."""
        if not tenant_id:
            return
        now = self._now()
        recent = {key: at for key, at in self._refusals.get(tenant_id, {}).items() if now - at <= WITHIN}
        self._refusals = {
            key: each for key, each in self._refusals.items() if any(now - at <= WITHIN for at in each.values())
        }
        self._refusals[tenant_id] = {**recent, conversation_id: now}
        if len(self._refusals[tenant_id]) >= CONVERSATIONS_THROTTLED:
            with suppress(StoreError):
                await self._brake(tenant_id, min(until, now + LONGEST))

    async def _brake(self, tenant_id: str, until: datetime) -> None:
        partition, document_id = _place(tenant_id)
        body: JsonObject = {
            "id": document_id,
            CONVERSATIONS.partition_key: partition,
            "kind": "throttle",
            "until": time_text(until),
            "ttl": max(1, int((until - self._now()).total_seconds()) + 1),
        }
        self._looked_up.pop(tenant_id, None)
        while True:
            stored = await self._store.read(CONVERSATIONS, partition, document_id)
            if stored is not None and parse_time(stored.body["until"]) >= until:
                return
            try:
                if stored is None:
                    await self._store.create(CONVERSATIONS, body)
                else:
                    await self._store.replace(CONVERSATIONS, body, stored.etag)
            except (DocumentExists, DocumentChanged):
                continue  # another instance was as fast, maybe with an earlier end
            logger.warning("The channel throttles: nothing is sent to this tenant until %s", f"{until:%H:%M:%S}")
            return


def _place(tenant_id: str) -> tuple[str, str]:
    document_id = id_for("throttle", tenant_id)
    return document_id, document_id
