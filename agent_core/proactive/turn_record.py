"""What one turn knows of its conversation and user: as they were read, as they are now, and what of it to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from agent_core.activity.conversation_reference import ConversationReference
from agent_core.errors import NotAllowed
from agent_core.proactive.conversation import Conversation, user_partition
from agent_core.proactive.lifecycle import Change, after_activity, change_of, follow_up
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import USERS, Document, JsonObject
from agent_core.turn.claims_identity import ClaimsIdentity
from agent_core.turn.turn_context import TurnContext
from agent_core.turn.turn_state import StateScope, TurnState

# Being seen again is no reason to write, unless it was long ago.
TOUCH_AFTER = timedelta(hours=1)
# What says that the agent was added somewhere, or removed.
MEMBERSHIP_TYPES = ("conversationUpdate", "contactRelationUpdate", "installationUpdate")
# How often two writers of one document may meet before we call it an error; each round one of them succeeds.
MAX_CONFLICTS = 20


@dataclass(slots=True)
class TurnRecord:
    """One turn's hold on what is kept.

    Attributes:
        stored: the conversation's document as last read or written, None where there is none.
        user: the document of the user's state, likewise.
        state: what the turn's handler works on.
    """

    context: TurnContext
    stored: Document | None
    user: Document | None
    before: Conversation | None = field(init=False)
    seen: Conversation = field(init=False)
    state: TurnState = field(init=False)

    def __post_init__(self) -> None:
        self.before = Conversation.from_document(self.stored) if self.stored else None
        self.seen = seen(self.before, self.context)
        self.state = TurnState(StateScope(self.seen.state), StateScope(self.user.body["state"] if self.user else None))

    @property
    def reference(self) -> ConversationReference:
        """Where the turn takes place."""
        return self.context.conversation

    @property
    def is_news(self) -> bool:
        """Whether the conversation is new, has moved to another service, or is in another status than before."""
        return self.before is None or _has_moved(self.before, self.seen)

    @property
    def change(self) -> Change | None:
        """What the activity says about whether the agent may speak here."""
        return None if self.context.proactive else change_of(self.context.activity, self.context.now)

    @property
    def is_unwanted(self) -> bool:
        """Whether the agent may not speak here any more, so that its turn need not run; one that tells so does."""
        tells_so = self.change is not None and self.change.to != "active"
        return not self.seen.is_active and not tells_so

    @property
    def follow_up(self) -> WorkItem | None:
        """The work that it leaves for other documents."""
        return follow_up(self.before, self.seen, self.change)

    def introduced_to(self, known: Conversation | None) -> Conversation | None:
        """What to store before the turn, over what is stored by now; None if another turn has done it."""
        after = seen(known, self.context)
        return after if known is None or _has_moved(known, after) else None

    @property
    def is_changed(self) -> bool:
        """Whether the conversation's document has to be written after the turn."""
        return self.state.conversation.changed or (
            self.before is not None and not self.is_news and _is_worth_a_write(self.before, self.seen, self.context)
        )

    def after_turn(self, known: Conversation | None) -> Conversation | None:
        """The conversation to store, over what is stored by now; None if it was deleted or forgotten meanwhile, and
        nobody but the agent itself has spoken there since."""
        if known is None and self.context.proactive and self.before is not None:
            return None
        latest = seen(known, self.context)
        if latest.status == "forgotten":
            return None
        return replace(latest, state=self.state.conversation.laid_over(latest.state))


def partition_of_user(reference: ConversationReference, identity: ClaimsIdentity) -> str | None:
    """A user is one person on one channel; a conversation that the agent created has none until somebody writes.

    The users that a calling agent speaks of are its own: it names them as it likes, and must not be shown what is
    remembered of a channel's.
    """
    user = reference.user
    if user is None or not user.id:
        return None
    caller = identity.calling_agent
    channel = reference.channel or ""
    return user_partition(f"{caller.lower()}/{channel}" if caller else channel, user.id)


def state_of_user(partition: str, state: JsonObject, reference: ConversationReference) -> JsonObject:
    """The document of a user's state; with the id of Microsoft Entra, by which all of a user's data is found."""
    user = reference.user
    known_as = {"aadObjectId": user.aad_object_id.lower()} if user is not None and user.aad_object_id else {}
    named = {"id": "state", USERS.partition_key: partition, "kind": "state", "channel": reference.channel}
    return {**named, **known_as, "state": state}


def seen(before: Conversation | None, context: TurnContext) -> Conversation:
    """The conversation after this turn was seen; a turn that the agent began itself teaches nothing about it.

    Raises:
        NotAllowed: the conversation is another's. A calling agent names conversations as it likes; its token says
            nothing of them, and whoever could take one over would read its state and be sent what is meant for it.
    """
    if context.proactive:
        return before or Conversation(context.conversation, context.identity, context.now)
    if before is not None:
        caller, owner = context.identity.calling_agent, before.identity.calling_agent
        if caller is not None and (owner is None or owner.lower() != caller.lower()):
            raise NotAllowed("The conversation is none that the calling agent began", code="ConversationNotAllowed")
    return after_activity(before, context.activity, context.identity, context.now)


def merged(scope: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A state with changes laid over it that come late: a key that somebody else changed since stays as it is."""
    result = dict(scope)
    for key, change in changes.items():
        if result.get(key) != change.get("from"):
            continue
        if "to" in change:
            result[key] = change["to"]
        else:
            result.pop(key, None)
    return result


def _has_moved(before: Conversation, after: Conversation) -> bool:
    return (
        before.reference.service_url != after.reference.service_url
        or before.identity.service_url_verified != after.identity.service_url_verified
        or (before.status, before.reason) != (after.status, after.reason)
    )


def _is_worth_a_write(before: Conversation, after: Conversation, context: TurnContext) -> bool:
    return (
        before.reference != after.reference
        or before.identity.persisted() != after.identity.persisted()
        or (before.time_zone, before.team_id) != (after.time_zone, after.team_id)
        # So that an older removal, which may come later, is known to be older.
        or (before.since != after.since and context.activity.type in MEMBERSHIP_TYPES)
        or after.last_seen - before.last_seen > TOUCH_AFTER
    )
