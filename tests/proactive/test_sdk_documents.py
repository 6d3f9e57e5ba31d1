"""Documents of the three Agents SDKs become conversations and state, or are left with a reason, whatever is in them."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_core.activity.conversation_reference import ConversationReference
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.sdk_documents import (
    Found,
    FoundConversation,
    FoundState,
    NotImported,
    read_document,
    unescaped,
)
from agent_core.store.document_rules import checked_body
from agent_core.store.document_store import CONVERSATIONS, Document
from agent_core.turn.claims_identity import PERSISTED_CLAIMS

FOLDER = Path(__file__).parent.parent / "payloads" / "sdk_documents"
SDKS = {
    path.stem: [json.loads(line) for line in path.read_text("utf-8").splitlines()] for path in FOLDER.glob("*.jsonl")
}
APP = "00000000-0000-0000-0000-00000000a9e7"
OTHER_APP = "11111111-2222-3333-4444-555555555555"
NOW = datetime(2026, 12, 1, tzinfo=UTC)
ODD_ID, LONG_ID = "a:1/2?3#4*5\\6", f"19:{'x' * 300}@thread.tacv2"
EXAMPLES = settings(max_examples=int(os.environ.get("AGENT_TESTS_EXAMPLES", "300")), deadline=None)


def read(item: dict[str, Any], now: datetime = NOW) -> Found:
    return read_document(item, app_id=APP, now=now)


def conversation_of(item: dict[str, Any]) -> FoundConversation:
    found = read(item)
    assert isinstance(found, FoundConversation), found
    return found


def reason_of(item: dict[str, Any]) -> str:
    found = read(item)
    assert isinstance(found, NotImported), found
    assert found.explanation
    return found.reason


def reference(**changes: Any) -> dict[str, Any]:
    built = {
        "user": {"id": "29:user"},
        "bot": {"id": f"28:{APP}"},
        "conversation": {"id": "c"},
        "channelId": "msteams",
        "serviceUrl": "https://smba.trafficmanager.net/emea/",
    }
    return {name: value for name, value in (built | changes).items() if value is not None}


def stored(document: Any, key: str = "proactive/conversations/c", **more: Any) -> dict[str, Any]:
    return {"id": key.replace("/", "*2f"), "realId": key, "document": document, "_ts": 1795257600, **more}


# --- what the SDKs wrote


@pytest.mark.parametrize("sdk", SDKS)
def test_conversations_of_every_sdk_are_the_same_conversations(sdk: str) -> None:
    """Shapes of 3.2, both key escapings, and keys that were cut: what counts is what is in the document."""
    found = [each for each in map(read, SDKS[sdk]) if isinstance(each, FoundConversation)]
    assert [each.conversation.id for each in found] == [ODD_ID, LONG_ID]
    for each in found:
        expected = ConversationReference.from_dict(
            {
                "user": {"id": "29:user", "name": "Ada", "aadObjectId": "aad-1"},
                "bot": {"id": f"28:{APP}", "name": "Agent"},
                "conversation": {
                    "id": each.conversation.id,
                    "conversationType": "personal",
                    "tenantId": "tenant-1",
                },
                "channelId": "msteams",
                "serviceUrl": "https://smba.trafficmanager.net/emea/",
                "locale": "en-US",
            }
        )
        assert each.conversation.reference == expected, "without the ids of one activity and the delivery mode"
        assert each.conversation.identity.claims == {"aud": APP, "iss": "https://api.botframework.com"}
        assert not each.conversation.identity.service_url_verified
        assert each.conversation.last_seen == each.written
        assert each.written is not None
        assert each.written.year == 2026


@pytest.mark.parametrize("sdk", SDKS)
def test_state_of_every_sdk_belongs_to_its_conversation_or_user(sdk: str) -> None:
    """Keys of 3.1; those of the SDK for JavaScript have the agent's id in them, or a namespace at the end."""
    states = [each for each in map(read, SDKS[sdk]) if isinstance(each, FoundState)]
    orders = [each for each in states if each.values == {"order": {"item": "laptop", "count": 2}}]
    assert {(each.channel_id, each.conversation_id, each.user_id) for each in orders} == {
        ("msteams", ODD_ID, None),
        ("msteams", LONG_ID, None),
    }
    (city,) = [each for each in states if each.values == {"city": "Zürich"}]
    assert (city.channel_id, city.conversation_id, city.user_id) == ("msteams", None, "29:user")
    steps = [each.conversation_id for each in states if each.values == {"step": 3}]
    assert steps == ([ODD_ID, LONG_ID] if sdk == "javascript" else [])


def test_every_document_of_the_sdks_is_one_or_the_other() -> None:
    for items in SDKS.values():
        assert all(isinstance(read(item), (FoundConversation, FoundState)) for item in items)


# --- keys


@pytest.mark.parametrize("digits", ["x", "02x", "d"])
@given(st.text("ab1/\\?#*:;@", max_size=30))
def test_both_escapings_of_a_key_are_undone(digits: str, key: str) -> None:
    """`*` and the character's code: in two hexadecimal digits (.NET, JavaScript) or decimal ones (Python)."""
    escaped = "".join(f"*{ord(each):{digits}}" if each in "\\?/#*\t\n\r" else each for each in key)
    assert unescaped(escaped) == key


def test_a_document_without_its_real_id_is_known_by_its_escaped_one() -> None:
    for escape in ("*2f", "*47"):
        item = {"id": f"msteams{escape}conversations{escape}c", "document": {"step": 1}}
        assert isinstance(read(item), FoundState)


# --- claims, and whose conversation it is


def test_only_the_seven_claims_are_taken_over() -> None:
    """JavaScript stores all of the token's payload (3.3)."""
    claims: dict[str, Any] = {name: f"the {name}" for name in PERSISTED_CLAIMS} | {"aud": APP}
    item = stored({"reference": reference(), "claims": claims | {"exp": 1, "serviceurl": "u", "roles": ["a"]}})
    assert conversation_of(item).conversation.identity.claims == claims


def test_an_audience_that_is_a_list_is_its_first() -> None:
    item = stored({"reference": reference(), "claims": {"aud": [APP, OTHER_APP]}})
    assert conversation_of(item).conversation.identity.claims == {"aud": APP}
    assert reason_of(stored({"reference": reference(), "claims": {"aud": [OTHER_APP, APP]}})) == "other-app"


def test_what_was_stored_for_another_app_stays_there() -> None:
    assert reason_of(stored({"reference": reference(), "claims": {"aud": OTHER_APP}})) == "other-app"
    assert reason_of(stored(reference(bot={"id": f"28:{OTHER_APP}"}), key="x")) == "other-app"
    state = stored({"step": 1}, key=f"msteams/28:{OTHER_APP}/conversations/c")
    assert reason_of(state) == "other-app"


def test_without_an_audience_the_agents_id_must_name_the_app() -> None:
    """Python stores a conversation without `aud` as well (3.3)."""
    item = stored({"conversation_reference": reference(), "claims": {}})
    assert conversation_of(item).conversation.identity.claims == {"aud": APP}
    nameless = reference(channelId="webchat", bot={"id": "order-agent@x"})
    assert reason_of(stored({"conversation_reference": nameless, "claims": {}})) == "no-audience"


# --- other shapes


def test_a_bare_reference_of_the_bot_framework_is_a_conversation() -> None:
    found = conversation_of(stored(reference(activityId="1"), key="some-hash"))
    assert found.conversation.reference.to_dict() == reference()
    assert conversation_of(reference()).conversation.id == "c", "as a line of a file, without a wrapping"


def test_the_proactive_sample_for_python_stores_its_own_names() -> None:
    record = {
        "claims": {"aud": APP},
        "is_authenticated": True,
        "authentication_type": None,
        "reference": {
            "activity_id": "1",
            "user": {"id": "29:user", "aad_object_id": "aad-1"},
            "agent": {"id": f"28:{APP}", "role": None},
            "conversation": {"id": "c", "is_group": False},
            "channel_id": "msteams",
            "service_url": "https://smba.trafficmanager.net/emea/",
            "locale": None,
        },
    }
    found = conversation_of(stored(record, key="conversationreferences/c")).conversation.reference
    assert found.service_url == "https://smba.trafficmanager.net/emea/"
    assert found.user is not None
    assert found.user.aad_object_id == "aad-1"
    assert found.agent is not None
    assert found.agent.id == f"28:{APP}"
    assert "agent" not in found.to_dict()


def test_an_item_without_its_wrapping_is_read_as_well() -> None:
    """As an export to a file may have it."""
    item = {"key": "proactive/conversations/c", "reference": reference(), "claims": {"aud": APP}}
    found = conversation_of(item)
    assert (found.key, found.written, found.conversation.last_seen) == ("proactive/conversations/c", None, NOW)


@pytest.mark.parametrize("seconds", [None, "1", True, -1, 1e30, float("nan")])
def test_a_time_that_is_none_counts_as_not_given(seconds: Any) -> None:
    found = conversation_of(stored({"reference": reference(), "claims": {"aud": APP}}, _ts=seconds))
    assert (found.written, found.conversation.last_seen) == (None, NOW)


def test_a_time_in_the_future_counts_as_now() -> None:
    """Else the conversation's next turns would count as older than it, and teach nothing about it."""
    ahead = (NOW + timedelta(days=1)).timestamp()
    assert conversation_of(stored({"reference": reference(), "claims": {"aud": APP}}, _ts=ahead)).written == NOW


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (stored({"claims": {"aud": APP}}), "no-reference"),
        (stored({"reference": None, "claims": {"aud": APP}}), "no-reference"),
        (stored({"reference": reference(conversation=7), "claims": {"aud": APP}}), "damaged"),
        (stored({"reference": reference(conversation=None), "claims": {"aud": APP}}), "no-conversation-id"),
        (stored({"reference": reference(conversation={"id": "x" * 1001})}), "unstorable-id"),
        (stored({"reference": reference(conversation={"id": "\ud800"})}), "unstorable-id"),
        (stored({"reference": reference(channelId=None)}), "no-channel"),
        (stored({"reference": reference(channelId=":COPILOT")}), "no-channel"),
        (stored({"reference": reference(serviceUrl=None)}), "no-service-url"),
        (stored({"conversationReference": reference(), "oAuthScope": "s"}, key="a guid"), "agent-to-agent"),
        (stored({"step": 1}, key="msteams/conversations/c/users/u"), "private-state"),
        (stored({"$type": "System", "eTag": "*"}, key="msteams/conversations/c"), "empty-state"),
        (stored({"step": 1}, key=f"msteams/conversations/{'x' * 1001}"), "unstorable-id"),
        (stored({"flow": 1}, key="auth/msteams/u"), "unknown-shape"),
        (stored("text"), "unknown-shape"),
        ({"key": "msteams/conversations/c", "step": 1}, "unknown-shape"),
        ({}, "unknown-shape"),
    ],
)
def test_what_is_not_imported_has_a_reason(item: dict[str, Any], reason: str) -> None:
    assert reason_of(item) == reason


def test_our_own_documents_are_none_of_an_sdk() -> None:
    own = conversation_of(stored({"reference": reference(), "claims": {"aud": APP}})).conversation.to_document()
    assert reason_of(own) == "ours"


# --- whatever is in them

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["id", "realId", "key", "document", "_ts", "schemaVersion"]) | st.sampled_from(
    ["reference", "conversation_reference", "claims", "aud", "tid", "conversation", "channelId", "serviceUrl", "bot"]
)
damages = st.lists(st.tuples(st.integers(0, 50), names, st.none() | json_values), min_size=1, max_size=4)


def objects_in(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value, *(each for inner in value.values() for each in objects_in(inner))]
    return [each for inner in value for each in objects_in(inner)] if isinstance(value, list) else []


@EXAMPLES
@given(st.sampled_from([item for items in SDKS.values() for item in items]), damages)
def test_a_damaged_document_is_storable_or_refused_and_nothing_is_raised(
    item: dict[str, Any], damages: list[tuple[int, str, Any]]
) -> None:
    item = json.loads(json.dumps(item))
    for number, name, value in damages:
        inside = objects_in(item)
        inside[number % len(inside)][name] = value
    found = read(item)
    if isinstance(found, FoundConversation):
        checked = checked_body(CONVERSATIONS, found.conversation.to_document())
        assert Conversation.from_document(Document(checked.copy(), "e")) == found.conversation
        assert found.conversation.last_seen <= NOW
        assert found.conversation.identity.claims["aud"] == APP
        assert set(found.conversation.identity.claims) <= set(PERSISTED_CLAIMS)
    elif isinstance(found, FoundState):
        assert (found.conversation_id is None) != (found.user_id is None)
