"""Who was asked to sign in, where, and how far that came: one document per user, channel and connection.

Codes and exchanges are accepted for such a record only, in the conversation and from the user that were asked. Every
change is conditional on the ETag, so of two answers at once only one goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from agent_core.errors import DocumentChanged
from agent_core.store.document_store import USERS, Document, DocumentStore, Where, id_for, parse_time, time_text
from agent_core.turn.user_tokens import OAuthConnection

# As long as the Agents SDK lets a sign-in take.
ASKED_FOR = timedelta(minutes=15)
# Of wrong codes; the same number as the Agents SDK's.
MAX_TRIES = 2
# Longer than the token service may take to answer, so that an exchange whose lease is over has no living owner.
EXCHANGE_LEASE = timedelta(seconds=20)
# The card asks again after the user consented, under the same id: then the old refusal must be out of the way.
REFUSAL_KEPT = timedelta(seconds=3)


@dataclass(frozen=True, slots=True)
class SignInRecord:
    """One version of a record."""

    document: Document

    @property
    def name(self) -> str:
        """What the handler asked for."""
        return str(self.document.body["name"])

    @property
    def connection_name(self) -> str:
        """The OAuth connection."""
        return str(self.document.body["connection"])

    @property
    def conversation_id(self) -> str:
        """Where the user was asked."""
        return str(self.document.body["conversation"])

    @property
    def signed_in(self) -> bool:
        """Whether the user did."""
        return bool(self.document.body["signedIn"])

    @property
    def tries(self) -> int:
        """How many codes were tried."""
        return int(self.document.body["tries"])

    def expired(self, now: datetime) -> bool:
        """Whether it took too long."""
        return now >= parse_time(self.document.body["expires"])

    def exchange_held(self, now: datetime) -> bool:
        """Whether somebody exchanges a token right now."""
        exchange = self.document.body["exchange"]
        return exchange is not None and exchange["status"] is None and now < parse_time(exchange["until"])

    def answer_to(self, exchange_id: str, now: datetime) -> tuple[int, str | None] | None:
        """Status and failure of an exchange of that id that was made; None if it is still to be made."""
        exchange = self.document.body["exchange"]
        if exchange is None or exchange["id"] != exchange_id or exchange["status"] is None:
            return None
        if exchange["status"] == 412 and now >= parse_time(exchange["until"]):
            return None
        return exchange["status"], exchange["failure"]


class SignInRecords:
    """Reads and writes the records."""

    def __init__(self, store: DocumentStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    async def ask(self, partition: str, connection: OAuthConnection, conversation_id: str) -> None:
        """Note that the user is asked now; what was asked before is forgotten. The later of two callers stays."""
        now = self._now()
        await self._store.upsert(
            USERS,
            {
                "id": _id(connection.connection_name),
                USERS.partition_key: partition,
                "kind": "sign_in",
                "name": connection.name,
                "connection": connection.connection_name,
                "conversation": conversation_id,
                "signedIn": False,
                "tries": 0,
                "exchange": None,
                "created": time_text(now),
                "expires": time_text(now + ASKED_FOR),
                "ttl": int(2 * ASKED_FOR.total_seconds()),
            },
        )

    async def get(self, partition: str, connection_name: str) -> SignInRecord | None:
        """The record for that connection."""
        document = await self._store.read(USERS, partition, _id(connection_name))
        return SignInRecord(document) if document else None

    async def asked_in(self, partition: str, conversation_id: str) -> list[SignInRecord]:
        """What the user was asked in that conversation and can still answer, newest first."""
        page = await self._store.query(USERS, partition=partition, where=[Where("kind", "=", "sign_in")])
        records = [SignInRecord(document) for document in page.documents]
        now = self._now()
        asked = [
            record
            for record in records
            if record.conversation_id == conversation_id
            and not record.signed_in
            and not record.expired(now)
            and record.tries < MAX_TRIES
        ]
        return sorted(asked, key=lambda record: str(record.document.body["created"]), reverse=True)

    async def claim_exchange(self, record: SignInRecord, exchange_id: str) -> SignInRecord | None:
        """Hold the exchange; None if somebody was faster."""
        until = time_text(self._now() + EXCHANGE_LEASE)
        return await self.change(record, exchange={"id": exchange_id, "status": None, "failure": None, "until": until})

    async def answer_exchange(self, record: SignInRecord, status: int, failure: str | None) -> None:
        """Keep the answer to the exchange that `record` holds, for those who ask the same; if nobody took it over."""
        until = time_text(self._now() + REFUSAL_KEPT)
        exchange = {**record.document.body["exchange"], "status": status, "failure": failure, "until": until}
        await self.change(record, exchange=exchange, signedIn=status == 200)

    async def change(self, record: SignInRecord, **changes: Any) -> SignInRecord | None:
        """Write changes over exactly that version; None if it is another by now."""
        try:
            body = {**record.document.body, **changes}
            return SignInRecord(await self._store.replace(USERS, body, record.document.etag))
        except DocumentChanged:
            return None

    async def forget(self, partition: str, connection_name: str) -> None:
        """Nobody is asked any more."""
        await self._store.delete(USERS, partition, _id(connection_name))


def _id(connection_name: str) -> str:
    return id_for("sign-in", connection_name)
