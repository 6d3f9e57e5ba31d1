"""What reading and writing an activity costs beside JSON alone, and beside the packages of the SDKs.

`pip install microsoft-agents-activity botbuilder-schema` to compare with them.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent_core import Activity

PAYLOAD = Path(__file__).parent.parent / "tests" / "payloads" / "teams_channel_message.json"
ROUNDS = 40
TIMES = 100
MOST_BESIDE_JSON = 2.0
LEAST_BESIDE_PEERS = 5.0
JSON = "json.loads + json.dumps"
OURS = "agent_core"
CHANGED = "other"

Way = Callable[[bytes, bool], object]


def run() -> None:
    """Print the medians and ratios; exit non-zero if a limit is passed."""
    body = json.dumps(json.loads(PAYLOAD.read_bytes())).encode()
    peers = _agents_sdk() | _bot_framework()
    ways: dict[str, Way] = {JSON: _json, OURS: _agent_core, **peers}
    times: dict[tuple[str, bool], list[float]] = {(name, changed): [] for name in ways for changed in (False, True)}
    for _ in range(ROUNDS):
        # In turn, so that the machine's slow moments are everybody's.
        for (name, changed), found in times.items():
            found.append(_microseconds(ways[name], body, changed))
    print(f"parse, read type, text, from, conversation, serialise; {len(body)} bytes; µs, median of {ROUNDS}")
    print(f"{'':44} {'as it came':>20} {'text changed':>20}")
    for name in ways:
        cells = [_cell(times, name, changed) for changed in (False, True)]
        print(f"{name:44} {cells[0]:>20} {cells[1]:>20}")
    beside_json = 1 / _ratio(times, JSON)
    print(f"{beside_json:.2f} times JSON alone, limit {MOST_BESIDE_JSON}")
    if beside_json > MOST_BESIDE_JSON:
        sys.exit("reading and writing an activity costs too much beside JSON alone")
    if not peers:
        print("neither microsoft-agents-activity nor botbuilder-schema is installed: compared with JSON only")
        return
    best = min(_ratio(times, name) for name in peers)
    print(f"the best of the others takes {best:.1f} times as long, limit {LEAST_BESIDE_PEERS}")
    if best < LEAST_BESIDE_PEERS:
        sys.exit("reading and writing an activity is not fast enough beside the other packages")


def _ratio(times: dict[tuple[str, bool], list[float]], name: str, changed: bool = False) -> float:
    """How many times as long as ours it takes, each round by itself."""
    pairs = zip(times[name, changed], times[OURS, changed], strict=True)
    return statistics.median(theirs / ours for theirs, ours in pairs)


def _cell(times: dict[tuple[str, bool], list[float]], name: str, changed: bool) -> str:
    ratio = "" if name == OURS else f" ({_ratio(times, name, changed):.1f} ×)"
    return f"{statistics.median(times[name, changed]):.1f}{ratio}"


def _microseconds(way: Way, body: bytes, changed: bool) -> float:
    start = time.perf_counter()
    for _ in range(TIMES):
        way(body, changed)
    return (time.perf_counter() - start) / TIMES * 1e6


def _read(activity: Any) -> tuple[Any, ...]:
    return activity.type, activity.text, activity.from_property.id, activity.conversation.id


def _json(body: bytes, changed: bool) -> object:
    activity = json.loads(body)
    _ = activity["type"], activity["text"], activity["from"]["id"], activity["conversation"]["id"]
    if changed:
        activity["text"] = CHANGED
    return json.dumps(activity).encode()


def _agent_core(body: bytes, changed: bool) -> object:
    activity = Activity.from_json(body)
    _read(activity)
    return (activity.replace(text=CHANGED) if changed else activity).to_json()


def _agents_sdk() -> dict[str, Way]:
    try:
        model = importlib.import_module("microsoft_agents.activity").Activity
    except ImportError:
        return {}

    def shortest(body: bytes, changed: bool) -> object:
        activity = model.model_validate_json(body)
        _read(activity)
        if changed:
            activity.text = CHANGED
        return activity.model_dump_json(by_alias=True, exclude_unset=True).encode()

    def as_its_adapter(body: bytes, changed: bool) -> object:
        activity = model.model_validate(json.loads(body))
        _read(activity)
        if changed:
            activity.text = CHANGED
        return json.dumps(activity.model_dump(by_alias=True, exclude_unset=True, mode="json")).encode()

    return {
        "microsoft-agents-activity, shortest way": shortest,
        "microsoft-agents-activity, its adapter": as_its_adapter,
    }


def _bot_framework() -> dict[str, Way]:
    try:
        model = importlib.import_module("botbuilder.schema").Activity
    except ImportError:
        return {}

    def way(body: bytes, changed: bool) -> object:
        activity = model.deserialize(json.loads(body))
        _read(activity)
        if changed:
            activity.text = CHANGED
        return json.dumps(activity.serialize()).encode()

    return {"botbuilder-schema": way}
