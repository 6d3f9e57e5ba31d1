"""What recipients want of notifications, kept: whether they want any, when not, and what came and waits for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from agent_core.activity.conversation_reference import ConversationReference
from agent_core.errors import ConversationNotFound, DocumentChanged, DocumentExists, InvalidSchedule
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.conversations import Conversations
from agent_core.proactive.quiet_hours import QuietHours
from agent_core.proactive.turn_record import MAX_CONFLICTS, partition_of_user
from agent_core.store.document_store import (
    CONVERSATIONS,
    USERS,
    Container,
    Document,
    DocumentStore,
    JsonObject,
    id_for,
    parse_time,
    time_text,
)

logger = logging.getLogger(__name__)

DOCUMENT_ID = "preferences"


@dataclass(frozen=True, slots=True)
class HeldNotification:
    """A notification that waits for its recipient.

    Attributes:
        nominal: when it was to come; those of one recipient go by this.
        at: when it is decided about again.
    """

    nominal: datetime
    at: datetime

    def to_dict(self) -> JsonObject:
        """As it is stored."""
        return {"nominal": time_text(self.nominal), "at": time_text(self.at)}


@dataclass(frozen=True, slots=True)
class Preferences:
    """What one recipient wants: a user, or a conversation of several as a whole.

    Attributes:
        muted: since when nothing is wanted; None: notifications are.
        quiet_hours: when not, besides the app's rule for all; None: whenever that allows.
        sent: when notifications were let through that count for a limit a day, by a digest of conversation and key.
        held: what waits, likewise; a hundred at most.
    """

    muted: datetime | None = None
    quiet_hours: QuietHours | None = None
    sent: Mapping[str, datetime] = field(default_factory=dict)
    held: Mapping[str, HeldNotification] = field(default_factory=dict)

    @classmethod
    def from_document(cls, document: Document | None) -> Preferences:
        """What is stored, or what holds where nothing is.

        Quiet hours that cannot be read any more, such as of a zone that was taken out of the zone data, are left out.
        """
        if document is None:
            return cls()
        body = document.body
        quiet_hours = None
        if body["quietHours"] is not None:
            try:
                quiet_hours = QuietHours.from_dict(body["quietHours"])
            except InvalidSchedule as error:
                logger.warning("Quiet hours of a recipient are not kept, for they cannot be read: %s", error)
        return cls(
            muted=parse_time(body["muted"]) if body["muted"] is not None else None,
            quiet_hours=quiet_hours,
            sent={record: parse_time(at) for record, at in body["sent"].items()},
            held={
                record: HeldNotification(parse_time(each["nominal"]), parse_time(each["at"]))
                for record, each in body["held"].items()
            },
        )


@dataclass(frozen=True, slots=True)
class PreferenceOwner:
    """Whose preferences hold in a conversation: its user's where the agent is alone with one, else the conversation's.

    Attributes:
        names: what of it is written into the document, for whoever looks for a user's data.
    """

    container: Container
    partition: str
    document_id: str
    names: Mapping[str, str]

    @classmethod
    def of(cls, conversation: Conversation) -> PreferenceOwner:
        """The recipient of a conversation's notifications."""
        reference, user = conversation.reference, conversation.reference.user
        channel = reference.channel or ""
        partition = partition_of_user(reference, conversation.identity) if reference.is_personal else None
        if partition is None:
            return cls(CONVERSATIONS, conversation.id, id_for(DOCUMENT_ID, channel), {"channel": channel})
        entra_id = {"aadObjectId": user.aad_object_id.lower()} if user is not None and user.aad_object_id else {}
        return cls(USERS, partition, DOCUMENT_ID, {"channel": channel, **entra_id})


class PreferenceStore:
    """Reads and writes the preferences of recipients.

    Of two changes at once both are kept: the second is made of what the first wrote. Of the same thing the later stays.
    """

    def __init__(self, store: DocumentStore, conversations: Conversations, *, now: Callable[[], datetime]) -> None:
        self._store = store
        self._conversations = conversations
        self._now = now

    async def get(self, to: ConversationReference | Conversation | str) -> Preferences:
        """What the recipient wants. Raises ConversationNotFound."""
        return Preferences.from_document(await self.read(PreferenceOwner.of(await self._conversation(to))))

    async def mute(self, to: ConversationReference | Conversation | str) -> None:
        """No notification from now on, urgent ones included; what waits is dropped. Raises ConversationNotFound."""
        await self._set(to, lambda body: {"muted": body["muted"] or time_text(self._now())})

    async def unmute(self, to: ConversationReference | Conversation | str) -> None:
        """Notifications again; those dropped meanwhile do not come. Raises ConversationNotFound."""
        await self._set(to, lambda body: {"muted": None})

    async def set_quiet_hours(
        self, to: ConversationReference | Conversation | str, quiet_hours: QuietHours | None
    ) -> None:
        """When no notification is to come; None: whenever the app's rule allows. What waits already goes on waiting
        until the time that was found for it. Raises ConversationNotFound."""
        rule = None if quiet_hours is None else quiet_hours.to_dict()
        await self._set(to, lambda body: {"quietHours": rule})

    async def read(self, recipient: PreferenceOwner) -> Document | None:
        """The document, None if nothing is kept."""
        return await self._store.read(recipient.container, recipient.partition, recipient.document_id)

    async def write(self, recipient: PreferenceOwner, stored: Document | None, changes: JsonObject) -> Document:
        """Set these fields in the version that was read; raises DocumentExists or DocumentChanged if it is another's by
        now."""
        body = {**_empty(recipient), **(stored.body if stored else {}), **recipient.names, **changes}
        if stored is None:
            return await self._store.create(recipient.container, body)
        return await self._store.replace(recipient.container, body, stored.etag)

    async def _set(
        self, to: ConversationReference | Conversation | str, change: Callable[[JsonObject], JsonObject]
    ) -> None:
        recipient = PreferenceOwner.of(await self._conversation(to))
        for _ in range(MAX_CONFLICTS):
            stored = await self.read(recipient)
            try:
                await self.write(recipient, stored, change(stored.body if stored else _empty(recipient)))
                return
            except (DocumentExists, DocumentChanged):
                continue
        raise DocumentChanged("The preferences of a recipient are written by too many at once; try again")

    async def _conversation(self, to: ConversationReference | Conversation | str) -> Conversation:
        if isinstance(to, Conversation):
            return to
        if isinstance(to, str):
            return await self._conversations.find(to)
        known = await self._conversations.get(to.conversation_id, to.channel_id)
        if known is None:
            raise ConversationNotFound(to.conversation_id)
        # A turn's reference is newer than what is stored before the turn's end.
        return replace(known, reference=to) if to.user is not None else known


def _empty(recipient: PreferenceOwner) -> JsonObject:
    return {
        "id": recipient.document_id,
        recipient.container.partition_key: recipient.partition,
        "kind": "preferences",
        "muted": None,
        "quietHours": None,
        "sent": {},
        "held": {},
    }
