"""The published schemas and the validator in the code say the same of every message."""

from __future__ import annotations

import copy
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings.amqp import from_amqp, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from agent_core.errors import InvalidCallback
from agent_core.proactive.callback_message import Callback
from agent_core.proactive.queue import QueueMessage
from agent_core.proactive.tickets import Tickets
from tests.proactive.malformed import MALFORMED, STRUCTURED
from tests.proactive.test_tickets import Shop

ROOT = Path(__file__).parent.parent.parent
CONTRACTS = ROOT / "docs" / "contracts"
SCHEMAS = {path.name: json.loads(path.read_text()) for path in CONTRACTS.glob("*.schema.json")}
REGISTRY: Registry[Any] = Registry().with_resources(
    (name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items()
)
EXAMPLES = int(os.environ.get("AGENT_TESTS_EXAMPLES", "400"))


def schema(name: str) -> Draft202012Validator:
    return Draft202012Validator(SCHEMAS[f"{name}.schema.json"], registry=REGISTRY)


PLAIN_SCHEMA, EVENT_SCHEMA, TICKET_SCHEMA = schema("callback"), schema("cloud-event"), schema("ticket")


def read(body: Any, content_type: str = "") -> Callback:
    return Callback.from_message(QueueMessage(json.dumps(body).encode(), "m1", content_type=content_type))


def refused(body: Any, content_type: str = "") -> str | None:
    """The reason, None if it is good."""
    try:
        read(body, content_type)
    except InvalidCallback as error:
        return error.reason
    return None


# -- generated cases: a good message, or one near to it

TYPES = [
    "agent.callback.result.v1",
    "agent.callback.progress.v1",
    "agent.callback.failed.v1",
    "agent.notification.v1",
    "agent.callback.result.v2",
]
short: list[Any] = [None, "", "x", 7, 1.5, True, [], {}, ["x"], {"x": 1}, "\ud800", "a b"]
odd = st.one_of(st.sampled_from(short), st.sampled_from([300, 1100, 9000]).map(lambda length: "x" * length))
names = st.text(min_size=1, max_size=20)
buttons = st.fixed_dictionaries({}, optional={"title": odd, "value": odd})
activities = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["message", "message", "typing", None]),
        "text": st.one_of(names, odd),
        "speak": st.one_of(names, odd),
        "attachments": st.one_of(
            odd, st.lists(st.one_of(odd, st.fixed_dictionaries({}, optional={"contentType": odd, "content": odd})))
        ),
        "suggestedActions": st.one_of(
            odd,
            st.fixed_dictionaries(
                {},
                optional={
                    "to": st.one_of(odd, st.lists(odd)),
                    "actions": st.one_of(odd, st.lists(buttons)),
                },
            ),
        ),
        "entities": st.one_of(odd, st.lists(odd)),
        "channelData": odd,
        "conversation": odd,
    },
)
errors = st.fixed_dictionaries({}, optional={"code": st.one_of(names, odd), "message": st.one_of(names, odd), "x": odd})
bodies = st.fixed_dictionaries(
    {"conversationId": names, "continuation": names},
    optional={
        "type": st.sampled_from([*TYPES, None]),
        "value": odd,
        "text": st.one_of(names, odd),
        "activity": st.one_of(activities, odd),
        "error": st.one_of(errors, odd),
        "channelId": st.one_of(names, odd),
        "ticket": st.one_of(names, odd),
        "id": st.one_of(names, odd),
        "urgent": odd,
        "specversion": st.just("1.0"),
    },
)
events = st.fixed_dictionaries(
    {"specversion": st.just("1.0"), "id": names, "source": names, "type": st.sampled_from(TYPES), "data": bodies},
    optional={
        "datacontenttype": st.sampled_from(
            [
                "application/json",
                "Text/JSON; charset=utf-8",
                "application/vnd.x+json",
                "text/plain",
                "",
                "jſon",
                None,
                7,
            ]
        ),
        "time": odd,
        "traceparent": odd,
        "data_base64": st.none(),
    },
)


@st.composite
def mutated(draw: st.DrawFn, messages: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """One of these with a field or two taken out or made something else."""
    message = copy.deepcopy(draw(messages))
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(message)))
        if draw(st.booleans()):
            message[name] = draw(odd)
        else:
            del message[name]
        if not message:
            break
    return message


@settings(max_examples=EXAMPLES, deadline=None)
@given(mutated(bodies))
def test_the_schema_of_the_plain_form_and_the_code_agree(body: dict[str, Any]) -> None:
    reason = refused(body)
    assert PLAIN_SCHEMA.is_valid(body) == (reason is None), (reason, body)


@settings(max_examples=EXAMPLES, deadline=None)
@given(mutated(events))
def test_the_schema_of_cloud_events_and_the_code_agree(event: dict[str, Any]) -> None:
    reason = refused(event, STRUCTURED)
    assert EVENT_SCHEMA.is_valid(event) == (reason is None), (reason, event)


def test_the_generated_cases_are_of_both_kinds() -> None:
    """Else the agreement above would say nothing."""
    seen: dict[str | None, int] = {}

    @settings(max_examples=400, deadline=None, database=None, derandomize=True)
    @given(mutated(bodies))
    def count(body: dict[str, Any]) -> None:
        reason = refused(body)
        seen[reason] = seen.get(reason, 0) + 1

    count()
    assert seen[None] >= 20
    assert len(seen) >= 8, seen


@pytest.mark.parametrize("kind", MALFORMED, ids=lambda kind: kind.name)
def test_no_malformed_message_is_good_to_the_schemas(kind: Any) -> None:
    """As far as a schema can see it: text that is no JSON, and what lies outside of the body, it cannot."""
    try:
        body = json.loads(kind.body.decode())
    except (ValueError, RecursionError):
        return
    if kind.reason in ("ConversationNotFound", "ContinuationNotFound", "TooDeep", "DuplicateName") or kind.properties:
        return
    if kind.name in ("conversation too many bytes", "data_base64 that is none", "data_base64 of no JSON", "text"):
        return
    if isinstance(body, dict) and _has_infinity(body):
        return
    chosen = EVENT_SCHEMA if "cloudevents" in kind.content_type else PLAIN_SCHEMA
    assert not chosen.is_valid(body)


def _has_infinity(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_infinity, value.values()))
    return isinstance(value, float) and not math.isfinite(value)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_each_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["$schema"] == "https://json-schema.org/draft/2020-12/schema"


async def test_what_the_agent_hands_out_is_what_the_schema_of_tickets_says() -> None:
    for tickets in (None, Tickets([b"k" * 32], "required")):
        ticket = await Shop(tickets).ticket()
        TICKET_SCHEMA.validate(ticket)
        PLAIN_SCHEMA.validate({**ticket, "value": 1})


# -- the cloudevents package as a second opinion


@settings(max_examples=100, deadline=None)
@given(events.filter(lambda event: refused(event, STRUCTURED) is None))
def test_what_the_cloudevents_package_sends_is_read_in_both_modes(event: dict[str, Any]) -> None:
    attributes = {name: event[name] for name in ("specversion", "id", "source", "type")}
    attributes["datacontenttype"] = "application/json"
    sent = CloudEvent(attributes=attributes, data=event["data"])
    ours = read(event, STRUCTURED)
    for message in (to_binary(sent, JSONFormat()), to_structured(sent, JSONFormat())):
        properties = {str(name): value for name, value in message.application_properties.items()}
        callback = Callback.from_message(
            QueueMessage(
                message.application_data,
                "m1",
                content_type=message.properties["content-type"],
                application_properties=properties,
            )
        )
        assert (callback.key, callback.body) == (ours.key, ours.body)
    again = from_amqp(to_binary(sent, JSONFormat()), JSONFormat())
    assert again.get_data() == event["data"]
