"""What becomes of a conversation when something is heard of it or a message is refused: decided here, kept elsewhere.

The newest activity wins, in whatever order they arrive. So all times are the channel's, as far as it told.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from agent_core.activity.activity import Activity
from agent_core.activity.activity_types import TeamsEventTypes
from agent_core.activity.conversation_reference import ConversationReference
from agent_core.errors import ChannelError
from agent_core.proactive.conversation import UNINSTALLED, UPGRADING, Conversation, Status
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import JsonObject, parse_time, time_text
from agent_core.turn.claims_identity import ClaimsIdentity

# A clock that is ahead must not make everything that follows look old.
_MOST_AHEAD = timedelta(minutes=1)

# Somebody does something with the agent, which is not possible where it may not speak.
_SPEAKING = (
    *("message", "messageUpdate", "messageReaction", "event", "invoke", "command", "commandResult"),
    *("typing", "suggestion", "handoff"),
)
# What installationUpdate and contactRelationUpdate say in `action`.
_ADDED = ("add", "add-upgrade")
_REMOVED = {"remove": UNINSTALLED, "remove-upgrade": UPGRADING}

# What of Teams makes the agent silent, and what undoes it; about a whole team or one of its channels.
_TEAM_STOPS = (TeamsEventTypes.team_deleted, TeamsEventTypes.team_archived)
_TEAM_GOES_ON = {
    TeamsEventTypes.team_restored: TeamsEventTypes.team_deleted,
    TeamsEventTypes.team_unarchived: TeamsEventTypes.team_archived,
}
_CHANNEL_GOES_ON = {TeamsEventTypes.channel_restored: TeamsEventTypes.channel_deleted}


@dataclass(frozen=True, slots=True)
class Change:
    """What an activity or a refusal says about whether the agent may speak.

    Attributes:
        to: the status that it calls for.
        reason: why, empty for `active`.
        at: when it happened.
        lifts: for `active`: the only reason to be suspended that this ends; None: any, and being forgotten too.
        team_id, teams_channel_id: it is about all conversations of that team or channel, in Teams.
        timed: the channel told `at`; else it is when we heard of it, and what we hear later is newer.
    """

    to: Status
    reason: str
    at: datetime
    lifts: str | None = None
    team_id: str | None = None
    teams_channel_id: str | None = None
    timed: bool = True

    @property
    def is_wide(self) -> bool:
        """Whether it is about others than the conversation that it was heard in."""
        return self.team_id is not None or self.teams_channel_id is not None

    def is_about(self, conversation: Conversation) -> bool:
        """Whether it concerns this one. What happens to a channel of a team is told in the team's General channel."""
        return self.teams_channel_id is None or self.teams_channel_id == conversation.teams_channel_id

    def to_dict(self) -> JsonObject:
        """JSON, for the work queue."""
        return {
            "to": self.to,
            "reason": self.reason,
            "at": time_text(self.at),
            "lifts": self.lifts,
            "teamId": self.team_id,
            "teamsChannelId": self.teams_channel_id,
            "timed": self.timed,
        }

    @classmethod
    def from_dict(cls, json_object: JsonObject) -> Change:
        """The change that `to_dict` wrote."""
        named: dict[str, Any] = dict(json_object)
        return cls(
            to=named["to"],
            reason=named["reason"],
            at=parse_time(named["at"]),
            lifts=named["lifts"],
            team_id=named["teamId"],
            teams_channel_id=named["teamsChannelId"],
            timed=named["timed"],
        )


def happened_at(activity: Activity, now: datetime) -> datetime:
    """When this activity was sent, by the channel's clock; `now`, when it came in, where the channel does not tell."""
    return min(activity.sent_at or now, now + _MOST_AHEAD)


def change_of(activity: Activity, now: datetime) -> Change | None:
    """What this activity says about whether the agent may speak; None: nothing."""
    change = _change_of(activity, now)
    return change and replace(change, timed=activity.sent_at is not None)


def _change_of(activity: Activity, now: datetime) -> Change | None:
    at = happened_at(activity, now)
    kind, data = activity.type, activity.teams_channel_data
    team_id = data.team.id if data.team is not None else None
    if kind in _SPEAKING:
        return Change("active", "", at)
    if kind in ("installationUpdate", "contactRelationUpdate"):
        action = activity.action or ""
        if action in _ADDED:
            return Change("active", "", at, team_id=team_id)
        return Change("suspended", _REMOVED[action], at, team_id=team_id) if action in _REMOVED else None
    if kind != "conversationUpdate":
        return None
    agent_id = activity.recipient.id if activity.recipient is not None else None
    if agent_id and any(member.id == agent_id for member in activity.members_removed):
        return Change("suspended", UNINSTALLED, at, team_id=team_id)
    if agent_id and any(member.id == agent_id for member in activity.members_added):
        return Change("active", "", at, team_id=team_id)
    teams_channel_id = data.channel.id if data.channel is not None else None
    return _change_of_team(data.event_type or "", at, team_id, teams_channel_id)


def _change_of_team(event: str, at: datetime, team_id: str | None, teams_channel_id: str | None) -> Change | None:
    if team_id is not None:
        if event in _TEAM_STOPS:
            return Change("suspended", event, at, team_id=team_id)
        if event in _TEAM_GOES_ON:
            return Change("active", "", at, lifts=_TEAM_GOES_ON[TeamsEventTypes(event)], team_id=team_id)
        if event == TeamsEventTypes.team_hard_deleted:
            return Change("forgotten", event, at, team_id=team_id)
    if teams_channel_id is not None:
        if event == TeamsEventTypes.channel_deleted:
            return Change("suspended", event, at, teams_channel_id=teams_channel_id)
        if event in _CHANNEL_GOES_ON:
            lifts = _CHANNEL_GOES_ON[TeamsEventTypes(event)]
            return Change("active", "", at, lifts=lifts, teams_channel_id=teams_channel_id)
    return None


def change_after_failure(error: ChannelError, now: datetime) -> Change | None:
    """What a refused message says about its conversation; None where it says nothing, or is no refusal for good."""
    if error.decision == "blocked":
        # Of two codes the inner one is the one that says why.
        return Change("suspended", error.sub_code or error.code or "blocked", now, timed=False)
    if error.decision == "gone":
        if error.code == "ConversationNotFound":
            return Change("forgotten", error.code, now, timed=False)
        if error.code in ("ActivityNotFoundInConversation", "MessageNotFound"):
            return None
        # Web Chat says "BadArgument: Unknown conversation"; others say nothing. What is remembered stays for a while.
        return Change("suspended", "gone", now, timed=False)
    return None


def follow_up(before: Conversation | None, after: Conversation, change: Change | None) -> WorkItem | None:
    """The work that a change leaves for other documents than this conversation's: of the team's or channel's other
    conversations, and what was pending for those that ended. To be queued before the change is written, so that no
    death in between loses it; done twice it has one effect."""
    ended = after.is_ended and (before is None or not before.is_ended)
    if change is None or not (change.is_wide or ended):
        return None
    payload = {"conversation": after.id, "channel": after.reference.channel, "change": change.to_dict()}
    key = f"lifecycle:{change.to}:{change.reason or change.lifts or ''}:{time_text(change.at)}"
    return WorkItem("lifecycle", key, payload, scope=f"{after.reference.channel}:{after.id}")


def after_change(conversation: Conversation, change: Change | None) -> Conversation:
    """The conversation after this was heard, which may be older than what it knows: then it stays as it is.

    Of two things that happen at the same time the one that lets the agent speak counts, whichever is heard first.
    """
    if change is None or change.at < conversation.since or not change.is_about(conversation):
        return conversation
    if change.to == "active":
        ends = change.lifts is None or conversation.is_active or conversation.reason == change.lifts
        if not ends or (conversation.status == "forgotten" and change.lifts is not None):
            return conversation
        return replace(conversation, status="active", reason="", since=change.at)
    if (
        conversation.is_active and change.timed and change.at == conversation.since
    ) or conversation.status == "forgotten":
        return conversation
    if change.to == "forgotten":
        return replace(conversation, status="forgotten", reason=change.reason, since=change.at).forgotten()
    if conversation.reason == UNINSTALLED:
        # It is not there any more; what happens to the team besides changes nothing.
        return conversation
    return replace(conversation, status="suspended", reason=change.reason, since=change.at)


def after_activity(
    before: Conversation | None, activity: Activity, identity: ClaimsIdentity, now: datetime
) -> Conversation:
    """The conversation after this activity came in, `now`.

    The newest activity says where the conversation is and as whom the agent speaks there; an older one, or one of the
    same time, only adds what is missing. What a validated token said is never replaced by what nobody vouched for.
    Delivery mode and reply id belong to the activity, and are not kept.
    """
    change, at = change_of(activity, now), happened_at(activity, now)
    if before is not None and before.status == "forgotten":
        if change is None or not after_change(before, change).is_active:
            return before
        before = None
    if before is None:
        return after_change(_first_seen(activity, identity, at), change)
    return after_change(_seen_again(before, activity, identity, at), change)


def _first_seen(activity: Activity, identity: ClaimsIdentity, at: datetime) -> Conversation:
    data, reference = activity.teams_channel_data, activity.get_conversation_reference()
    conversation = reference.conversation
    if conversation is not None and conversation.tenant_id is None and data.tenant is not None:
        reference = reference.replace(conversation=conversation.replace(tenant_id=data.tenant.id))
    return Conversation(
        reference=reference.replace(activity_id=None, delivery_mode=None),
        identity=identity,
        last_seen=at,
        time_zone=activity.local_timezone or None,
        team_id=data.team.id if data.team is not None else None,
    )


def _seen_again(before: Conversation, activity: Activity, identity: ClaimsIdentity, at: datetime) -> Conversation:
    last_seen = max(before.last_seen, at)
    if before.identity.service_url_verified and not identity.service_url_verified:
        return replace(before, last_seen=last_seen)
    news = _first_seen(activity, identity, at)
    vouched = identity.service_url_verified and not before.identity.service_url_verified
    if vouched or at > before.last_seen or (at == before.last_seen and activity.sent_at is None):
        reference, older = news.reference, before
        if activity.type == "conversationUpdate" and before.reference.user is not None:
            # Whoever changes the members does not speak.
            reference = reference.replace(user=before.reference.user)
        newer = replace(news, reference=reference)
    else:
        newer, older = before, news
    return replace(
        before,
        reference=_completed(newer.reference, older.reference),
        identity=newer.identity,
        last_seen=last_seen,
        time_zone=newer.time_zone or older.time_zone,
        team_id=newer.team_id or older.team_id,
    )


def _completed(reference: ConversationReference, other: ConversationReference) -> ConversationReference:
    """With what only the other one knows of the same conversation, agent and user, such as roles and agentic ids."""
    if reference == other:
        return reference
    completed, known = reference.to_dict(), other.to_dict()
    for name, value in known.items():
        mine = completed.get(name)
        if mine is None:
            completed[name] = value
        elif isinstance(mine, dict) and isinstance(value, dict) and mine.get("id") == value.get("id"):
            completed[name] = {**value, **{key: each for key, each in mine.items() if each is not None}}
    return ConversationReference.from_dict(completed)
