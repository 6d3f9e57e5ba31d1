"""The command line: plays an external system's part, and shows what could not be done."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent_core.activity.activity_types import CallbackTypes
from agent_core.activity.json_text import dump
from agent_core.cli import conversations, dead_letters, deliveries, import_conversations, users
from agent_core.errors import AgentError, SettingsError
from agent_core.hosting.azure_services import AzureServices
from agent_core.hosting.settings import SERVICE_BUS, Settings
from agent_core.proactive.callback_message import Callback, session_id
from agent_core.proactive.queue import QueueMessage


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code: 0 done, 1 not done (the reason is on stderr), 2 wrong use."""
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "publish" and not options.conversation and not options.ticket_file:
        parser.error("publish needs --conversation or --ticket-file")
    # Whoever types commands is at a developer's machine, unless the environment says otherwise.
    settings = Settings({"AZURE_FUNCTIONS_ENVIRONMENT": "Development", **os.environ})
    try:
        asyncio.run(_run(options, AzureServices(settings)))
    except (AgentError, ValueError) as error:
        print(f"Not done: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agent_core",
        description="Works on the embedded queue and store under .local, or on Azure where "
        "ServiceBusConnection and CosmosConnection are set.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    publish = commands.add_parser("publish", help="put a callback on the queue, as an external system does")
    publish.add_argument("continuation", nargs="?", help="the name given to @agent.continuation")
    publish.add_argument("--conversation", metavar="ID", help="the conversation to continue")
    publish.add_argument("--channel", metavar="ID", help="its channel, where several have a conversation of that id")
    publish.add_argument("--value", type=_json, metavar="JSON", help="what the continuation finds in activity.value")
    publish.add_argument("--ticket", help="the ticket that context.expect_callback gave out")
    publish.add_argument(
        "--ticket-file", type=_ticket, metavar="PATH", help="the JSON it gave out, which names the rest; - is stdin"
    )
    kinds = [kind.name for kind in CallbackTypes]
    publish.add_argument("--type", choices=kinds, help="what is said; result if not given")
    publish.add_argument("--text", help="the message that a progress or a notification shows")
    publish.add_argument("--error", type=_json, metavar="JSON", help='why it failed: {"code": "…", "message": "…"}')
    publish.add_argument(
        "--urgent", action="store_true", default=None, help="a notification that passes quiet hours and limits"
    )
    publish.add_argument("--id", help="the callback's own id: publishing the same id twice has one effect")
    publish.set_defaults(run=_publish)

    dead_letters.register(commands)
    deliveries.register(commands)

    conversations_parser = commands.add_parser("conversations", help="what the agent knows of its conversations")
    actions = conversations_parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    conversations.register(actions)
    import_conversations.register(actions)

    users_parser = commands.add_parser("users", help="what the agent knows of its users")
    users.register(users_parser.add_subparsers(dest="action", required=True, metavar="ACTION"))
    return parser


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}. A text needs its quotes, as in '\"text\"'") from error


def _ticket(path: str) -> dict[str, Any]:
    try:
        ticket = _json(sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not isinstance(ticket, dict):
        raise argparse.ArgumentTypeError("not the JSON object that expect_callback gave out")
    return ticket


async def _run(options: argparse.Namespace, services: AzureServices) -> None:
    try:
        await options.run(options, services)
    finally:
        await services.close()


async def _publish(options: argparse.Namespace, services: AzureServices) -> None:
    settings = services.settings
    if not settings.has_service_bus and not (settings.local_data / "queues.db").exists():
        # A message in a queue that nobody reads would be as good as lost.
        raise SettingsError(
            f"No local engine has run here: there is no {settings.local_data / 'queues.db'}. "
            f"Run this in the folder of `make run`, or set {SERVICE_BUS}."
        )
    callback_id = options.id or uuid.uuid4().hex
    given = {
        "id": callback_id,
        "type": options.type and CallbackTypes[options.type],
        "conversationId": options.conversation,
        "channelId": options.channel,
        "continuation": options.continuation,
        "ticket": options.ticket,
        "value": options.value,
        "text": options.text,
        "error": options.error,
        "urgent": options.urgent,
    }
    body = {**(options.ticket_file or {}), **{key: value for key, value in given.items() if value is not None}}
    # What would become a dead letter is said here, to whom it concerns.
    callback = Callback.from_body(body, callback_id)
    message = QueueMessage(
        dump(body), message_id=callback_id, subject=callback.type, session_id=session_id(callback.conversation_id)
    )
    await services.callbacks.send(message)
    named = callback.continuation or "a notification"
    print(f"Published {named!r} as {callback_id} to {settings.get('CALLBACK_QUEUE')}")
