"""What a turn costs the store, and a conversation the memory, beside the official Python SDK with its Cosmos storage.

Needs a Cosmos DB server in COSMOS_TEST_CONNECTION, and for the comparison an interpreter that has the SDK's packages:
this one, or the one that AGENTS_SDK_PYTHON names. Both are measured through a proxy that counts, over the same server,
each in a process of its own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from agent_core import Activity, AgentApplication, TurnContext, TurnState
from agent_core.hosting.cosmos_store import CosmosConnection, CosmosStore
from agent_core.store.document_store import DocumentStore
from agent_core.store.memory_store import MemoryStore
from agent_core.testing import ManualClock, MemoryQueue, TestAdapter
from agent_core.turn.claims_identity import ClaimsIdentity
from bench.conversation_turns import CONVERSATIONS, KINDS, TURNS, Kind, Turn, activity, measured, median, memory_of

ROOT = Path(__file__).parent.parent
SDK = "AGENTS_SDK_PYTHON"
SERVER = "COSMOS_TEST_CONNECTION"
OURS = "agent_core"


def run() -> None:
    """Print two tables; there is no limit."""
    sdk = _sdk_interpreter()
    ways = {OURS: ([sys.executable, "-m", "bench.conversation_cost"], "captures")}
    if sdk is None:
        print(f"without the SDK: {SDK} names no interpreter that has its packages, and this one does not either")
    else:
        command = [sdk, "-m", "bench.conversation_cost_sdk"]
        ways |= {"SDK, state only": (command, "state"), "SDK, and store_conversation": (command, "captures")}
    text = os.environ.get(SERVER)
    if text:
        connection = CosmosConnection.from_connection_string(text, database="bench", create_containers=True)
        assert connection.key is not None
        place = (connection.endpoint, connection.key)
        _print_cost({name: _asked(command, "cost", how, *place) for name, (command, how) in ways.items()})
    else:
        print(f"the cost of a turn is skipped: {SERVER} names no Cosmos DB account or emulator (some need Node)")
    _print_memory(ways)


def _sdk_interpreter() -> str | None:
    named = os.environ.get(SDK)
    if named:
        return named
    return sys.executable if importlib.util.find_spec("microsoft_agents") else None


def _asked(command: Sequence[str], *arguments: str) -> Any:
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"failed: {' '.join([*command, arguments[0]])}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _print_cost(answers: dict[str, Any]) -> None:
    print(f"One turn's cost at the store, medians of {TURNS}: round trips in sequence, requests, bytes out and in")
    rows = list(answers[OURS]["figures"])
    print("| turn | " + " | ".join(_titles(answers)) + " |\n|---|" + "---|" * len(answers))
    for row in rows:
        cells = [
            " / ".join(f"{median(counts):.0f}" for counts in answer["figures"][row].values())
            for answer in answers.values()
        ]
        print(f"| {row} | " + " | ".join(cells) + " |")


def _print_memory(ways: dict[str, tuple[list[str], str]]) -> None:
    print(f"\nMemory of {CONVERSATIONS:,} conversations in the store that keeps them in memory, MB of RSS")
    rows = {"kept": "kept, no turn yet", "turns": "a turn in each, state of both saved"}
    # An SDK's agent that does not store its conversations keeps none before a turn.
    answers = {
        row: {
            name: _asked(command, row, how) for name, (command, how) in ways.items() if (row, how) != ("kept", "state")
        }
        for row in rows
    }
    print("| | " + " | ".join(_titles(answers["turns"])) + " |\n|---|" + "---|" * len(ways))
    for row, title in rows.items():
        cells = [f"{answers[row][name]['figures']:.1f}" if name in answers[row] else "–" for name in ways]
        print(f"| {title} | " + " | ".join(cells) + " |")


def _titles(answers: dict[str, Any]) -> list[str]:
    return [f"{name} {answer['version']}".strip() for name, answer in answers.items()]


# --- ours, in its own process


class _Agent:
    """An agent whose handler does what a kind of turn asks for."""

    def __init__(self, clock: ManualClock, store: DocumentStore) -> None:
        self._adapter = TestAdapter(clock, "msteams")
        self._agent = AgentApplication(self._adapter, store, MemoryQueue(clock))
        self._identity = ClaimsIdentity(
            {"aud": "agent", "iss": "https://api.botframework.com"}, service_url_verified=True
        )

        @self._agent.message()
        async def answer(context: TurnContext, state: TurnState) -> None:
            kind = KINDS[context.activity.text or ""]
            if kind.conversation:
                state.conversation["last"] = context.activity.id
            if kind.user:
                state.user["last"] = context.activity.id
            await context.send_activity("Thank you.")

    async def turn(self, kind: Kind, conversation: str, number: int) -> None:
        incoming = Activity.from_dict(activity(kind, conversation, number))
        await self._adapter.process(self._agent, incoming, self._identity)
        # What the adapter remembers is for tests to look at.
        self._adapter.sent.clear()
        self._adapter.messages.clear()

    async def keep(self, conversation: str) -> None:
        """Store a conversation, without a turn in it."""
        incoming = Activity.from_dict(activity(KINDS["nothing"], conversation, 0))
        context = TurnContext(self._adapter, incoming, now=self._adapter.now(), identity=self._identity)
        await self._agent.proactive.store_conversation(context)


async def _cost(endpoint: str, key: str) -> dict[str, dict[str, list[int]]]:
    def open_agent(url: str, database: str) -> tuple[Turn, Callable[[], Awaitable[None]]]:
        store = CosmosStore(CosmosConnection(url, key, None, database, create_containers=True))
        return _Agent(ManualClock(), store).turn, store.close

    return await measured(endpoint, key, open_agent)


async def _memory(*, turns: bool) -> float:
    clock = ManualClock()
    agent = _Agent(clock, MemoryStore(clock.now))
    return await memory_of(agent, agent.turn if turns else None, agent.keep)


def _main(what: str, _: str, *place: str) -> None:
    logging.disable()
    figures: Any = asyncio.run(_cost(*place) if what == "cost" else _memory(turns=what == "turns"))
    print(json.dumps({"version": "", "figures": figures}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
