"""What each channel can do, and how large a message it takes."""

from datetime import timedelta

import pytest

from agent_core.activity.channels import Channel, channel_of


def test_p4_24_the_table_says_which_channels_edit_delete_and_create() -> None:
    """P4.24: creation for nine channels of the Agents SDK (and the emulator); edits in Teams, Slack, the emulator."""
    for name in ("msteams", "email", "facebook", "groupme", "kik", "line", "slack", "sms", "telegram"):
        assert channel_of(name).supports_create_conversation, name
    for name in ("webchat", "directline", "alexa"):
        assert not channel_of(name).supports_create_conversation, name
    for name in ("msteams", "slack", "emulator"):
        assert channel_of(name).supports_update
        assert channel_of(name).supports_delete
    copilot = channel_of("msteams", "COPILOT")
    assert not copilot.supports_update
    assert not copilot.supports_delete


@pytest.mark.parametrize(
    ("channel_id", "product"), [("msteams", "COPILOT"), ("msteams", "copilot"), ("msteams:COPILOT", None)]
)
def test_p1_21_copilot_is_a_sub_channel_of_teams(channel_id: str, product: str | None) -> None:
    channel = channel_of(channel_id, product)
    assert channel.id == "msteams:COPILOT"
    assert not channel.supports_typing


def test_p1_21_an_unknown_sub_channel_is_its_channel() -> None:
    assert channel_of("msteams", "SOMETHING").id == "msteams"


@pytest.mark.parametrize("channel_id", [None, "", "carrier-pigeon", "MSTEAMS", "a:b"])
def test_an_unknown_channel_is_given_the_least(channel_id: str | None) -> None:
    """P1.7: ids are compared exactly, so `MSTEAMS` is unknown as well."""
    assert channel_of(channel_id) == Channel(channel_id or "")
    assert not channel_of(channel_id).supports_streaming
    assert not channel_of(channel_id).supports_typing
    assert channel_of(channel_id).max_message_size is None


def test_p6_5_teams_streams_and_suggests_in_personal_chats_only() -> None:
    personal = channel_of("msteams", conversation_type="personal")
    assert personal.supports_streaming
    assert personal.max_suggested_actions == 3
    for kind in ("groupChat", "channel", None):
        group = channel_of("msteams", conversation_type=kind)
        assert not group.supports_streaming
        assert group.max_suggested_actions == 0
        assert group.supports_update
    assert channel_of("msteams", is_group=False).supports_streaming, "a conversation that the agent created"
    assert not channel_of("msteams", conversation_type="channel", is_group=False).supports_streaming


def test_p6_8_p6_9_the_pace_of_a_stream_is_the_channels() -> None:
    assert channel_of("msteams").stream_interval == timedelta(seconds=1)
    assert channel_of("msteams").stream_limit == timedelta(minutes=2)
    for name in ("webchat", "directline", "emulator"):
        assert channel_of(name).stream_interval == timedelta(milliseconds=500)
    copilot = channel_of("msteams:COPILOT")
    assert copilot.stream_limit == timedelta(minutes=1, seconds=45)
    assert copilot.keep_alive_after == timedelta(seconds=35)
    assert copilot.first_response_within == timedelta(seconds=15)


@pytest.mark.parametrize(
    ("channel_id", "number"),
    [
        ("telegram", 4096),
        ("facebook", 2000),
        ("sms", 1600),
        ("line", 5000),
        ("slack", 40_000),
        ("directline", 262_144),
        ("webchat", 262_144),
        ("msteams", 102_400),
    ],
)
def test_p4_22_every_known_limit_is_in_the_table(channel_id: str, number: int) -> None:
    limit = channel_of(channel_id).max_message_size
    assert limit is not None
    assert limit.number == number
    assert limit.advised <= limit.number


def test_p4_22_teams_counts_the_whole_payload_in_utf_16_without_pictures() -> None:
    limit = channel_of("msteams").max_message_size
    assert limit is not None
    message = {"type": "message", "text": "Grüße"}
    assert limit.size_of(message) == len('{"type":"message","text":"Grüße"}') * 2
    picture = {"attachments": [{"contentUrl": "data:image/png;base64," + "A" * 100_000}]}
    assert limit.size_of(message | picture) < 200


def test_p4_22_others_count_the_characters_of_the_text() -> None:
    limit = channel_of("telegram").max_message_size
    assert limit is not None
    assert limit.size_of({"type": "message", "text": "abc", "channelData": "x" * 5000}) == 3
    assert limit.size_of({"type": "message", "text": "😀"}) == 2
    assert limit.size_of({"type": "message"}) == 0


def test_p4_22_the_size_of_a_text_adds_up() -> None:
    for name in ("msteams", "directline", "telegram"):
        limit = channel_of(name).max_message_size
        assert limit is not None
        parts = ['say "', "\n", "ü😀\ud83d", "\ude00\\"]
        assert sum(map(limit.size_of_text, parts)) == limit.size_of_text("".join(parts))
        empty, full = {"type": "message", "text": ""}, {"type": "message", "text": "".join(parts)}
        assert limit.size_of(full) == limit.size_of(empty) + limit.size_of_text("".join(parts))
