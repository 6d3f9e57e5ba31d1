"""What the sample publishers send is what the contract says, whether they can run here or not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import pytest
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from agent_core.proactive.callback_message import Callback
from agent_core.proactive.queue import QueueMessage

ROOT = Path(__file__).parent.parent.parent
PUBLISHERS = ROOT / "samples" / "publishers"
CONNECTION = os.environ.get("SERVICE_BUS_TEST_CONNECTION", "")
QUEUE = os.environ.get("SERVICE_BUS_TEST_CALLBACK_QUEUE", "agent-callbacks")
MODULES = os.environ.get("AGENT_TESTS_NODE_MODULES", "") and os.path.abspath(os.environ["AGENT_TESTS_NODE_MODULES"])
TICKET = {"continuation": "order_placed", "channelId": "msteams", "ticket": "t1.claims.signature"}

SCHEMAS = {path.name: json.loads(path.read_text()) for path in (ROOT / "docs" / "contracts").glob("*.schema.json")}
REGISTRY: Registry[Any] = Registry().with_resources(
    (name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items()
)

needs_service_bus = pytest.mark.skipif(
    not CONNECTION, reason="set SERVICE_BUS_TEST_CONNECTION to the connection string of a Service Bus or its emulator"
)


def check(message: QueueMessage) -> Callback:
    """The callback in a message that schema and code both find good."""
    body = json.loads(message.body)
    name = "cloud-event" if "specversion" in body else "callback"
    Draft202012Validator(SCHEMAS[f"{name}.schema.json"], registry=REGISTRY).validate(body)
    callback = Callback.from_message(message)
    assert callback.continuation == "order_placed"
    assert callback.value == {"number": 1292}
    assert callback.ticket == "t1.claims.signature"
    assert callback.channel_id == "msteams"
    return callback


def literal(path: str) -> dict[str, Any]:
    """The one JSON object that stands in a source, from a line that only opens it to one that only closes it."""
    source = (PUBLISHERS / path).read_text()
    (text,) = re.finditer(r"^( *)\{\n.*?^\1\}$", source, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = json.loads(text[0])
    return found


async def run(*command: str, folder: Path, environment: Mapping[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def published(*command: str, folder: Path) -> ServiceBusReceivedMessage:
    """What this command puts on the queue for a conversation of its own."""
    conversation = f"a:{uuid.uuid4().hex}"
    (folder / "ticket.json").write_text(json.dumps({"conversationId": conversation, **TICKET}))
    environment = {"SERVICE_BUS_CONNECTION": CONNECTION, "CALLBACK_QUEUE": QUEUE}
    await run(*command, "ticket.json", '{"number": 1292}', folder=folder, environment=environment)
    async with (
        ServiceBusClient.from_connection_string(CONNECTION) as client,
        client.get_queue_receiver(QUEUE) as receiver,
    ):
        while batch := await receiver.receive_messages(10, max_wait_time=5):
            for message in batch:
                await receiver.complete_message(message)
                if message.session_id == conversation:
                    return message
    raise AssertionError("The queue has no such message")


def queue_message(received: ServiceBusReceivedMessage) -> QueueMessage:
    return QueueMessage(
        b"".join(received.body),
        str(received.message_id),
        content_type=received.content_type or "",
        session_id=received.session_id,
    )


@needs_service_bus
async def test_the_python_publisher_publishes(tmp_path: Path) -> None:
    message = await published(sys.executable, str(PUBLISHERS / "python" / "publish.py"), folder=tmp_path)
    callback = check(queue_message(message))
    assert callback.key == f"event:/samples/python {message.message_id}"
    assert callback.conversation_id == message.session_id
    assert (message.content_type, message.subject) == ("application/cloudevents+json", "agent.callback.result.v1")


@needs_service_bus
@pytest.mark.skipif(not MODULES, reason="set AGENT_TESTS_NODE_MODULES to a folder with @azure/service-bus in it")
async def test_the_javascript_publisher_publishes(tmp_path: Path) -> None:
    shutil.copy(PUBLISHERS / "javascript" / "publish.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(MODULES)
    message = await published("node", "publish.mjs", folder=tmp_path)
    callback = check(queue_message(message))
    assert callback.key == f"event:/samples/javascript {message.message_id}"
    assert callback.conversation_id == message.session_id
    assert message.content_type == "application/cloudevents+json"


@pytest.mark.skipif(not shutil.which("openssl"), reason="install openssl: the publisher signs with it")
async def test_the_curl_publisher_sends_what_service_bus_takes(tmp_path: Path) -> None:
    """With a curl that only notes what it is told: the token is computed as Service Bus computes it."""
    curl = tmp_path / "curl"
    curl.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >arguments\ncat >body\n')
    curl.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SERVICE_BUS_NAMESPACE": "name.servicebus.windows.net",
        "SERVICE_BUS_KEY_NAME": "sender",
        "SERVICE_BUS_KEY": "c2VjcmV0/+=",
    }
    await run(str(PUBLISHERS / "curl" / "publish.sh"), folder=tmp_path, environment=environment)
    arguments = (tmp_path / "arguments").read_text().splitlines()
    uri = "https://name.servicebus.windows.net/agent-callbacks"
    assert f"{uri}/messages" in arguments
    headers = dict(arguments[number + 1].split(": ", 1) for number, each in enumerate(arguments) if each == "--header")
    scheme, _, token = headers["Authorization"].partition(" ")
    assert scheme == "SharedAccessSignature"
    fields = {name: value for name, (value,) in parse_qs(token, strict_parsing=True).items()}
    # https://learn.microsoft.com/azure/service-bus-messaging/service-bus-sas#generate-a-shared-access-signature-token
    signed = f"{quote(uri, safe='')}\n{fields['se']}".encode()
    digest = hmac.digest(environment["SERVICE_BUS_KEY"].encode(), signed, hashlib.sha256)
    assert fields == {"sr": uri, "sig": base64.b64encode(digest).decode(), "se": fields["se"], "skn": "sender"}
    broker = json.loads(headers["BrokerProperties"])
    body = (tmp_path / "body").read_bytes()
    message = QueueMessage(body, broker["MessageId"], content_type=headers["Content-Type"])
    assert check(message).conversation_id == broker["SessionId"]


def test_what_the_curl_publisher_sends_is_in_its_source() -> None:
    check(QueueMessage(json.dumps(literal("curl/publish.sh")).encode(), "m1"))


def test_what_the_powershell_publisher_sends_is_good() -> None:
    event = literal("powershell/publish.ps1")
    assert event["id"] == "ID"
    check(QueueMessage(json.dumps(event).encode(), "m1", content_type="application/cloudevents+json"))


def test_what_the_csharp_publisher_sends_is_good() -> None:
    source = (PUBLISHERS / "csharp" / "Program.cs").read_text()
    set_here = dict(re.findall(r'ApplicationProperties\["([^"]+)"\] = ([^;]+);', source))
    known = {"message.Subject": "agent.callback.result.v1", "message.MessageId": "7"}
    properties = {name: known.get(value, value.strip('"')) for name, value in set_here.items()}
    assert 'Subject = "agent.callback.result.v1"' in source
    body = json.dumps(literal("csharp/Program.cs")).encode()
    message = QueueMessage(body, "7", content_type="application/json", application_properties=properties)
    assert check(message).key == "event:/samples/csharp 7"


def test_what_the_logic_apps_workflow_sends_is_good() -> None:
    workflow = json.loads((PUBLISHERS / "logic_apps" / "workflow.json").read_text())
    composed = workflow["actions"]["Callback"]["inputs"]
    handed_over = {"conversationId": "a:1x", **TICKET}
    # Each expression reads one field of what the agent handed over; the run's name is the id.
    names = {
        name: re.fullmatch(r"@\{?triggerBody\(\)\??\['(\w+)'\]\}?", str(value)) for name, value in composed.items()
    }
    body = {name: handed_over[found[1]] if found else composed[name] for name, found in names.items()}
    assert body["id"] == "@{workflow().run.name}"
    assert (
        workflow["actions"]["Send_message"]["inputs"]["body"]["ContentData"] == "@{base64(string(outputs('Callback')))}"
    )
    assert check(QueueMessage(json.dumps(body).encode(), "m1")).conversation_id == "a:1x"


def test_the_event_of_the_event_grid_sample_is_good() -> None:
    event = (PUBLISHERS / "event_grid" / "event.json").read_bytes()
    for content_type in ("application/cloudevents+json; charset=utf-8", "application/json", ""):
        assert check(QueueMessage(event, "m1", content_type=content_type)).key == "event:/samples/event_grid order-1292"
