"""What one turn knows of its conversation and user: as they were read, as they are now, and what of it to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from agent_core.activity.conversation_reference import ConversationReference
from agent_core.errors import NotAllowed
from agent_core.proactive.conversation import Conversation, user_partition
from agent_core.store.document_store import Document
from agent_core.turn.turn_context import TurnContext
from agent_core.turn.turn_state import StateScope, TurnState

# Being seen again is no reason to write, unless it was long ago.
TOUCH_AFTER = timedelta(hours=1)
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
        """Whether the conversation is new, or has moved to another service."""
        return self.before is None or _has_moved(self.before, self.seen)

    def introduced_to(self, known: Conversation | None) -> Conversation | None:
        """What to store before the turn, over what is stored by now; None if another turn has done it."""
        after = seen(known, self.context)
        return after if known is None or _has_moved(known, after) else None

    @property
    def is_changed(self) -> bool:
        """Whether the conversation's document has to be written after the turn."""
        return self.state.conversation.changed or (
            self.before is not None and not self.is_news and _is_worth_a_write(self.before, self.seen)
        )

    def after_turn(self, known: Conversation | None) -> Conversation:
        """The conversation to store, over what is stored by now."""
        latest = seen(known, self.context)
        return replace(latest, state=self.state.conversation.laid_over(latest.state))


def partition_of_user(reference: ConversationReference) -> str | None:
    """A user is one person on one channel; a conversation that the agent created has none until somebody writes."""
    user = reference.user
    return user_partition(reference.channel or "", user.id) if user is not None and user.id else None


def seen(before: Conversation | None, context: TurnContext) -> Conversation:
    """The conversation after this turn was seen; a turn that the agent began itself teaches nothing about it.

    Raises:
        NotAllowed: the conversation is another's. A calling agent names conversations as it likes; its token says
            nothing of them, and whoever could take one over would read its state and be sent what is meant for it.
    """
    if before is not None and not context.proactive:
        caller, owner = context.identity.calling_agent, before.identity.calling_agent
        if caller is not None and (owner is None or owner.lower() != caller.lower()):
            raise NotAllowed("The conversation is none that the calling agent began", code="ConversationNotAllowed")
    if before is not None and (context.proactive or before.last_seen > context.now):
        return before
    known = Conversation(context.conversation, context.identity, context.now) if before is None else before
    if before is not None and before.identity.service_url_verified and not context.identity.service_url_verified:
        # What a validated token said is never replaced by what nobody vouched for.
        return replace(known, last_seen=context.now)
    return replace(
        known,
        reference=context.conversation,
        identity=context.identity,
        last_seen=context.now,
        time_zone=context.activity.local_timezone or known.time_zone,
    )


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
    )


def _is_worth_a_write(before: Conversation, after: Conversation) -> bool:
    return (
        before.reference != after.reference
        or before.identity.persisted() != after.identity.persisted()
        or before.time_zone != after.time_zone
        or after.last_seen - before.last_seen > TOUCH_AFTER
    )
