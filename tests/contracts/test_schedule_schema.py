"""The published schema of a schedule and the code that takes one say the same of each."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from agent_core import TurnContext, TurnState
from agent_core.activity.conversation_reference import ConversationAccount
from agent_core.errors import ContinuationNotFound, ConversationNotFound, InvalidSchedule
from agent_core.proactive.schedule_json import FIELDS
from agent_core.proactive.schedule_requests import ScheduleRequests
from tests.contracts.test_callback_schemas import SCHEMAS, activities, mutated, odd, schema
from tests.hosting.test_schedule_routes import AT, GOOD, WRONG
from tests.proactive.setting import Setting

SCHEDULE_SCHEMA = schema("schedule")
EXAMPLES = int(os.environ.get("AGENT_TESTS_EXAMPLES", "300"))
ZONES = ("Europe/Paris", "UTC")


def refused(body: dict[str, Any]) -> str | None:
    """The field to mend, None if the schedule is good; where something is not known the example says nothing."""

    async def ask() -> None:
        setting = Setting()

        @setting.agent.continuation("look")
        async def look(context: TurnContext, state: TurnState) -> None:
            """It is never due here."""

        there = setting.adapter.activity(
            text="hello", conversation=ConversationAccount(id="c1"), local_timezone="Europe/Paris"
        )
        await setting.adapter.process(setting.agent, there)
        await ScheduleRequests(setting.agent.notifications).create(body)

    try:
        asyncio.run(ask())
    except InvalidSchedule as error:
        return error.field
    except (ConversationNotFound, ContinuationNotFound):
        reject()
    return None


parameters = st.fixed_dictionaries(
    {},
    optional={
        "isGroup": st.sampled_from([True, None, "no"]),
        "bot": st.sampled_from([{"id": "28:app"}, None, 7]),
        "members": st.sampled_from([[{"id": "29:1"}], [], None, [None], [{"id": 7}], [7], {}]),
        "tenantId": odd,
        "channelData": odd,
        "x": odd,
    },
)
recipients = st.one_of(
    st.sampled_from(["c1", "c1", {"conversation": "c1"}, {"user": "ada"}, {"channel": "slack", "channelUser": "U1"}]),
    odd,
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("user", "channel", "channelUser", "tenant", "conversation"), odd)
    ),
    st.fixed_dictionaries(
        {"channel": st.just("msteams"), "serviceUrl": st.just("https://smba.trafficmanager.net/")},
        optional={"parameters": st.one_of(parameters, odd), "user": odd},
    ),
)
times = st.sampled_from([AT, "2030-01-01T08:00", "2030-01-01T08:00:00.5+02:00", "2030-1-1T08:00", "2030-01-01", "x", 7])
rules = st.sampled_from(["PT15M", "p1dt6h", "0 8 * * *", " 0 9  * * MON#2 ", "0 8 * *", "P", "PT", "P1M", "@daily", 60])
ends = st.sampled_from(["2999-01-01T00:00:00Z", "2030-01-01T08:00", None, "never", 7])
counts = st.sampled_from([1, 7, 2.0, 1.5, 0, -1, 10_001, "3", True, None])
exceptions = st.sampled_from([[], ["2030-12-25"], ["2030-12-25"] * 367, ["20301225"], "2030-12-25", [7], None])
contents = st.one_of(
    st.fixed_dictionaries({"text": st.one_of(st.text(min_size=1, max_size=5), odd)}),
    st.fixed_dictionaries({"activity": activities}),
    st.fixed_dictionaries({"continuation": st.sampled_from(["look", "look", 7])}, optional={"value": odd}),
)
spans = st.sampled_from(["PT10M", "P1W", "pt1h", "P0D", "PT0S", "P00DT0H", "P", "P1Y", "10", None, 600])
others = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["tea-1", "a.b~c_d", None, "", "a b", "x" * 65, 7]),
        "misfire": st.sampled_from(["latest", "skip", "all", "often", None]),
        "grace": spans,
        "expires": spans,
        "urgent": st.sampled_from([True, False, None, 1, "yes"]),
        "tag": odd,
    },
)
once = st.fixed_dictionaries({"at": times})
recurring = st.fixed_dictionaries(
    {"every": rules}, optional={"start": times, "until": ends, "count": counts, "excluding": exceptions}
)
bodies = st.builds(
    lambda *parts: {name: value for part in parts for name, value in part.items()},
    st.fixed_dictionaries({"to": recipients, "zone": st.sampled_from([*ZONES, *ZONES, None, "", 7])}),
    st.one_of(once, recurring),
    contents,
    others,
)


def _is_seen_by_a_schema(body: dict[str, Any]) -> bool:
    """A zone that does not exist, and one that nobody knows, are not."""
    zone, to = body.get("zone"), body.get("to")
    if isinstance(zone, str) and zone and zone not in ZONES:
        return False
    return zone is not None or to in ("c1", {"conversation": "c1"})


@settings(max_examples=EXAMPLES, deadline=None)
@given(mutated(bodies))
def test_the_schema_of_schedules_and_the_code_agree(body: dict[str, Any]) -> None:
    assume(_is_seen_by_a_schema(body))
    field = refused(body)
    assert SCHEDULE_SCHEMA.is_valid(body) == (field is None), (field, body)


def test_the_generated_schedules_are_of_both_kinds() -> None:
    """Else the agreement above would say nothing."""
    seen: dict[str | None, int] = {}

    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(mutated(bodies))
    def count(body: dict[str, Any]) -> None:
        assume(_is_seen_by_a_schema(body))
        field = refused(body)
        seen[field] = seen.get(field, 0) + 1

    count()
    assert seen[None] >= 20
    assert len(seen) >= 8, seen


def test_what_is_bad_input_is_so_by_the_schema_as_far_as_it_can_see() -> None:
    seen = [change for change, _ in WRONG if not SCHEDULE_SCHEMA.is_valid({**GOOD, **change})]
    unseen = [json.dumps(change) for change, _ in WRONG if change not in seen]
    # Zones, dates and rules that do not exist, what is never due, what is too long, and where nobody may be sent to.
    words = ("02-30", "nobody", "Mars", "europe/paris", "30 2 *", "PT1S", "2020-01-01", "xxxx", "evil.example")
    assert [change for change in unseen if not any(word in change for word in words)] == []
    assert len(seen) > 50


def test_the_schema_names_every_field_there_is() -> None:
    assert tuple(sorted(SCHEMAS["schedule.schema.json"]["properties"])) == tuple(sorted(FIELDS))
