"""Work that waits until its user has signed in, and goes on then, whatever dies in between.

The work is a document beside the user's state, and a message on the work queue looks from time to time whether there is
a token. A sign-in only makes that look come at once, so nothing is lost where a process dies between the two. The
document is deleted, if it is still the same version, after the work was done; what is done twice for a death before
that, the ledger does once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from agent_core.errors import ChannelError, DocumentChanged, NotSupported, SettingsError, SignInRequired
from agent_core.proactive.conversation import user_partition
from agent_core.proactive.dead_letters import DeadLetters
from agent_core.proactive.queue import Queue
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import (
    USERS,
    Document,
    DocumentStore,
    JsonObject,
    Where,
    id_for,
    parse_time,
    time_text,
)
from agent_core.turn.channel_adapter import ChannelAdapter

logger = logging.getLogger(__name__)

# A continuation or a notification waits this long. The ledger knows its delivery for twice as long.
WAITS_FOR = timedelta(days=7)
# The user is still there and looks at the card, or has gone on to something else.
TURN_WAITS_FOR = timedelta(minutes=15)
# When it is looked for a token, after the one before; the last of them again and again.
LOOKS = tuple(timedelta(minutes=minutes) for minutes in (1, 4, 10, 45, 300, 1440))
# After it is over the document is still there for the last look, though the queue may be late.
_KEPT_AFTER = timedelta(days=7)


class AwaitingSignIn:
    """Keeps what waits, and goes on with it."""

    def __init__(
        self,
        adapter: ChannelAdapter,
        store: DocumentStore,
        queue: Queue,
        dead_letters: DeadLetters,
        *,
        new_id: Callable[[], str],
    ) -> None:
        self._adapter = adapter
        self._store = store
        self._queue = queue
        self._dead_letters = dead_letters
        self._new_id = new_id

    async def wait(
        self, item: WorkItem, needed: SignInRequired, *, named: str, conversation_id: str, what: str, most: timedelta
    ) -> None:
        """Let this work wait for the token; when this returns it survives.

        Of two callers with the same `named` both succeed, and the work waits once.

        Args:
            named: what makes it the same waiting work.
            most: how long it waits. Then a turn is dropped, and what nobody would miss otherwise is a dead letter.
        """
        now = self._adapter.now()
        partition = user_partition(needed.channel_id, needed.user_id)
        document_id, round_ = id_for("awaiting", named), self._new_id()
        body: JsonObject = {
            "id": document_id,
            USERS.partition_key: partition,
            "kind": "awaiting_sign_in",
            "round": round_,
            "name": needed.name,
            "connection": needed.connection_name,
            "userId": needed.user_id,
            "channel": needed.channel_id,
            "conversation": conversation_id,
            "what": what,
            "work": item.to_dict(),
            "created": time_text(now),
            "expires": time_text(now + most),
            "ttl": int((most + _KEPT_AFTER).total_seconds()),
        }
        await self._store.upsert(USERS, body)
        await self._queue.send(_look(document_id, partition, round_).to_message(now + LOOKS[0]))
        logger.info("Waits for a sign-in to %r: %s, conversation %r", needed.name, what, conversation_id)

    async def resume(self, partition: str, connection_name: str) -> None:
        """The user has signed in: look at once at everything of his that waits for that."""
        continuation: str | None = None
        while True:
            page = await self._store.query(
                USERS, partition=partition, where=[Where("kind", "=", "awaiting_sign_in")], continuation=continuation
            )
            for document in page.documents:
                if document.body["connection"] == connection_name:
                    look = _look(document.id, partition, document.body["round"], extra=self._new_id())
                    await self._queue.send(look.to_message())
            continuation = page.continuation
            if continuation is None:
                return

    async def work_on(self, item: WorkItem, go_on: Callable[[WorkItem], Awaitable[None]]) -> None:
        """Look whether there is a token, and `go_on` with the work if there is.

        Of two workers at once both may go on; the ledger lets one of them do it.
        """
        document = await self._store.read(USERS, item.payload["user"], item.payload["id"])
        if document is None or document.body["round"] != item.payload["round"]:
            # It went on before, or waits anew and has looks of its own.
            return
        if await self._has_token(document):
            await go_on(WorkItem.from_dict(document.body["work"]))
            # If it waits again, for another connection, the document is another version by now, and stays.
            with suppress(DocumentChanged):
                await self._store.delete(USERS, item.payload["user"], document.id, document.etag)
            return
        now, expires = self._adapter.now(), parse_time(document.body["expires"])
        if now >= expires:
            await self._give_up(document)
        elif not item.payload["extra"]:
            at = now + LOOKS[min(item.wait + 1, len(LOOKS) - 1)]
            await self._queue.send(item.put_back().to_message(min(at, expires)))

    async def _has_token(self, document: Document) -> bool:
        body = document.body
        try:
            service = self._adapter.user_tokens
            return await service.get_token(body["userId"], body["connection"], body["channel"]) is not None
        except (ChannelError, NotSupported, SettingsError) as error:
            logger.warning("Whether the user signed in to %r is not known: %s", body["name"], error)
            return False

    async def _give_up(self, document: Document) -> None:
        body = document.body
        item = WorkItem.from_dict(body["work"])
        logger.info("Nobody signed in to %r: %s ends, key %r", body["name"], body["what"], item.key)
        if item.kind != "turn":
            # First the dead letter: a death in between must leave too much said, not too little.
            await self._dead_letters.add(
                key=item.key,
                what=body["what"],
                reason="SignInExpired",
                explanation=f"It needs a token of the user for {body['name']!r}, and the user did not sign in in time",
                payload=item.to_message().body,
                conversation=body["conversation"],
                attempts=item.attempt,
            )
        with suppress(DocumentChanged):
            await self._store.delete(USERS, body[USERS.partition_key], document.id, document.etag)


def _look(document_id: str, partition: str, round_: str, extra: str = "") -> WorkItem:
    """The message to look at a waiting document; `extra` marks one that is followed by no other."""
    payload = {"user": partition, "id": document_id, "round": round_, "extra": extra}
    return WorkItem("sign_in", f"{document_id}:{round_}:{extra}", payload, scope=partition)
