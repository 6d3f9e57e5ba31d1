"""The AsyncAPI document and the contract's page: valid, complete, and in step with the schemas and the code."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator
from referencing import Registry, Resource

from agent_core import CallbackTypes
from tests.proactive.malformed import MALFORMED

ROOT = Path(__file__).parent.parent.parent
CONTRACTS = ROOT / "docs" / "contracts"
DOCUMENT: dict[str, Any] = yaml.safe_load((CONTRACTS / "asyncapi.yaml").read_text())
MODULES = os.environ.get("AGENT_TESTS_NODE_MODULES", "")


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [each for inner in value.values() for each in references(inner)]
    return [each for inner in value for each in references(inner)] if isinstance(value, list) else []


def pointed_at(reference: str) -> Any:
    file, _, pointer = reference.partition("#")
    found = json.loads((CONTRACTS / file).read_text()) if file else DOCUMENT
    for part in pointer.strip("/").split("/") if pointer else []:
        found = found[part]
    return found


@pytest.mark.skipif(
    not MODULES, reason="set AGENT_TESTS_NODE_MODULES to a node_modules folder with @asyncapi/specs in it"
)
def test_the_document_is_what_the_schema_of_asyncapi_3_says() -> None:
    path = Path(MODULES) / "@asyncapi" / "specs" / "schemas" / "3.0.0-without-$id.json"
    published = Draft7Validator(json.loads(path.read_text()))
    published.validate(DOCUMENT)
    assert not published.is_valid({**DOCUMENT, "operations": {"wrong": {"action": "take"}}})


def test_the_document_has_the_shape_of_asyncapi_3_and_every_reference_points_at_something() -> None:
    """What can be seen without the published schema."""
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    (channel,) = DOCUMENT["channels"].values()
    (operation,) = DOCUMENT["operations"].values()
    assert channel["address"] == "agent-callbacks"
    assert operation["action"] == "receive"
    assert pointed_at(operation["channel"]["$ref"]) is channel
    assert len(operation["messages"]) == len(channel["messages"]) == 3
    for reference in references(DOCUMENT):
        assert pointed_at(reference), reference


def test_every_example_is_good_to_its_schema() -> None:
    schemas = [(path.name, json.loads(path.read_text())) for path in CONTRACTS.glob("*.schema.json")]
    registry: Registry[Any] = Registry().with_resources(
        (name, Resource.from_contents(schema)) for name, schema in schemas
    )
    count = 0
    for message in DOCUMENT["components"]["messages"].values():
        schema = message["payload"]["schema"]
        for example in message.get("examples", []):
            relative = {"$ref": schema["$ref"].removeprefix("./")}
            Draft202012Validator(relative, registry=registry).validate(example["payload"])
            count += 1
    assert count == 5


def test_the_types_are_the_same_everywhere() -> None:
    types = list(CallbackTypes)
    binary = DOCUMENT["components"]["messages"]["cloudEventBinary"]["headers"]["properties"]["cloudEvents:type"]
    event = json.loads((CONTRACTS / "cloud-event.schema.json").read_text())
    assert binary["enum"] == event["properties"]["type"]["enum"] == types
    page = (CONTRACTS / "README.md").read_text()
    bicep = (ROOT / "samples/publishers/event_grid/subscription.bicep").read_text()
    for kind in types:
        assert f"`{kind}`" in page
        assert f"'{kind}'" in bicep


def test_the_page_lists_every_reason_and_no_other() -> None:
    page = (CONTRACTS / "README.md").read_text()
    listed = set(re.findall(r"^\| `([A-Z][a-z]\w+)` \|", page, re.MULTILINE))
    code = "".join(
        (ROOT / "agent_core" / "proactive" / name).read_text() for name in ("callback_message.py", "tickets.py")
    )
    raised = set(re.findall(r'reason="(\w+)"', code))
    parser = (ROOT / "agent_core" / "activity" / "json_text.py").read_text()
    raised |= set(re.findall(r'code="(\w+)"', parser)) | {"ConversationNotFound", "ContinuationNotFound"}
    assert listed == raised
    assert {kind.reason for kind in MALFORMED} <= listed
