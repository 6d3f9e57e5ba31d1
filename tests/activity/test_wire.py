"""A JSON object stays what it was, and what is wrong with it is named."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_core import Activity, Attachment, ChannelAccount, ConversationAccount
from agent_core.errors import BadActivity

TEAMS_MESSAGE: dict[str, Any] = {
    "text": "<at>Agent</at> order laptop",
    "textFormat": "plain",
    "attachments": [{"contentType": "text/html", "content": "<div>hi</div>"}, None],
    "type": "message",
    "timestamp": "2026-11-21T06:04:38.4796355Z",
    "localTimestamp": "2026-11-21T07:04:38.4796355+01:00",
    "id": "1732169078468",
    "channelId": "msteams",
    "serviceUrl": "https://smba.trafficmanager.net/emea/",
    "from": {"id": "29:1abc", "name": "Ada", "aadObjectId": "f1b2", "extra": {"kept": [1.0, None, ""]}},
    "conversation": {"conversationType": "personal", "tenantId": "t", "id": "a:1", "isGroup": False},
    "recipient": {"id": "28:agent", "name": "Agent"},
    "entities": [
        {"locale": "en-US", "type": "clientInfo"},
        {"type": "mention", "text": "<at>Agent</at>", "mentioned": {"id": "28:AGENT"}},
    ],
    "channelData": {"tenant": {"id": "t"}},
    "listenFor": None,
    "cci_unknown": True,
    "locale": "",
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def test_a_real_message_goes_out_as_it_came_in() -> None:
    body = json.dumps(TEAMS_MESSAGE).encode()
    assert json.loads(Activity.from_json(body).to_json()) == TEAMS_MESSAGE


@given(st.dictionaries(st.text().map(lambda name: "x" + name), json_values))
def test_unknown_fields_of_any_shape_survive(unknown: dict[str, Any]) -> None:
    original = {**unknown, "type": "message"}
    assert json.loads(Activity.from_json(json.dumps(original)).to_json()) == original


def test_known_fields_are_typed_views() -> None:
    activity = Activity.from_dict(TEAMS_MESSAGE)
    assert activity.from_property is not None
    assert activity.from_property.aad_object_id == "f1b2"
    assert activity.conversation is not None
    assert activity.conversation.is_group is False
    assert [each.content_type for each in activity.attachments] == ["text/html"]
    assert activity.members_added == ()
    assert activity.reply_to_id is None


def test_a_change_is_a_copy() -> None:
    activity = Activity.from_dict(TEAMS_MESSAGE)
    changed = activity.replace(text="other", locale=None)
    assert activity.text == TEAMS_MESSAGE["text"]
    assert changed.text == "other"
    assert "locale" not in changed.to_dict()
    with pytest.raises(AttributeError, match="replace"):
        setattr(activity, "text", "no")  # noqa: B010  # as somebody without a type checker would


def test_a_value_does_not_share_its_dict() -> None:
    source: dict[str, Any] = {"type": "message", "channelData": {"a": 1}}
    activity = Activity.from_dict(source)
    source["channelData"]["a"] = 2
    activity.to_dict()["channelData"]["a"] = 3
    assert activity.channel_data == {"a": 1}


def test_values_nest_when_they_are_built() -> None:
    activity = Activity(
        type="message",
        from_property=ChannelAccount(id="u"),
        attachments=[Attachment(content_type="image/png", content_url="data:,")],
    )
    assert activity.to_dict() == {
        "type": "message",
        "from": {"id": "u"},
        "attachments": [{"contentType": "image/png", "contentUrl": "data:,"}],
    }


def test_an_unknown_attribute_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match="txt"):
        Activity(type="message").replace(txt="hello")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"type": 1}', "'type' must be a string"),
        (b'{"from": []}', "'from' must be an object"),
        (b'{"from": {"id": 3}}', "'from.id' must be a string"),
        (b'{"conversation": {"isGroup": "yes"}}', "'conversation.isGroup' must be true or false"),
        (b'{"attachments": {}}', "'attachments' must be a list"),
        (b'{"attachments": [{}, "x"]}', r"'attachments\[1\]' must be an object"),
        (b'{"membersAdded": [{"id": true}]}', r"'membersAdded\[0\].id' must be a string"),
    ],
)
def test_a_wrong_type_in_a_known_field_is_named(body: bytes, named: str) -> None:
    with pytest.raises(BadActivity, match=named):
        Activity.from_json(body)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "InvalidJson"),
        (b"{", "InvalidJson"),
        (b"\xff\xfe", "InvalidJson"),
        (b'{"a": NaN}', "InvalidJson"),
        (b'{"a": 1e999}', "InvalidJson"),
        (b'{"a": ' + b"9" * 5000 + b"}", "InvalidJson"),
        (b"[]", "NotAnObject"),
        (b'"text"', "NotAnObject"),
        (b"null", "NotAnObject"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "TooDeep"),
        (b'{"a":' * 100_000, "TooDeep"),
    ],
)
def test_what_is_no_activity_is_refused_with_a_code(body: bytes, code: str) -> None:
    with pytest.raises(BadActivity) as refused:
        Activity.from_json(body)
    assert refused.value.code == code


def test_sixty_four_levels_are_not_too_deep() -> None:
    body = b'{"a":' * 64 + b"1" + b"}" * 64
    assert Activity.from_json(body).to_json() == body


def test_many_brackets_are_not_depth() -> None:
    body = json.dumps({"type": "message", "value": [[] for _ in range(1000)]}).encode()
    assert json.loads(Activity.from_json(body).to_json()) == json.loads(body)


def test_p1_1_a_byte_order_mark_and_a_lone_surrogate_are_survived() -> None:
    activity = Activity.from_json(b'\xef\xbb\xbf{"text": "\\ud800"}')
    assert json.loads(activity.to_json()) == {"text": "\ud800"}


def test_a_repr_shows_no_text() -> None:
    assert "secret" not in repr(Activity(type="message", text="secret", value={"x": "secret"}))


def test_values_are_equal_by_their_json() -> None:
    assert ConversationAccount(id="a") == ConversationAccount.from_dict({"id": "a"})
    assert ConversationAccount(id="a") != ChannelAccount(id="a")
