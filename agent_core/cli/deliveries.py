"""`deliveries show`: why a chosen delivery was sent, waits, was dropped or failed."""

from __future__ import annotations

import argparse
import json
from typing import Any

from agent_core.errors import AgentError
from agent_core.hosting import clock
from agent_core.hosting.azure_services import AzureServices
from agent_core.proactive.delivery_reports import DeliveryReport, DeliveryReports


def register(commands: Any) -> None:
    """Add `deliveries` and its action."""
    parser = commands.add_parser("deliveries", help="what became of a callback, a notification or a long turn")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="why it was sent, waits, was dropped or failed")
    show.add_argument("key", metavar="KEY", help="as the log names it, such as callback:ID or 'event:SOURCE ID'")
    show.add_argument("--conversation", metavar="ID", help="only that of this conversation")
    show.add_argument("--json", action="store_true", help="one JSON object a line")
    show.set_defaults(run=_show)


async def _show(options: argparse.Namespace, services: AzureServices) -> None:
    reports = await DeliveryReports(services.store, clock.now).find(options.key, options.conversation)
    if not reports:
        raise AgentError(
            f"There is no delivery {options.key!r}: nothing was begun under that key yet, or it ended two weeks ago"
        )
    for report in reports:
        print(json.dumps(report.to_dict(), ensure_ascii=False) if options.json else _for_people(report))


def _for_people(report: DeliveryReport) -> str:
    shown = report.to_dict()
    letter = shown.pop("deadLetter")
    shown["messages"] = ", ".join(repr(each) for each in report.messages) or None
    shown["urgent"] = "yes" if report.urgent else None
    if letter is not None:
        shown["dead letter"] = f"{letter['reason']}, to be replayed or discarded: dead-letters show {report.key!r}"
    return "\n".join(f"{name + ':':<14}{value}" for name, value in shown.items() if value not in (None, ""))
