"""The words, dates, cards, files and channel data of the protocol, and who speaks."""

import copy
import pickle
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from agent_core import (
    Activity,
    ActivityTypes,
    CardFactory,
    CardImage,
    ChannelAccount,
    CommandValue,
    ContentTypes,
    DeliveryModes,
    EndOfConversationCodes,
    ExpectedReplies,
    FeedbackLoop,
    FileConsentCard,
    FileConsentCardResponse,
    FileDownloadInfo,
    FileUploadInfo,
    HeroCard,
    InputHints,
    MessageFactory,
    OAuthCard,
    SemanticAction,
    TeamsChannelData,
    TeamsEventTypes,
    TokenExchangeResource,
)
from agent_core.errors import BadActivity

PAYLOADS = Path(__file__).parent.parent / "payloads"


def payload(name: str) -> Activity:
    return Activity.from_json((PAYLOADS / f"{name}.json").read_bytes())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20T09:15:30.5507994Z", datetime(2026, 11, 20, 9, 15, 30, 550799, UTC)),
        ("2026-11-20T09:15:30.55+00:00", datetime(2026, 11, 20, 9, 15, 30, 550000, UTC)),
        ("2026-11-20T09:15:30", datetime(2026, 11, 20, 9, 15, 30, tzinfo=UTC)),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_p1_3_a_timestamp_is_parsed_when_asked_and_never_rewritten(text: str | None, expected: datetime | None) -> None:
    activity = Activity(timestamp=text, expiration=text)
    assert (activity.timestamp, activity.sent_at, activity.expires_at) == (text, expected, expected)


def test_p1_3_a_local_timestamp_keeps_its_offset() -> None:
    local = payload("teams_message").local_sent_at
    assert local == datetime(2026, 11, 20, 10, 15, 30, 550799, timezone(timedelta(hours=1)))
    assert local.utcoffset() == timedelta(hours=1)


def test_p1_4_empty_strings_and_null_arrays_are_accepted() -> None:
    activity = payload("teams_group_message_with_null_arrays")
    assert (activity.summary, activity.reply_to_id, activity.speak) == ("", "", "")
    assert (activity.reactions_added, activity.listen_for) == ((), ())
    assert len(activity.attachments) == 1


def test_p1_4_nulls_and_empty_lists_inside_known_objects_do_not_go_out() -> None:
    message = Activity.from_dict(
        {
            "type": "message",
            "suggestedActions": {"to": [], "actions": [{"type": "imBack", "image": None}]},
            "attachments": [None, {"contentType": "x", "name": None, "content": {"kept": None}}],
        }
    )
    sent = message.addressed_to(payload("teams_message").get_conversation_reference()).to_dict()
    assert sent["suggestedActions"] == {"actions": [{"type": "imBack"}]}
    assert sent["attachments"] == [{"contentType": "x", "content": {"kept": None}}]


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("listenFor", ["a", 1], r"'listenFor\[1\]' must be a string"),
        ("suggestedActions", {"actions": [{"title": 1}]}, r"'suggestedActions.actions\[0\].title' must be a string"),
        ("semanticAction", {"id": []}, "'semanticAction.id' must be a string"),
        ("relatesTo", {"bot": {"id": 1}}, "'relatesTo.bot.id' must be a string"),
        ("textHighlights", [{"occurrence": "first"}], r"'textHighlights\[0\].occurrence' must be a number"),
        ("entities", {}, "'entities' must be a list"),
    ],
)
def test_a2003_a_wrong_json_type_is_named_by_its_path(field: str, value: Any, named: str) -> None:
    with pytest.raises(BadActivity, match=named) as refused:
        Activity.from_dict({"type": "message", field: value})
    assert refused.value.status == 400


@pytest.mark.parametrize("value", ["a primitive", 7, True, None, [1]])
def test_a2200_channel_data_may_be_any_json(value: Any) -> None:
    activity = Activity.from_dict({"type": "message", "channelData": value})
    assert activity.channel_data == value
    assert activity.teams_channel_data == TeamsChannelData()


def test_p1_14_teams_channel_data_is_typed() -> None:
    data = payload("teams_installed_in_channel").teams_channel_data
    assert data.tenant is not None
    assert data.team is not None
    assert data.team.aad_group_id == "6f1c2b3a-4d5e-4f60-8a9b-0c1d2e3f4a5b"
    assert data.settings is not None
    assert data.settings.selected_channel == data.channel
    sent = payload("proactive_with_on_behalf_of").teams_channel_data
    assert sent.notification is not None
    assert (sent.notification.alert, sent.notification.alert_in_meeting) == (True, False)
    assert [(each.item_id, each.display_name) for each in sent.on_behalf_of] == [(0, "Ada")]
    assert payload("event_meeting_start").teams_channel_data.meeting is not None
    assert payload("teams_upgraded").teams_channel_data.app is not None
    chunk = payload("streaming_chunk").teams_channel_data
    assert (chunk.stream_id, chunk.stream_type, chunk.stream_sequence) == ("a-0000l", "streaming", 2)


def test_p1_14_channel_data_of_the_wrong_shape_reads_as_missing() -> None:
    data = Activity.from_dict({"channelData": {"team": "t", "tenant": {"id": 5}, "onBehalfOf": [1]}}).teams_channel_data
    assert data.team is None
    assert data.tenant is not None
    assert data.tenant.id is None
    assert data.on_behalf_of == ()


def test_p1_11_teams_event_types_are_words() -> None:
    said = {payload(path.stem).teams_channel_data.event_type for path in PAYLOADS.glob("teams_*")}
    assert said >= set(TeamsEventTypes)
    assert payload("teams_team_hard_deleted").teams_channel_data.event_type == TeamsEventTypes.team_hard_deleted
    assert payload("teams_message_delete").teams_channel_data.event_type == TeamsEventTypes.soft_delete_message


def test_x4_feedback_is_one_key_of_the_channel_data() -> None:
    message = Activity(channel_data=TeamsChannelData(feedback_loop=FeedbackLoop(type="custom")))
    assert message.to_dict() == {"channelData": {"feedbackLoop": {"type": "custom"}}}


@pytest.mark.parametrize("role", ["agent", "bot", "Bot", "skill", "agenticUser"])
def test_x5_an_agent_is_called_many_names(role: str) -> None:
    assert ChannelAccount(id="a", role=role).is_agent
    assert not ChannelAccount(id="a", role="user").is_agent


@pytest.mark.parametrize("role", ["agenticAppInstance", "agenticUser", "agenticuser", "AgenticAppInstance"])
def test_x6_agentic_roles_are_compared_in_any_case(role: str) -> None:
    activity = payload("agentic_message").replace(recipient=ChannelAccount(id="a", role=role, tenant_id="t"))
    assert activity.is_agentic
    assert activity.agentic_tenant_id == "t"
    assert not payload("teams_message").is_agentic
    assert payload("teams_message").agentic_tenant_id is None


def test_the_tenant_of_an_agentic_identity_may_be_the_conversations() -> None:
    """Section 1.9."""
    activity = payload("agentic_message").replace(recipient=ChannelAccount(id="a", role="agenticUser"))
    assert activity.conversation is not None
    assert activity.agentic_tenant_id == activity.conversation.tenant_id
    assert Activity(recipient=ChannelAccount(role="ConnectorUser")).is_from_copilot_studio_connector


@pytest.mark.parametrize("spelled", ["timedOut", "botTimedOut", "agentTimedOut"])
def test_x7_an_end_has_one_code_however_it_is_spelled(spelled: str) -> None:
    assert EndOfConversationCodes.of(spelled) == EndOfConversationCodes.timed_out
    for prefix in ("bot", "agent"):
        invalid = EndOfConversationCodes.of(f"{prefix}IssuedInvalidMessage")
        assert invalid == EndOfConversationCodes.issued_invalid_message
    assert EndOfConversationCodes.of("vnd.example") == "vnd.example"
    assert EndOfConversationCodes.of(None) is None


def test_x8_input_hints_go_out_in_the_words_of_the_sdks() -> None:
    assert InputHints.of(payload("webchat_message").input_hint) == InputHints.accepting_input
    reference = payload("webchat_message").get_conversation_reference()
    for spelled in ("expecting", "expectingInput"):
        sent = MessageFactory.text("Which?").replace(input_hint=spelled).addressed_to(reference)
        assert sent.input_hint == "expectingInput"
    assert InputHints.of("waving") == "waving"


def test_a3111_an_unknown_delivery_mode_is_normal() -> None:
    modes = [DeliveryModes.of(mode) for mode in (None, "notification", "by air", "expectReplies", "stream")]
    assert modes == ["normal", "normal", "normal", "expectReplies", "stream"]


def test_words_become_plain_strings_of_the_wire() -> None:
    message = Activity(type=ActivityTypes.message)
    assert type(message.type) is str
    assert message.to_json() == b'{"type":"message"}'


def test_a5250_a_voice_message_is_typed_where_it_is_one() -> None:
    voice = payload("voice_message").voice_message
    assert voice is not None
    assert (voice.transcription, voice.duration_ms) == ("order laptop", 1800.5)
    assert payload("voice_message").replace(value={"contentType": "audio/webm"}).voice_message is None
    assert payload("teams_message").voice_message is None


def test_the_values_of_commands_semantic_actions_and_files_are_typed() -> None:
    """Section 1.3 and 1.5."""
    result = payload("command_result").value_as(CommandValue)
    assert result.error is not None
    assert (result.command_id, result.error.code) == ("c1", "NotSupported")
    assert payload("directline_message").semantic_action == SemanticAction.from_dict(
        {"id": "order", "state": "start", "entities": {"item": {"type": "thing", "name": "laptop"}}}
    )
    answer = payload("invoke_file_consent").value_as(FileConsentCardResponse)
    assert answer.upload_info is not None
    assert (answer.action, answer.upload_info.file_type) == ("accept", "pdf")
    file = payload("teams_file_message").attachments[0]
    assert file.content_as(FileDownloadInfo).file_type == "xlsx"


def test_p1_31_a_bad_value_is_refused_by_the_name_of_its_field() -> None:
    with pytest.raises(BadActivity, match=r"'value.uploadInfo.name' must be a string"):
        Activity(value={"uploadInfo": {"name": 1}}).value_as(FileConsentCardResponse)
    with pytest.raises(BadActivity, match="'value' must be an object"):
        Activity(value=[]).value_as(FileConsentCardResponse)


def test_cards_are_built_with_the_content_types_of_the_protocol() -> None:
    """Section 1.5."""
    hero = CardFactory.hero_card("Laptop", "32 GB", ["https://example.com/a.png"], ["Order"], subtitle="13 inch")
    assert hero.content_as(HeroCard).images == (CardImage(url="https://example.com/a.png"),)
    assert hero.content["buttons"] == [{"type": "imBack", "title": "Order", "value": "Order"}]
    thumbnail = CardFactory.thumbnail_card("Laptop")
    signin = CardFactory.signin_card("Sign in", "https://example.com/signin", "Please")
    assert signin.content == {
        "text": "Please",
        "buttons": [{"type": "signin", "title": "Sign in", "value": "https://example.com/signin"}],
    }
    resource = TokenExchangeResource(id="1", uri="api://agent")
    oauth = CardFactory.oauth_card("graph", "Sign in", link="https://x", token_exchange_resource=resource)
    assert oauth.content_as(OAuthCard).token_exchange_resource == resource
    adaptive = CardFactory.adaptive_card({"type": "AdaptiveCard"})
    assert [each.content_type for each in (hero, thumbnail, signin, oauth, adaptive)] == [
        f"application/vnd.microsoft.card.{name}" for name in ("hero", "thumbnail", "signin", "oauth", "adaptive")
    ]
    assert MessageFactory.carousel([hero, thumbnail]).attachment_layout == "carousel"


def test_a_file_goes_from_consent_to_its_card() -> None:
    """Section 1.5."""
    asked = CardFactory.file_consent_card(
        "report.pdf", FileConsentCard(description="The report", size_in_bytes=2048, accept_context={"file": 1})
    )
    assert asked.to_dict() == {
        "contentType": ContentTypes.file_consent_card,
        "name": "report.pdf",
        "content": {"description": "The report", "sizeInBytes": 2048, "acceptContext": {"file": 1}},
    }
    uploaded = FileUploadInfo(content_url="https://x/report.pdf", name="report.pdf", unique_id="47FB", file_type="pdf")
    assert CardFactory.file_info_card(uploaded).to_dict() == {
        "contentType": ContentTypes.file_info_card,
        "contentUrl": "https://x/report.pdf",
        "name": "report.pdf",
        "content": {"uniqueId": "47FB", "fileType": "pdf"},
    }


def test_expected_replies_are_a_value() -> None:
    """Section 1.7."""
    replies = ExpectedReplies(activities=[MessageFactory.text("hi")], body={"ok": True})
    assert ExpectedReplies.from_json(replies.to_json()).activities[0].text == "hi"


def test_values_survive_copies_and_pickles_and_refuse_what_json_cannot_hold() -> None:
    message = payload("teams_message")
    assert copy.deepcopy(message) == pickle.loads(pickle.dumps(message)) == message
    for wrong in (object(), float("nan"), {1: 2}):
        with pytest.raises(TypeError, match="JSON"):
            Activity(value=wrong)
    deep: Any = 1
    for _ in range(64):
        deep = [deep]
    with pytest.raises(BadActivity, match="deeper than 64"):
        Activity(value=deep)
    with pytest.raises(AttributeError, match="replace"):
        setattr(message, "texts", "x")  # noqa: B010  # as somebody without a type checker would
    with pytest.raises(AttributeError, match="replace"):
        del message.text
