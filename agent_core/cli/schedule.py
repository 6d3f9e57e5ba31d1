"""`schedule`: what is to be said at a time, made, listed, changed, stopped and looked ahead at."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent_core.activity.json_text import JsonObject, parse_object
from agent_core.cli.conversations import conversations, directory
from agent_core.hosting import clock
from agent_core.hosting.azure_services import AzureServices
from agent_core.proactive.dead_letters import DeadLetters
from agent_core.proactive.ledger import Ledger
from agent_core.proactive.notifications import Notifications
from agent_core.proactive.preferences import PreferenceStore
from agent_core.proactive.schedule_json import CHANGES, WHEN
from agent_core.proactive.schedule_requests import FILTERS, ScheduleRequests
from agent_core.proactive.schedules import Schedules
from agent_core.proactive.timer import Timer

# Which options make up `to`, and what they are called there.
_TO = {
    "conversation": "conversation",
    "channel": "channel",
    "user": "user",
    "channel_user": "channelUser",
    "tenant": "tenant",
}
_CAN_BE_CLEARED = ("zone", "start", "until", "count", "excluding", "value", "expires", "tag")


def register(commands: Any) -> None:
    """Add `schedule` and its actions."""
    parser = commands.add_parser("schedule", help="what is to be said at a time: add, list, change, stop, preview")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, run: Callable[..., Any], words: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = actions.add_parser(name, help=words)
        added.add_argument("--json", action="store_true", help="JSON, one object a line")
        added.set_defaults(run=run, usage_error=added.error)
        return added

    add = action("add", _add, "say something, or run a continuation, at a time or at times that recur")
    _add_recipient(add)
    add.add_argument("--id", metavar="NAME", help="your own name for it: adding it twice makes it once")
    _add_when(add)
    _add_content(add)

    listing = action("list", _list, "all that match; those for a user's conversations are not the user's")
    _add_recipient(listing, tenant=False)
    listing.add_argument("--tag")
    listing.add_argument("--status", help="scheduled, paused, done or cancelled")

    update = action("update", _update, "change what is given; the rest stays")
    _add_when(update)
    _add_content(update)
    update.add_argument(
        "--clear", action="append", choices=_CAN_BE_CLEARED, default=[], help="take away what was said before"
    )

    preview = action("preview", _preview, "the next occurrences, of a stored one or of what is said here")
    _add_recipient(preview)
    _add_when(preview)
    preview.add_argument("--limit", type=int, metavar="N", help="how many, 10 if not given, 10,000 at most")

    for name, run, words in (
        ("show", _show, "all of one, and what was handed over and dropped last"),
        ("pause", _pause, "stop one until it is resumed"),
        ("resume", _resume, "go on with one"),
        ("cancel", _cancel, "stop one, even what is already on the queue"),
    ):
        action(name, run, words).add_argument("id")
    update.add_argument("id")
    preview.add_argument("id", nargs="?")


def _add_recipient(parser: argparse.ArgumentParser, *, tenant: bool = True) -> None:
    parser.add_argument("--conversation", metavar="ID")
    parser.add_argument("--channel", metavar="ID", help="the channel of the conversation or user, such as msteams")
    parser.add_argument("--user", metavar="AAD_ID", help="the user's id in Microsoft Entra, wherever that is")
    parser.add_argument("--channel-user", metavar="ID", help="the user's id on the channel, with --channel")
    if tenant:
        parser.add_argument("--tenant", metavar="ID", help="the user's tenant")


def _add_when(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", metavar="PATH", help="all of it as JSON, see docs/contracts; - is stdin")
    parser.add_argument("--at", metavar="TIME", help="2026-03-29T08:00:00Z, or without the Z and with --zone")
    parser.add_argument("--every", metavar="RULE", help="'0 9 * * MON-FRI' by the clock in --zone, or PT6H")
    parser.add_argument("--zone", help="such as Europe/Paris; if not given the recipient's own")
    parser.add_argument("--start", metavar="TIME", help="of --every: no occurrence before it")
    parser.add_argument("--until", metavar="TIME", help="of --every: no occurrence after it")
    parser.add_argument("--count", type=int, metavar="N", help="of --every: how many, 10,000 at most")
    parser.add_argument("--excluding", metavar="DATES", help="of --every: 2026-12-25,2026-12-26")


def _add_content(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", help="the message; an activity goes into --file")
    parser.add_argument("--continuation", metavar="NAME", help="the name given to @agent.continuation")
    parser.add_argument("--value", metavar="JSON", help="what it finds in activity.value")
    parser.add_argument("--misfire", help="of those nobody was there for: latest, skip or all; latest if not given")
    parser.add_argument("--grace", metavar="DURATION", help="how late is not late: PT5M if not given")
    parser.add_argument("--expires", metavar="DURATION", help="how long after its time it is worth sending")
    parser.add_argument("--urgent", action=argparse.BooleanOptionalAction, help="pass quiet hours and the number a day")
    parser.add_argument("--tag", help="to list it by")


def notifications(services: AzureServices) -> Notifications:
    """The notifications of these services; of continuations nothing is known here."""
    new_id = services.adapter.new_id
    schedules, letters = Schedules(services.store), DeadLetters(services.store, clock.now, services.queue)
    known = conversations(services)
    return Notifications(
        schedules,
        Timer(schedules, services.queue, letters, now=clock.now),
        known,
        directory(services),
        Ledger(services.store, now=clock.now, sleep=clock.sleep, new_id=new_id),
        preferences=PreferenceStore(services.store, known, now=clock.now),
        continuations=None,
        check_service_url=services.adapter.check_service_url,
        now=clock.now,
        new_id=new_id,
    )


def _requests(services: AzureServices) -> ScheduleRequests:
    return ScheduleRequests(notifications(services))


def _said(options: argparse.Namespace, names: tuple[str, ...]) -> JsonObject:
    """The JSON form of a schedule: what the file has, and over it what the options say."""
    said = _file(options)
    given = vars(options)
    said |= {name: given[name] for name in names if given.get(name) is not None}
    if given.get("value") is not None:
        try:
            said["value"] = json.loads(given["value"])
        except ValueError:
            options.usage_error("--value is not JSON; a text needs its quotes, as in '\"text\"'")
    if given["excluding"] is not None:
        said["excluding"] = [day.strip() for day in options.excluding.split(",")]
    to = {inner: given[name] for name, inner in _TO.items() if given.get(name) is not None}
    return {**said, "to": to} if to else said


def _file(options: argparse.Namespace) -> JsonObject:
    if options.file is None:
        return {}
    try:
        return parse_object(sys.stdin.buffer.read() if options.file == "-" else Path(options.file).read_bytes())
    except OSError as error:
        options.usage_error(f"--file: {error}")
        raise


async def _add(options: argparse.Namespace, services: AzureServices) -> None:
    said = _said(options, ("id", *CHANGES))
    if not said:
        options.usage_error("say to whom, when and what, or give --file")
    _print(options, await _requests(services).create(said))


async def _update(options: argparse.Namespace, services: AzureServices) -> None:
    said = _said(options, CHANGES)
    said |= {name: [] if name == "excluding" else None for name in options.clear}
    if not said:
        options.usage_error("say what is to be changed")
    _print(options, await _requests(services).change(options.id, said))


async def _list(options: argparse.Namespace, services: AzureServices) -> None:
    given = {**vars(options), "channelUser": options.channel_user}
    query = {name: given[name] for name in FILTERS if given.get(name) is not None}
    requests, found, more = _requests(services), False, True
    while more:
        page = await requests.page({**query, "limit": "1000"})
        for schedule in page["schedules"]:
            found = True
            _print(options, schedule)
        more = "continuation" in page
        query["continuation"] = page.get("continuation")
    if not found and not options.json:
        print("No schedules.")


async def _show(options: argparse.Namespace, services: AzureServices) -> None:
    found = await _requests(services).get(options.id)
    print(json.dumps(found, ensure_ascii=False, indent=None if options.json else 2))


async def _pause(options: argparse.Namespace, services: AzureServices) -> None:
    _print(options, await _requests(services).pause(options.id))


async def _resume(options: argparse.Namespace, services: AzureServices) -> None:
    _print(options, await _requests(services).resume(options.id))


async def _cancel(options: argparse.Namespace, services: AzureServices) -> None:
    _print(options, await _requests(services).cancel(options.id))


async def _preview(options: argparse.Namespace, services: AzureServices) -> None:
    said = _said(options, WHEN)
    if (options.id is None) == (not said):
        options.usage_error("name a stored schedule, or say when")
    requests = _requests(services)
    if options.id is not None:
        limit = None if options.limit is None else str(options.limit)
        found = await requests.occurrences(options.id, limit)
    else:
        found = await requests.preview(said if options.limit is None else {**said, "limit": options.limit})
    for each in found["occurrences"]:
        print(json.dumps(each) if options.json else "  ".join(each.values()))
    if not found["occurrences"] and not options.json:
        print("No occurrences.")


def _print(options: argparse.Namespace, schedule: JsonObject) -> None:
    if options.json:
        print(json.dumps(schedule, ensure_ascii=False))
        return
    rule = schedule.get("every")
    print(
        f"{schedule.get('next', '-'):<20}  {schedule['status']:<10}  "
        f"{'every ' + repr(rule) if rule else 'once'}{' in ' + schedule['zone'] if 'zone' in schedule else ''}  "
        f"to {json.dumps(schedule['to'], ensure_ascii=False)}  "
        f"{'tag ' + repr(schedule['tag']) + '  ' if 'tag' in schedule else ''}{schedule['id']}"
    )
