"""`users delete`: everything that is kept about a user, deleted, with a report."""

from __future__ import annotations

import argparse
import json

from agent_core.cli.conversations import conversations
from agent_core.hosting.azure_services import AzureServices
from agent_core.proactive.erasure import UserData


def register(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `users`."""
    delete = actions.add_parser(
        "delete",
        help="delete everything that is kept about a user",
        description="Deletes the user's state, sign-ins and conversations with the agent, with all that was pending "
        "there, and takes the user out of conversations of several. Run it again after an interruption, and once more "
        "after some days for what waited on a queue.",
    )
    delete.add_argument("aad_id", nargs="?", metavar="AAD_ID", help="the user's id in Microsoft Entra")
    delete.add_argument("--user-id", metavar="ID", help="instead: the user's id on the channel, with --channel")
    delete.add_argument("--channel", metavar="ID", help="on this channel only")
    delete.add_argument("--yes", action="store_true", help="do it; without this it is only counted")
    delete.add_argument("--json", action="store_true", help="the report as a JSON object")
    delete.set_defaults(run=_delete)


async def _delete(options: argparse.Namespace, services: AzureServices) -> None:
    report = await UserData(services.store, conversations(services)).delete(
        options.aad_id, channel_id=options.channel, user_id=options.user_id, dry_run=not options.yes
    )
    if options.json:
        print(json.dumps(report.to_dict(), ensure_ascii=False))
        return
    for kind, number in sorted(report.deleted.items()):
        print(f"{number:>6}  {kind}")
    print(f"{report.scrubbed:>6}  conversation of several, without the user now")
    print("Nothing was deleted: this is what would go. Say --yes to delete it." if report.dry_run else "Deleted.")
