"""The operator's side of dead letters: look at them, and decide what becomes of each."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from agent_core.errors import AgentError, NotReplayable
from agent_core.hosting import clock
from agent_core.hosting.azure_services import AzureServices
from agent_core.proactive.dead_letters import DeadLetter, DeadLetters

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def register(commands: Any) -> None:
    """Add `dead-letters` and its actions; without an action it lists."""
    parser = commands.add_parser("dead-letters", help="what could not be done: list, show, replay or discard it")
    _add_filters(parser, None)
    _add_json(parser, default=False)
    parser.set_defaults(run=_list)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")

    action = actions.add_parser("list", help="all that match, oldest first")
    _add_filters(action, argparse.SUPPRESS)
    _add_json(action, argparse.SUPPRESS)
    action.set_defaults(run=_list)

    action = actions.add_parser("show", help="one of them, with its payload; tickets are redacted")
    action.add_argument("key", metavar="KEY")
    action.add_argument("--conversation", metavar="ID", default=argparse.SUPPRESS, help="where several have that key")
    _add_json(action, argparse.SUPPRESS)
    action.set_defaults(run=_show)

    action = actions.add_parser("drain", help="take over now what the queues put aside; the timer does it every minute")
    action.set_defaults(run=_drain)

    for name, run, words in (
        ("replay", _replay, "do the work again under its key: what had been sent is not sent again"),
        ("discard", _discard, "let it be; of an unsure one: it had arrived"),
    ):
        action = actions.add_parser(name, help=words)
        action.add_argument("keys", nargs="*", metavar="KEY")
        _add_filters(action, argparse.SUPPRESS)
        action.add_argument("--all-matching", action="store_true", help="all that the filters leave, instead of keys")
        action.add_argument("--yes", action="store_true", help="do not ask before that")
        _add_json(action, argparse.SUPPRESS)
        action.set_defaults(run=run, usage_error=action.error)


def _add_json(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument("--json", action="store_true", default=default, help="one JSON object a line")


def _add_filters(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument("--reason", default=default, help="such as Unsure or ConversationNotFound")
    parser.add_argument("--conversation", metavar="ID", default=default)
    parser.add_argument("--what", default=default, help="such as callback, occurrence, 'long-running turn'")
    parser.add_argument(
        "--since", type=_since, metavar="TIME", default=default, help="30m, 12h, 7d, or 2026-01-05T12:00Z"
    )
    parser.add_argument("--limit", type=_positive, metavar="N", default=default)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give 1 or more")
    return number


def _since(text: str) -> datetime:
    try:
        if text[-1:] in _UNITS:
            return clock.now() - timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError("give 30m, 12h, 7d, or a time such as 2026-01-05T12:00Z") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _open(services: AzureServices) -> DeadLetters:
    return DeadLetters(services.store, clock.now, services.queue)


def _matching(options: argparse.Namespace, letters: DeadLetters) -> AsyncIterator[DeadLetter]:
    return letters.list(
        reason=options.reason,
        conversation=options.conversation,
        what=options.what,
        since=options.since,
        limit=options.limit,
    )


async def _list(options: argparse.Namespace, services: AzureServices) -> None:
    found = False
    async for letter in _matching(options, _open(services)):
        found = True
        if options.json:
            print(json.dumps(letter.to_dict(), ensure_ascii=False))
        else:
            print(
                f"{letter.created:%Y-%m-%d %H:%M:%S}Z  {letter.reason:<22} {letter.what}  "
                f"conversation {letter.conversation or '-'!r}  key {letter.key!r}\n    {letter.explanation}"
            )
    if not found and not options.json:
        print("No dead letters.")


async def _show(options: argparse.Namespace, services: AzureServices) -> None:
    letter = await _get(_open(services), options.key, options.conversation)
    shown = letter.to_dict()
    if options.json:
        print(json.dumps(shown, ensure_ascii=False))
        return
    payload = shown.pop("payload")
    for name, value in shown.items():
        print(f"{name + ':':<14}{value}")
    with suppress(ValueError):
        payload = json.dumps(json.loads(payload), ensure_ascii=False, indent=2)
    print(payload)


async def _drain(options: argparse.Namespace, services: AzureServices) -> None:
    letters, drained = _open(services), 0
    while found := await services.drain_dead_letters(letters):
        drained += found
    print(f"Drained {drained} messages.")


async def _replay(options: argparse.Namespace, services: AzureServices) -> None:
    await _decide(options, services, "replay")


async def _discard(options: argparse.Namespace, services: AzureServices) -> None:
    await _decide(options, services, "discard")


async def _decide(options: argparse.Namespace, services: AzureServices, action: str) -> None:
    if bool(options.keys) == options.all_matching:
        options.usage_error("name the keys, or say --all-matching")
    letters = _open(services)
    if options.keys:
        chosen = [await _get(letters, key, options.conversation) for key in options.keys]
    else:
        chosen = [letter async for letter in _matching(options, letters)]
        if chosen and not options.yes and not _confirmed(f"{action.capitalize()} {len(chosen)} dead letters? [y/N] "):
            raise AgentError("nothing was confirmed; say y, or --yes")
    refused = 0
    for letter in chosen:
        try:
            done = await (letters.replay(letter) if action == "replay" else letters.discard(letter))
            outcome, explanation = (f"{action}ed", "") if done else ("gone", "somebody decided about it meanwhile")
        except NotReplayable as error:
            refused += 1
            outcome, explanation = "refused", str(error)
        if options.json:
            said = {"key": letter.key, "conversation": letter.conversation, "outcome": outcome}
            print(json.dumps({**said, "explanation": explanation}, ensure_ascii=False))
        else:
            print(f"{outcome} {letter.key!r}" + (f": {explanation}" if explanation else ""))
    if not chosen and not options.json:
        print("No dead letters.")
    if refused:
        raise AgentError(f"{refused} of {len(chosen)} cannot be replayed as they are")


async def _get(letters: DeadLetters, key: str, conversation: str | None) -> DeadLetter:
    letter = await letters.get(key, conversation)
    if letter is None:
        raise AgentError(f"There is no dead letter {key!r}; `dead-letters list` names those that there are")
    return letter


def _confirmed(question: str) -> bool:
    # On stderr: what is on stdout may be read by a program.
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
