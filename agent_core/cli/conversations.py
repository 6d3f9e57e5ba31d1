"""`conversations list | count | show | delete`: what the agent knows of where it can speak."""

from __future__ import annotations

import argparse
import json
from typing import Any

from agent_core.activity.conversation_reference import split_channel_id
from agent_core.errors import ConversationNotFound
from agent_core.hosting import clock
from agent_core.hosting.azure_services import AzureServices
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.conversations import Conversations
from agent_core.proactive.dead_letters import DeadLetters
from agent_core.proactive.directory import ConversationDirectory, ConversationFilter
from agent_core.proactive.late_saves import LateSaves
from agent_core.store.document_rules import MAX_LIMIT
from agent_core.store.document_store import time_text


def register(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to those of `conversations`."""
    listing = actions.add_parser("list", help="one page of them, without texts and state")
    listing.add_argument("--page-size", type=_page_size, default=100, metavar="N", help="at most so many (100)")
    listing.add_argument("--continuation", metavar="TEXT", help="where the page before ended, as it said")
    listing.set_defaults(run=_list)
    count = actions.add_parser("count", help="how many there are; reads each of them")
    count.set_defaults(run=_count)
    for parser in (listing, count):
        parser.add_argument("--user", metavar="AAD_ID", help="the user's id in Microsoft Entra")
        parser.add_argument("--user-id", metavar="ID", help="the user's id on the channel")
        parser.add_argument("--tenant", metavar="ID", help="the tenant of Microsoft Entra")
        parser.add_argument("--team", metavar="ID", help="a team in Teams, 19:…@thread.tacv2")
        parser.add_argument("--teams-channel", metavar="ID", help="a channel of a team, with all its threads")
        parser.add_argument(
            "--status", choices=["active", "suspended", "forgotten"], help="all but forgotten if not given"
        )
    show = actions.add_parser("show", help="all that is known of one, its state included")
    show.set_defaults(run=_show)
    delete = actions.add_parser("delete", help="delete one with its state")
    delete.add_argument("--yes", action="store_true", help="do it; without this it is only shown")
    delete.set_defaults(run=_delete)
    for parser in (show, delete):
        parser.add_argument("id", help="the conversation's id")
    for parser in (listing, count, show, delete):
        parser.add_argument("--channel", metavar="ID", help="its channel, such as msteams")
        parser.add_argument("--json", action="store_true", help="one JSON object a line")


def directory(services: AzureServices) -> ConversationDirectory:
    """The conversations in the store of these services."""
    return ConversationDirectory(services.store, conversations(services))


def conversations(services: AzureServices) -> Conversations:
    """What reads and writes them."""
    letters = DeadLetters(services.store, clock.now)
    late_saves = LateSaves(services.store, services.queue, letters, now=clock.now, new_id=services.adapter.new_id)
    return Conversations(services.store, services.queue, late_saves, now=clock.now)


def _page_size(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_LIMIT:
        raise argparse.ArgumentTypeError(f"a page has 1 to {MAX_LIMIT} conversations")
    return int(text)


def _filter(options: argparse.Namespace) -> ConversationFilter:
    return ConversationFilter(
        aad_object_id=options.user,
        user_id=options.user_id,
        tenant_id=options.tenant,
        team_id=options.team,
        teams_channel_id=options.teams_channel,
        channel_id=options.channel,
        status=options.status,
    )


async def _list(options: argparse.Namespace, services: AzureServices) -> None:
    page = await directory(services).list(
        _filter(options), page_size=options.page_size, continuation=options.continuation
    )
    for conversation in page.conversations:
        print(json.dumps(_summary(conversation), ensure_ascii=False) if options.json else _line(conversation))
    if options.json:
        if page.continuation:
            print(json.dumps({"continuation": page.continuation}))
    elif page.continuation:
        print(f"There are more: --continuation {page.continuation}")
    elif not page.conversations:
        print("No conversations.")


async def _count(options: argparse.Namespace, services: AzureServices) -> None:
    number = await directory(services).count(_filter(options))
    print(json.dumps({"count": number}) if options.json else number)


async def _show(options: argparse.Namespace, services: AzureServices) -> None:
    conversation = await _found(options, services)
    shown = {**_summary(conversation), "reference": conversation.reference.to_dict(), "state": dict(conversation.state)}
    print(json.dumps(shown, ensure_ascii=False, indent=None if options.json else 2))


async def _delete(options: argparse.Namespace, services: AzureServices) -> None:
    conversation = await _found(options, services)
    if options.yes:
        await directory(services).delete(conversation.id, conversation.reference.channel)
    if options.json:
        print(json.dumps({**_summary(conversation), "deleted": options.yes}, ensure_ascii=False))
    else:
        print(_line(conversation))
        print("Deleted." if options.yes else "Nothing was deleted: say --yes to delete it with its state.")


async def _found(options: argparse.Namespace, services: AzureServices) -> Conversation:
    conversation = await directory(services).get(options.id, options.channel)
    if conversation is None:
        raise ConversationNotFound(options.id)
    return conversation


def _summary(conversation: Conversation) -> dict[str, Any]:
    reference, user = conversation.reference, conversation.reference.user
    channel, sub_channel = split_channel_id(reference.channel_id)
    told = {
        "subChannel": sub_channel,
        "reason": conversation.reason or None,
        "since": None if conversation.is_active else time_text(conversation.since),
        "userId": user.id if user else None,
        "aadObjectId": user.aad_object_id if user else None,
        "tenantId": conversation.tenant_id,
        "teamId": conversation.team_id,
        "teamsChannelId": conversation.teams_channel_id,
        "timeZone": conversation.time_zone,
        "locale": reference.locale,
    }
    return {
        "id": conversation.id,
        "channel": channel,
        "status": conversation.status,
        "lastSeen": time_text(conversation.last_seen),
        "serviceUrlVerified": conversation.identity.service_url_verified,
        **{name: value for name, value in told.items() if value is not None},
    }


def _line(conversation: Conversation) -> str:
    user = conversation.reference.user
    status = f"{conversation.status} ({conversation.reason})" if conversation.reason else conversation.status
    who = (user.aad_object_id or user.id or "-") if user else "-"
    return (
        f"{conversation.last_seen:%Y-%m-%d %H:%M}Z  {conversation.reference.channel_id or '-':<10}  {status:<10}  "
        f"user {who!r}  {conversation.id!r}"
    )
