"""Taking over what an Agents SDK kept, without touching what this agent knows better by now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from agent_core.activity.conversation_reference import split_channel_id
from agent_core.errors import DocumentChanged, DocumentExists
from agent_core.proactive.conversation import Conversation, conversation_document_id, user_partition
from agent_core.proactive.sdk_documents import FoundConversation, FoundState, NotImported, read_document
from agent_core.proactive.turn_record import MAX_CONFLICTS
from agent_core.store.document_store import CONVERSATIONS, USERS, DocumentStore, JsonObject
from agent_core.turn.claims_identity import ClaimsIdentity

Outcome = Literal["imported", "there", "skipped"]
Step = Literal["conversations", "state"]


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of one document.

    Attributes:
        key: under which the SDK stored it.
        kind: what it is, `document` if that is not known.
        outcome: `imported`; `there`, because what is stored is as new or newer; or `skipped`.
        reason: why it was skipped, a stable word; empty if it was not.
        explanation: the same for people.
        verified: whether messages may be sent there before the user has written.
    """

    key: str
    kind: Literal["conversation", "conversation-state", "user-state", "document"]
    outcome: Outcome
    reason: str = ""
    explanation: str = ""
    verified: bool = False


class MovingIn:
    """Imports documents one by one, each as often as one likes: a second time changes nothing.

    The conversations come first and their states after them, because the state of a conversation is part of it here.
    """

    def __init__(
        self,
        store: DocumentStore,
        *,
        app_id: str,
        now: Callable[[], datetime],
        is_trusted: Callable[[Conversation], bool] = lambda conversation: False,
        dry_run: bool = False,
    ) -> None:
        """Args:
        is_trusted: whether an imported service URL counts as verified. No token that we validated had it in it, so
            it does not, unless the operator vouches for it; it is verified when the user next writes.
        dry_run: decide everything and write nothing.
        """
        self._store = store
        self._app_id = app_id
        self._now = now
        self._is_trusted = is_trusted
        self._dry_run = dry_run
        # What a dry run would have imported, so that it can say what would become of the state.
        self._imagined: set[tuple[str, str]] = set()

    async def take(self, item: Mapping[str, Any], step: Step) -> Moved | None:
        """Import one document, None if it belongs to the other step.

        Of two that import at once, or an import and a turn, neither undoes the other: each write is of the version
        that it was decided on.

        Raises:
            StoreUnavailable: the document was imported or not; it can be taken again.
        """
        found = read_document(item, app_id=self._app_id, now=self._now())
        if isinstance(found, FoundState):
            return await self._take_state(found) if step == "state" else None
        if step == "state":
            return None
        if isinstance(found, NotImported):
            return Moved(found.key, "document", "skipped", found.reason, found.explanation)
        return await self._take_conversation(found)

    async def _take_conversation(self, found: FoundConversation) -> Moved:
        conversation = found.conversation
        if self._is_trusted(conversation):
            identity = ClaimsIdentity(conversation.identity.claims, service_url_verified=True)
            conversation = replace(conversation, identity=identity)

        def change(stored: Conversation | None) -> Conversation | None:
            if stored is None:
                return conversation
            verified = conversation.identity.service_url_verified
            if found.written is None or found.written <= stored.last_seen:
                same = stored.reference.service_url == conversation.reference.service_url
                vouched = same and verified and not stored.identity.service_url_verified
                return replace(stored, identity=conversation.identity) if vouched else None
            if stored.identity.service_url_verified and not verified:
                # What a validated token said is never replaced by what nobody vouched for.
                return None
            return replace(
                stored,
                reference=conversation.reference,
                identity=conversation.identity,
                last_seen=conversation.last_seen,
            )

        written = await self._change(conversation.id, conversation.document_id, change)
        outcome: Outcome = "imported" if written else "there"
        return Moved(
            found.key,
            "conversation",
            outcome,
            verified=written is not None and written.identity.service_url_verified,
        )

    async def _take_state(self, found: FoundState) -> Moved:
        if found.user_id is not None:
            return await self._take_user_state(found, found.user_id)
        conversation_id = found.conversation_id or ""
        document_id = conversation_document_id(found.channel_id)
        known = False

        def change(stored: Conversation | None) -> Conversation | None:
            nonlocal known
            known = stored is not None
            return replace(stored, state=found.values) if stored is not None and not stored.state else None

        written = await self._change(conversation_id, document_id, change)
        if not known and (conversation_id, document_id) not in self._imagined:
            return Moved(
                found.key,
                "conversation-state",
                "skipped",
                "unknown-conversation",
                "its conversation is not stored here, so there is nothing that it is the state of",
            )
        return Moved(found.key, "conversation-state", "imported" if written or not known else "there")

    async def _take_user_state(self, found: FoundState, user_id: str) -> Moved:
        partition = user_partition(split_channel_id(found.channel_id)[0] or "", user_id)
        body: JsonObject = {"id": "state", USERS.partition_key: partition, "kind": "state", "state": found.values}
        there = Moved(found.key, "user-state", "there")
        if await self._store.read(USERS, partition, "state") is not None:
            return there
        if not self._dry_run:
            try:
                await self._store.create(USERS, body)
            except DocumentExists:
                return there
        return Moved(found.key, "user-state", "imported")

    async def _change(
        self, conversation_id: str, document_id: str, change: Callable[[Conversation | None], Conversation | None]
    ) -> Conversation | None:
        """Write what `change` makes of what is stored, and return it; None where that is nothing."""
        for _ in range(MAX_CONFLICTS):
            document = await self._store.read(CONVERSATIONS, conversation_id, document_id)
            changed = change(Conversation.from_document(document) if document else None)
            if changed is None:
                return None
            if self._dry_run:
                self._imagined.add((conversation_id, document_id))
                return changed
            try:
                if document is None:
                    await self._store.create(CONVERSATIONS, changed.to_document())
                else:
                    await self._store.replace(CONVERSATIONS, changed.to_document(), document.etag)
                return changed
            except (DocumentExists, DocumentChanged):
                continue
        raise DocumentChanged(f"Conversation {conversation_id!r} is written by too many at once; try again")
