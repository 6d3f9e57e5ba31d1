"""Everything that is kept about a user, deleted on request: the right to erasure, with a report of what went.

A death half-way leaves a rest that the next run finds, because what leads to other documents is deleted after them.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from agent_core.activity.conversation_reference import split_channel_id
from agent_core.activity.json_text import MAX_DEPTH, parse_object
from agent_core.errors import BadActivity
from agent_core.proactive.conversation import Conversation, user_partition
from agent_core.proactive.conversations import Conversations
from agent_core.proactive.directory import ConversationDirectory, ConversationFilter
from agent_core.proactive.lifecycle_work import every
from agent_core.proactive.recipients import UserRecipient
from agent_core.proactive.turn_record import partition_of_user
from agent_core.store.document_store import (
    CONVERSATIONS,
    SCHEDULES,
    USERS,
    Container,
    Document,
    DocumentStore,
    Where,
)

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ErasureReport:
    """What went.

    Attributes:
        deleted: how many documents, by their kind: `conversation`, `state` (of the user), `schedule`, `delivery`,
            `expected_callback`, `claim`, `dead_letter`, `sign_in`, `awaiting_sign_in`, `preferences`.
        scrubbed: conversations of several users that stay, without what named the user.
        conversation_ids: of the conversations that were deleted.
        dry_run: nothing was written; this is what would go.
    """

    deleted: Counter[str] = field(default_factory=Counter)
    scrubbed: int = 0
    conversation_ids: list[str] = field(default_factory=list)
    dry_run: bool = False
    _counted: set[tuple[str, str, str]] = field(default_factory=set, repr=False)

    def counts(self, container: Container, document: Document) -> bool:
        """Count a document, once; False if it was counted before."""
        place = (container.name, str(document.body[container.partition_key]), document.id)
        if place in self._counted:
            return False
        self._counted.add(place)
        self.deleted[str(document.body["kind"])] += 1
        return True

    def to_dict(self) -> dict[str, Any]:
        """JSON, as the command line shows it."""
        return {
            "deleted": dict(sorted(self.deleted.items())),
            "scrubbed": self.scrubbed,
            "conversations": self.conversation_ids,
            "dryRun": self.dry_run,
        }


class UserData:
    """Deletes what is kept about a user.

    Its queries go over all partitions: for operators and the work queue, not for the path of a turn. Of two that
    delete at once both succeed, and each reports what it deleted. What the user does meanwhile can leave something
    behind, and so can work that waits on a queue: delete again later.

    Not touched, because nothing says that it is about the user: the state of conversations of several users, schedules
    and callbacks of those, and what the channel and Entra keep.
    """

    def __init__(self, store: DocumentStore, conversations: Conversations) -> None:
        self._store = store
        self._conversations = conversations
        self._directory = ConversationDirectory(store, conversations)

    async def delete(
        self,
        aad_object_id: str | None = None,
        *,
        channel_id: str | None = None,
        user_id: str | None = None,
        dry_run: bool = False,
    ) -> ErasureReport:
        """Delete everything about one user: by the id in Microsoft Entra, or by channel and the id there.

        Args:
            aad_object_id: the user on all channels, or on `channel_id` only.
            user_id: the user's id on the channel, where there is no other; needs `channel_id`.
            dry_run: report what would go, and write nothing.

        Raises:
            ValueError: no user is named.
            StoreError: something is left; delete again to go on.
        """
        if not aad_object_id and not (user_id and channel_id):
            raise ValueError("Name the user: by aad_object_id, or by channel_id and user_id")
        report = ErasureReport(dry_run=dry_run)
        channel = split_channel_id(channel_id)[0]
        names = {name.lower() for name in (aad_object_id, user_id) if name}
        partitions = {user_partition(channel, user_id)} if channel and user_id else set()
        which = ConversationFilter(aad_object_id=aad_object_id, user_id=user_id, channel_id=channel)
        async for conversation in self._directory.every(which):
            user = conversation.reference.user
            if user is not None and user.id:
                names.add(user.id.lower())
                partition = partition_of_user(conversation.reference, conversation.identity)
                if partition is not None:
                    await self._delete_partition_of_user(partition, report)
            await self._delete_or_scrub(conversation, report)
        for partition in partitions:
            await self._delete_partition_of_user(partition, report)
        recipients = [UserRecipient(aad_object_id)] if aad_object_id else []
        if channel and user_id:
            recipients.append(UserRecipient(channel_id=channel, user_id=user_id))
        for recipient in recipients:
            async for document in every(self._store, SCHEDULES, [Where("recipient", "=", recipient.name)]):
                await self._delete(SCHEDULES, document, report)
        if aad_object_id:
            await self._delete_states(aad_object_id.lower(), channel, report)
        await self._delete_dead_letters(names, report)
        logger.info("Erasure: %s, %d conversations scrubbed", dict(report.deleted), report.scrubbed)
        return report

    async def _delete_or_scrub(self, conversation: Conversation, report: ErasureReport) -> None:
        if not conversation.reference.is_personal:
            await self._scrub(conversation, report)
            return
        channel = conversation.reference.channel
        async for document in every(self._store, SCHEDULES, [Where("conversation", "=", conversation.id)]):
            if split_channel_id(document.body.get("channel"))[0] == channel:
                await self._delete(SCHEDULES, document, report)
        # Other channels may have a conversation of that id. What does not say which one it belongs to is ours if ours
        # is the only one.
        documents = [document async for document in every(self._store, CONVERSATIONS, [], partition=conversation.id)]
        alone = sum(document.body["kind"] == "conversation" for document in documents) == 1
        for document in documents:
            if document.id != conversation.document_id and (alone or document.body.get("channel") == channel):
                await self._delete(CONVERSATIONS, document, report)
        # Last, for it leads to all of the others.
        for document in documents:
            if document.id == conversation.document_id:
                await self._delete(CONVERSATIONS, document, report)
                report.conversation_ids.append(conversation.id)

    async def _scrub(self, conversation: Conversation, report: ErasureReport) -> None:
        """Take the user out of a conversation of several, unless another one was heard of there by now."""
        user = conversation.reference.user

        def without_user(known: Conversation | None) -> Conversation | None:
            if known is None or known.reference.user is None or user is None or known.reference.user.id != user.id:
                return None
            return known.without_user()

        if not report.dry_run:
            await self._conversations.change(conversation.reference, without_user)
        report.scrubbed += 1

    async def _delete_partition_of_user(self, partition: str, report: ErasureReport) -> None:
        documents = [document async for document in every(self._store, USERS, [], partition=partition)]
        # Last what is found by the user's id, the state and the preferences.
        for document in sorted(documents, key=lambda document: "aadObjectId" in document.body):
            await self._delete(USERS, document, report)

    async def _delete_states(self, aad_object_id: str, channel: str | None, report: ErasureReport) -> None:
        """What is kept of a user whose conversations are gone, on each channel."""
        named = [Where("aadObjectId", "=", aad_object_id)]
        found = [document.body async for document in every(self._store, USERS, named)]
        for partition in {body[USERS.partition_key] for body in found if channel in (None, body["channel"])}:
            await self._delete_partition_of_user(partition, report)

    async def _delete_dead_letters(self, names: set[str], report: ErasureReport) -> None:
        """Dead letters of other conversations that name the user, such as a turn of the user's in a group."""
        async for document in every(self._store, CONVERSATIONS, [Where("kind", "=", "dead_letter")]):
            if _names_one_of(names, str(document.body["payload"])):
                await self._delete(CONVERSATIONS, document, report)

    async def _delete(self, container: Container, document: Document, report: ErasureReport) -> None:
        # Several ways lead to some of them.
        if report.counts(container, document) and not report.dry_run:
            await self._store.delete(container, document.body[container.partition_key], document.id)


def _names_one_of(names: set[str], payload: str) -> bool:
    """Whether an account of one of these names is in the payload; the word alone, such as a role, is none."""
    try:
        found: Any = parse_object(payload.encode(), MAX_DEPTH + 8)
    except BadActivity:
        return any(f'"{name}"' in payload.lower() for name in names)
    left = [found]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            if any(str(value.get(key, "")).lower() in names for key in ("id", "aadObjectId")):
                return True
            left += value.values()
    return False
