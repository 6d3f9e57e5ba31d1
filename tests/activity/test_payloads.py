"""What channels really send, whole and damaged: it is an activity that loses nothing, or it is refused by name.

`AGENT_TESTS_EXAMPLES=100000 pytest tests/activity/test_payloads.py` looks longer.
"""

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_core import (
    Activity,
    ActivityTypes,
    AIEntity,
    ClientCapabilities,
    ClientInfo,
    CommandValue,
    FileConsentCardResponse,
    Mention,
    ScreenContext,
)
from agent_core.activity.activity import continuation_activity
from agent_core.activity.wire import WireObject
from agent_core.errors import BadActivity

PAYLOADS = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent.parent / "payloads").glob("*.json"))}
EXAMPLES = settings(max_examples=int(os.environ.get("AGENT_TESTS_EXAMPLES", "300")), deadline=None)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["mention", "streaminfo", "ProductInfo", "28:11111111-2222-3333-4444-555555555555", "a:b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "type", "text", "role", "mentioned", "eventType"]) | st.text(max_size=4),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
damages = st.lists(
    st.tuples(st.sampled_from(["delete", "retype", "add"]), st.integers(0, 1000), json_values), min_size=1, max_size=4
)


def spelled(value: Any) -> str:
    """JSON whose equality is that of JSON values: to Python 1, 1.0 and true are equal."""
    return json.dumps(value)


def damaged(payload: Any, mutations: list[tuple[str, int, Any]]) -> Any:
    for how, where, value in mutations:
        places = [(None, None), *_places(payload)]
        container, key = places[where % len(places)]
        target = payload if container is None else container[key]
        if how == "delete" and container is not None:
            del container[key]
        elif how == "retype" and container is not None:
            container[key] = value
        elif isinstance(target, dict):
            target[f"x{where}" if where % 2 else "text"] = value
        elif isinstance(target, list):
            target.append(value)
    return payload


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys: Any = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(value, key), *_places(value[key])]]


def read_all(value: Any) -> None:
    """Read every attribute, of every value in it; each has the type it promises."""
    if not isinstance(value, WireObject):
        return
    for name, field in type(value)._fields.items():
        read = getattr(value, name)
        assert isinstance(read, tuple) if field.kind.is_list else True
        for each in read if field.kind.is_list else (read,):
            assert each is None or field.kind.is_list or not field.kind.types or _fits(each, field.kind.types), name
            read_all(each)


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, WireObject) if types == (dict,) else type(value) in types


def use(activity: Activity) -> None:
    """All that is done with an activity that came in, before a handler sees it and after."""
    read_all(activity)
    for kind in (Mention, ClientInfo, ClientCapabilities, AIEntity, ScreenContext):
        for entity in activity.entities_of(kind):
            read_all(entity)
    assert all(each.images is not None for each in activity.entities_of(ScreenContext))
    read_all(activity.teams_channel_data)
    read_all(activity.stream_info)
    read_all(activity.voice_message)
    for moment in (activity.sent_at, activity.local_sent_at, activity.expires_at):
        assert moment is None or moment.tzinfo is not None
    for value_kind in (FileConsentCardResponse, CommandValue):
        with suppress(BadActivity):
            read_all(activity.value_as(value_kind))
    assert isinstance(activity.is_targeted or activity.is_agentic, bool)
    assert isinstance(activity.agentic_tenant_id, str | None)
    read_all(activity.without_mention_of_recipient())
    reference = activity.get_conversation_reference()
    assert reference.sub_channel == activity.sub_channel or not activity.channel
    event = continuation_activity(reference, name="ContinueConversation")
    assert (event.channel, event.sub_channel) == (reference.channel, reference.sub_channel)
    answer = activity.addressed_to(reference)
    assert answer.channel_id == activity.channel
    assert None not in answer.to_dict().values()


def read(body: bytes) -> Activity | BadActivity:
    try:
        return Activity.from_json(body)
    except BadActivity as refused:
        return refused


def only_bad_activity_or_lossless(body: bytes, value: Any) -> None:
    activity = read(body)
    if isinstance(activity, BadActivity):
        named = re.match(r"'([^'.\[]+)[^']*' must be (a|an|true) ", str(activity))
        assert named, activity
        assert named[1] in value
        with pytest.raises(BadActivity, match=re.escape(str(activity))):
            Activity.from_dict(value)
        return
    expected = spelled(value)
    use(activity)
    assert spelled(json.loads(activity.to_json())) == expected
    assert spelled(activity.to_dict()) == expected
    assert spelled(Activity.from_dict(value).to_dict()) == expected
    changed = activity.replace(locale="ga-IE")
    assert spelled(json.loads(changed.to_json())) == spelled({**value, "locale": "ga-IE"})


def test_every_type_of_the_protocol_is_among_the_payloads() -> None:
    """Section 1.3."""
    assert {json.loads(body)["type"] for body in PAYLOADS.values()} >= set(ActivityTypes)


@pytest.mark.parametrize("name", PAYLOADS)
def test_p1_2_a_payload_goes_out_as_the_value_it_came_in_as(name: str) -> None:
    only_bad_activity_or_lossless(PAYLOADS[name], json.loads(PAYLOADS[name]))
    one_line = json.dumps(json.loads(PAYLOADS[name])).encode()
    assert Activity.from_json(one_line).to_json() == one_line
    assert Activity.from_json(PAYLOADS[name]).type  # none of them is refused


def test_p1_2_numbers_keep_their_spelling_until_something_changes() -> None:
    body = b'{"type":"event","value":[1.50,5E+2,-0,1e-7,12345678901234567890123,0.1234567890123456789]}'
    activity = Activity.from_json(body)
    assert activity.to_json() == body
    assert activity.replace(caller_id=None).to_json() == body
    assert activity.replace(name="n").value == [1.5, 500.0, 0, 1e-7, 12345678901234567890123, 0.1234567890123456789]


@pytest.mark.parametrize("name", PAYLOADS)
def test_what_is_read_from_a_value_cannot_change_it(name: str) -> None:
    activity = Activity.from_json(PAYLOADS[name])
    before = spelled(activity.to_dict())
    for read in (activity.value, activity.channel_data, *(each.content for each in activity.attachments)):
        if isinstance(read, dict):
            read.clear()
    assert spelled(activity.to_dict()) == before


@EXAMPLES
@given(st.sampled_from(sorted(PAYLOADS)), damages)
def test_p1_2_a_damaged_payload_is_refused_by_name_or_loses_nothing(
    name: str, mutations: list[tuple[str, int, Any]]
) -> None:
    value = damaged(json.loads(PAYLOADS[name]), mutations)
    only_bad_activity_or_lossless(json.dumps(value).encode(), value)


@EXAMPLES
@given(st.sampled_from(sorted(PAYLOADS)), st.integers(0, 3000), st.integers(0, 30), st.binary(max_size=8))
def test_bytes_that_were_damaged_are_refused_or_read(name: str, start: int, length: int, put: bytes) -> None:
    whole = PAYLOADS[name]
    start %= len(whole)
    activity = read(whole[:start] + put + whole[start + length :])
    if isinstance(activity, BadActivity):
        assert activity.status == 400
    else:
        use(activity)
