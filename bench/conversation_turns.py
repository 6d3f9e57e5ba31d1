"""The turns that `conversation_cost` compares, and how they are measured: the same for ours and for the SDK's.

Nothing of ours is imported: the SDK's interpreter runs this too.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from bench.counting_proxy import counting_proxy

TURNS = 20
CONVERSATIONS = 10_000


@dataclass(frozen=True)
class Kind:
    """What a turn changes: the conversation's state, the user's."""

    name: str
    conversation: bool
    user: bool


KINDS = {
    kind.name: kind for kind in (Kind("nothing", False, False), Kind("state", True, False), Kind("both", True, True))
}

Turn = Callable[[Kind, str, int], Awaitable[None]]
# Gives what runs a turn over the store at this URL, in this database, and what closes it.
OpenAgent = Callable[[str, str], tuple[Turn, Callable[[], Awaitable[None]]]]


def activity(kind: Kind, conversation: str, number: int) -> dict[str, Any]:
    """A message of Teams, that asks for a kind of turn."""
    return {
        "type": "message",
        "id": f"{conversation}-{kind.name}-{number}",
        "timestamp": "2026-01-05T12:00:00.1234567Z",
        "text": kind.name,
        "channelId": "msteams",
        "serviceUrl": "https://smba.trafficmanager.net/emea/",
        "locale": "en-US",
        "from": {"id": f"29:{conversation}", "name": "Ada", "aadObjectId": "22222222-2222-2222-2222-222222222222"},
        "recipient": {"id": "28:agent", "name": "Agent"},
        "conversation": {
            "id": conversation,
            "conversationType": "personal",
            "tenantId": "33333333-3333-3333-3333-333333333333",
        },
    }


async def measured(server: str, key: str, open_agent: OpenAgent) -> dict[str, dict[str, list[int]]]:
    """Each kind's counts, turn by turn: in a new conversation, and in one that is known."""
    database = f"bench-{uuid4().hex[:12]}"
    counts: dict[str, dict[str, list[int]]] = {}
    async with counting_proxy(server) as traffic:
        turn, close = open_agent(traffic.url, database)
        try:
            # Connects, and creates the containers.
            await turn(KINDS["both"], "warm-up", 0)
            for kind in KINDS.values():
                for number in range(TURNS):
                    conversation = f"{kind.name}-{number}"
                    for where in ("new", "known"):
                        traffic.start()
                        await turn(kind, conversation, number + TURNS * (where == "known"))
                        found = counts.setdefault(f"{where}, {kind.name}", {})
                        for name, count in traffic.figures().items():
                            found.setdefault(name, []).append(count)
        finally:
            await close()
            await _remove(server, key, database)
    return counts


async def _remove(server: str, key: str, database: str) -> None:
    from azure.cosmos.aio import CosmosClient
    from azure.cosmos.exceptions import CosmosResourceNotFoundError

    async with CosmosClient(server, key) as client:
        with suppress(CosmosResourceNotFoundError):
            await client.delete_database(database)


def median(counts: list[int]) -> float:
    """The middle one of a kind's turns."""
    return statistics.median(counts)


async def memory_of(agent: object, turn: Turn | None, keep: Callable[[str], Awaitable[None]]) -> float:
    """Megabytes that this process grows by with a turn in each of many conversations, or by keeping each.

    The agent, which holds them, is held here until it is measured. 0 outside of Linux.
    """
    both = KINDS["both"]
    # Loads what is loaded on first use.
    await keep("warm-up")
    if turn is not None:
        await turn(both, "warm-up", 0)
    gc.collect()
    before = _resident_megabytes()
    for number in range(CONVERSATIONS):
        if turn is None:
            await keep(f"c{number}")
        else:
            await turn(both, f"c{number}", number)
    gc.collect()
    return _resident_megabytes() - before


def _resident_megabytes() -> float:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
    except FileNotFoundError:
        return 0.0
