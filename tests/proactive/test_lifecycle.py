"""What an activity or a refusal does to a conversation: by the channel's clock, whatever arrives first."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent_core import Activity, ClaimsIdentity, Conversation
from agent_core.errors import ChannelError, Decision
from agent_core.proactive.conversation import KEPT_FORGOTTEN, UNINSTALLED, UPGRADING
from agent_core.proactive.lifecycle import Change, after_activity, after_change, change_after_failure, change_of
from agent_core.store.document_store import Document

PAYLOADS = Path(__file__).parent.parent / "payloads"
NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
VERIFIED = ClaimsIdentity({"aud": "agent"}, service_url_verified=True)
TEAM = "19:7c6b5a4d3e2f1a0b9c8d7e6f5a4b3c2d@thread.tacv2"
ORDERS = "19:3a9d1f0b6c5e4f7d8a2b1c0d9e8f7a6b@thread.tacv2"


def payload(name: str, second: int | None = None, **changes: Any) -> Activity:
    """A payload as it arrives, sent at that second after nine."""
    activity = Activity.from_dict(json.loads((PAYLOADS / f"{name}.json").read_text()))
    if second is not None:
        activity = activity.replace(timestamp=f"2026-11-20T09:00:{second:02d}.1234567Z")
    return activity.replace(**changes)


def after(*activities: Activity, identity: ClaimsIdentity = VERIFIED) -> Conversation:
    """The conversation after these arrived, in this order; written and read in between."""
    conversation = None
    for number, activity in enumerate(activities):
        conversation = after_activity(conversation, activity, identity, NOW + timedelta(seconds=number))
        conversation = Conversation.from_document(Document(conversation.to_document(), "1"))
    assert conversation is not None
    return conversation


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("teams_message", ("active", "", False)),
        ("teams_agent_added", ("active", "", False)),
        ("teams_upgraded", ("active", "", False)),
        ("teams_reaction_added", ("active", "", False)),
        ("invoke_task_fetch", ("active", "", False)),
        ("teams_installed_in_channel", ("active", "", True)),
        ("teams_removed", ("suspended", UNINSTALLED, False)),
        ("teams_team_member_removed", ("suspended", UNINSTALLED, True)),
        ("contact_relation_update", ("active", "", False)),
        ("teams_team_deleted", ("suspended", "teamDeleted", True)),
        ("teams_team_archived", ("suspended", "teamArchived", True)),
        ("teams_team_hard_deleted", ("forgotten", "teamHardDeleted", True)),
        ("teams_channel_deleted", ("suspended", "channelDeleted", True)),
        ("teams_team_restored", ("active", "", True)),
        ("teams_team_unarchived", ("active", "", True)),
        ("teams_channel_restored", ("active", "", True)),
        ("teams_team_member_added", None),
        ("teams_team_renamed", None),
        ("teams_channel_created", None),
        ("teams_message_delete", None),
        ("delete_user_data", None),
        ("end_of_conversation", None),
        ("emulator_trace", None),
    ],
)
def test_each_payload_says_whether_the_agent_may_speak(name: str, expected: tuple[str, str, bool] | None) -> None:
    """proactive.md 6.5: install reactivates, uninstall ends, team events come and go."""
    change = change_of(payload(name), NOW)
    assert (change and (change.to, change.reason, change.is_wide)) == expected
    if change is not None:
        assert Change.from_dict(json.loads(json.dumps(change.to_dict()))) == change


def test_an_upgrade_removes_the_agent_for_a_moment_only() -> None:
    removed = payload("teams_removed", 1, action="remove-upgrade")
    during = after(payload("teams_message", 0), removed)
    assert (during.status, during.reason, during.is_ended) == ("suspended", UPGRADING, False)
    assert after(payload("teams_message", 0), removed, payload("teams_upgraded", 2)).is_active


@pytest.mark.parametrize("kept", [1, 2, 3], ids=str)
def test_installed_removed_and_installed_again_end_the_same_in_every_order(kept: int) -> None:
    """Teams sends them together and out of order: https://github.com/microsoft/botbuilder-dotnet/issues/6875"""
    events = [
        payload("teams_upgraded", 10, action="add"),
        payload("teams_removed", 20),
        payload("teams_upgraded", 30, action="add"),
    ][:kept]
    found = {after(payload("teams_message", 0), *order).status for order in itertools.permutations(events)}
    assert found == {"suspended" if kept == 2 else "active"}


def test_a_team_is_archived_and_back_in_every_order() -> None:
    events = [payload("teams_team_archived", 10), payload("teams_team_unarchived", 20)]
    for order in itertools.permutations(events):
        assert after(payload("teams_installed_in_channel", 0), *order).is_active


def test_added_and_removed_at_the_same_time_is_added_in_both_orders() -> None:
    events = [payload("teams_upgraded", 10), payload("teams_removed", 10)]
    assert {after(*order).status for order in itertools.permutations(events)} == {"active"}


def test_without_a_timestamp_the_order_of_arrival_counts() -> None:
    told = [payload("teams_upgraded", timestamp=None), payload("teams_removed", timestamp=None)]
    same_time = after_activity(after_activity(None, told[0], VERIFIED, NOW), told[1], VERIFIED, NOW)
    assert same_time.status == "suspended"
    assert same_time.since == NOW


def test_what_restores_a_team_does_not_undo_something_else() -> None:
    blocked = after_change(
        after(payload("teams_team_renamed", 0)), Change("suspended", "BotDisabledByAdmin", NOW, timed=False)
    )
    restored = change_of(payload("teams_team_restored", timestamp="2026-11-20T11:00:00Z"), NOW + timedelta(hours=2))
    assert after_change(blocked, restored) == blocked
    spoken = change_of(payload("teams_message", timestamp="2026-11-20T11:00:00Z"), NOW + timedelta(hours=2))
    assert after_change(blocked, spoken).is_active


def test_a_removed_agent_stays_removed_whatever_happens_to_the_team() -> None:
    removed = after(payload("teams_installed_in_channel", 0), payload("teams_team_member_removed", 1))
    for number, name in enumerate(("teams_team_archived", "teams_team_unarchived", "teams_team_deleted"), 2):
        removed = after_activity(removed, payload(name, number), VERIFIED, NOW)
        assert (removed.reason, removed.is_ended) == (UNINSTALLED, True)


def test_a_deleted_channel_is_told_in_the_general_channel_and_does_not_suspend_that() -> None:
    general = after(payload("teams_team_renamed", 0), payload("teams_channel_deleted", 1))
    assert general.id == TEAM
    assert general.is_active
    thread = after(payload("teams_channel_message", 0))
    assert thread.teams_channel_id == ORDERS
    assert after_change(thread, change_of(payload("teams_channel_deleted", 1), NOW)).reason == "channelDeleted"


def test_the_newest_activity_says_where_the_conversation_is_in_every_order() -> None:
    """proactive.md 4: a late activity must not roll a reference back."""
    old = payload("teams_message", 1, service_url="https://smba.trafficmanager.net/old/", locale="de-DE")
    new = payload("teams_message", 2, service_url="https://smba.trafficmanager.net/new/", locale=None)
    for order in itertools.permutations([old, new]):
        conversation = after(*order)
        assert conversation.reference.service_url == "https://smba.trafficmanager.net/new/"
        assert conversation.reference.locale == "de-DE", "the newer one did not say"
        assert conversation.last_seen == new.sent_at


def test_an_activity_of_the_same_time_only_adds_what_is_missing() -> None:
    first = payload("teams_message", 1, locale=None, local_timezone=None)
    same = payload("teams_message", 1, locale="fr-FR", service_url="https://smba.trafficmanager.net/other/")
    conversation = after(first, same)
    assert conversation.reference.service_url == first.service_url
    assert conversation.reference.locale == "fr-FR"
    assert conversation.time_zone == "Europe/Paris"


def test_roles_agentic_ids_and_the_tenant_survive_an_activity_without_them() -> None:
    """proactive.md 3.5: a reference that lost them is answered with the wrong token, and nobody notices."""
    full = payload("agentic_message", 1)
    assert full.recipient is not None
    bare = full.replace(
        timestamp="2026-11-20T09:00:02Z", recipient=full.recipient.replace(role=None, agentic_app_id=None)
    )
    agent = after(full, bare).reference.agent
    assert agent is not None
    assert (agent.role, agent.agentic_user_id) == ("agenticUser", "7d8e9f00-0000-4000-8000-000000000004")
    assert agent.agentic_app_id == "3c4d5e6f-0000-4000-8000-000000000003"
    assert after(full, bare).tenant_id == "00000000-0000-0000-0000-000000000001"


def test_the_tenant_is_kept_where_only_the_channel_data_names_it() -> None:
    message = payload("teams_message", 1)
    assert message.conversation is not None
    bare = message.replace(conversation=message.conversation.replace(tenant_id=None))
    assert after(bare).tenant_id == after(message).tenant_id == "00000000-0000-0000-0000-000000000001"


def test_the_thread_stays_and_delivery_mode_and_reply_id_do_not() -> None:
    conversation = after(payload("teams_channel_message", 1, delivery_mode="expectReplies"))
    assert conversation.id == f"{ORDERS};messageid=1763630130507"
    assert "deliveryMode" not in conversation.reference.to_dict()
    assert "activityId" not in conversation.reference.to_dict()
    assert (conversation.team_id, conversation.teams_channel_id) == (TEAM, ORDERS)


@pytest.mark.parametrize("path", sorted(PAYLOADS.glob("*.json")), ids=lambda path: path.stem)
def test_being_heard_of_again_in_the_same_way_changes_nothing_that_is_worth_a_write(path: Path) -> None:
    activity = payload(path.stem, 1)
    if not activity.conversation_id or not is_received(activity):
        return
    first = after(activity)
    second = after_activity(first, payload(path.stem, 2), VERIFIED, NOW)
    assert replace(second, last_seen=first.last_seen, since=first.since) == first


def is_received(activity: Activity) -> bool:
    """Whether a channel sends it, and not the agent."""
    return activity.from_property is not None and not activity.from_property.is_agent


def test_who_only_changes_the_members_does_not_become_the_user() -> None:
    other = payload("teams_agent_added", 2, from_property={"id": "29:somebody-else"})
    user = after(payload("teams_message", 1), other).reference.user
    assert user is not None
    assert user.id != "29:somebody-else"


def test_a_verified_address_wins_over_a_newer_unverified_one_in_both_orders() -> None:
    verified = payload("teams_message", 1)
    unverified = payload("teams_message", 2, service_url="https://smba.trafficmanager.net/unverified/")
    nobody = ClaimsIdentity()
    for order in itertools.permutations([(verified, VERIFIED), (unverified, nobody)]):
        conversation = None
        for activity, identity in order:
            conversation = after_activity(conversation, activity, identity, NOW)
        assert conversation is not None
        assert conversation.reference.service_url == verified.service_url
        assert conversation.identity == VERIFIED
        assert conversation.last_seen == unverified.sent_at


def test_a_time_in_the_future_does_not_make_all_that_follows_look_old() -> None:
    wrong = payload("teams_message", timestamp="2099-01-01T00:00:00Z")
    right = payload("teams_message", timestamp="2026-11-20T10:05:00Z", locale="it-IT")
    first = after_activity(None, wrong, VERIFIED, NOW)
    assert first.last_seen < NOW + timedelta(minutes=2)
    assert after_activity(first, right, VERIFIED, NOW + timedelta(minutes=5)).reference.locale == "it-IT"


def test_what_is_forgotten_has_neither_user_nor_state_and_does_not_come_back_by_something_older() -> None:
    team = after(payload("teams_installed_in_channel", 1), payload("teams_team_hard_deleted", 5))
    body = team.to_document()
    assert team.status == "forgotten"
    assert "Ada" not in json.dumps(body)
    assert not {"aadObjectId", "userId", "teamId"} & set(body)
    assert body["ttl"] == KEPT_FORGOTTEN.total_seconds()
    late = payload("teams_installed_in_channel", 4)
    assert after_activity(team, late, VERIFIED, NOW) == team
    again = after_activity(team, payload("teams_installed_in_channel", 6), VERIFIED, NOW)
    assert again.is_active
    assert again.team_id == TEAM


@pytest.mark.parametrize(
    ("decision", "code", "sub_code", "expected"),
    [
        ("blocked", "ConversationBlockedByUser", None, ("suspended", "ConversationBlockedByUser")),
        ("blocked", "ForbiddenOperationException", "MessageWritesBlocked", ("suspended", "MessageWritesBlocked")),
        ("blocked", "BotNotInConversationRoster", None, ("suspended", "BotNotInConversationRoster")),
        ("blocked", "BotDisabledByAdmin", None, ("suspended", "BotDisabledByAdmin")),
        ("gone", "ConversationNotFound", None, ("forgotten", "ConversationNotFound")),
        ("gone", "BadArgument", None, ("suspended", "gone")),
        ("gone", None, None, ("suspended", "gone")),
        ("gone", "ActivityNotFoundInConversation", None, None),
        ("rejected", "BadSyntax", None, None),
        ("misconfigured", None, None, None),
        ("ambiguous", None, None, None),
        ("throttled", None, None, None),
        ("unsent", None, None, None),
    ],
)
def test_each_refusal_says_what_becomes_of_the_conversation(
    decision: Decision, code: str | None, sub_code: str | None, expected: tuple[str, str] | None
) -> None:
    """proactive.md 4, the table of errors."""
    change = change_after_failure(ChannelError("no", decision=decision, code=code, sub_code=sub_code), NOW)
    assert (change and (change.to, change.reason)) == expected


@pytest.mark.parametrize(
    ("name", "days"),
    [("webchat_message", 20), ("directline_message", 20), ("teams_message", None), ("slack_message", None)],
)
def test_a_conversation_expires_where_its_channel_drops_it(name: str, days: int | None) -> None:
    ttl = after(payload(name)).to_document().get("ttl")
    assert ttl == (days and timedelta(days=days).total_seconds())


def test_after_a_removal_a_conversation_is_kept_for_a_month_and_then_gone() -> None:
    removed = after(payload("teams_message", 1), payload("teams_removed", 2))
    assert removed.to_document()["ttl"] == timedelta(days=30).total_seconds()
    assert (
        "ttl"
        not in after(
            payload("teams_message", 1), payload("teams_removed", 2), payload("teams_message", 3)
        ).to_document()
    )
