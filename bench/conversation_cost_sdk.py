"""The official Python SDK's part of `conversation_cost`; run by an interpreter that has its packages, and not ours.

`pip install microsoft-agents-hosting-core microsoft-agents-storage-cosmos aiohttp`
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from importlib.metadata import version
from typing import Any

from bench.conversation_turns import KINDS, Kind, activity, measured, memory_of


def _sdk() -> tuple[Any, Any, Any]:
    return (
        importlib.import_module("microsoft_agents.activity"),
        importlib.import_module("microsoft_agents.hosting.core"),
        importlib.import_module("microsoft_agents.hosting.core.app.proactive"),
    )


class _Agent:
    """An AgentApplication whose handler does what a kind of turn asks for.

    Args:
        captures: stores the conversation at every turn, which ours does and the SDK leaves to the handler.
    """

    def __init__(self, storage: Any, *, captures: bool) -> None:
        self._activity, self._core, proactive = _sdk()

        class Adapter:
            async def send_activities(adapter, context: Any, activities: list[Any]) -> list[Any]:  # noqa: N805
                return [self._activity.ResourceResponse(id="sent") for _ in activities]

        class NoConnections:
            def __getattr__(self, name: str) -> Any:
                return lambda *arguments: None

        self._adapter = Adapter()
        self._app = self._core.AgentApplication(
            self._core.ApplicationOptions(storage=storage, proactive=proactive.ProactiveOptions(storage=storage)),
            connection_manager=NoConnections(),
        )

        async def answer(context: Any, state: Any) -> None:
            kind = KINDS[context.activity.text]
            if captures:
                await self._app.proactive.store_conversation(context)
            if kind.conversation:
                state.set_value("ConversationState.last", context.activity.id)
            if kind.user:
                state.set_value("UserState.last", context.activity.id)
            await context.send_activity("Thank you.")

        async def fail(context: Any, error: Exception) -> None:
            raise error

        self._app.activity("message")(answer)
        self._app.error(fail)

    async def turn(self, kind: Kind, conversation: str, number: int) -> None:
        await self._app.on_turn(self._context(activity(kind, conversation, number)))

    async def keep(self, conversation: str) -> None:
        """Store a conversation, without a turn in it."""
        await self._app.proactive.store_conversation(self._context(activity(KINDS["nothing"], conversation, 0)))

    def _context(self, incoming: dict[str, Any]) -> Any:
        model = self._activity.Activity.model_validate(incoming)
        identity = self._core.ClaimsIdentity(claims={"aud": "agent", "iss": "https://api.botframework.com"})
        return self._core.TurnContext(self._adapter, model, identity)


async def _cost(endpoint: str, key: str, *, captures: bool) -> dict[str, dict[str, list[int]]]:
    cosmos = importlib.import_module("microsoft_agents.storage.cosmos")

    def open_agent(url: str, database: str) -> tuple[Any, Any]:
        config = cosmos.CosmosDBStorageConfig(
            cosmos_db_endpoint=url, auth_key=key, database_id=database, container_id="botstate"
        )
        storage = cosmos.CosmosDBStorage(config)
        return _Agent(storage, captures=captures).turn, storage._close

    return await measured(endpoint, key, open_agent)


async def _memory(*, turns: bool, captures: bool) -> float:
    _, core, _ = _sdk()
    agent = _Agent(core.MemoryStorage(), captures=captures)
    return await memory_of(agent, agent.turn if turns else None, agent.keep)


def main() -> None:
    what, how, *place = sys.argv[1:]
    captures = how == "captures"
    if what == "cost":
        figures: Any = asyncio.run(_cost(*place, captures=captures))
    else:
        figures = asyncio.run(_memory(turns=what == "turns", captures=captures))
    print(json.dumps({"version": version("microsoft-agents-hosting-core"), "figures": figures}))


if __name__ == "__main__":
    main()
