"""The doubles that ship do what they promise."""

import asyncio
from datetime import timedelta

import pytest

from agent_core import AgentApplication, TurnContext, TurnState
from agent_core.store.memory_store import MemoryStore
from agent_core.testing import ManualClock, MemoryQueue, TestAdapter


async def test_a_clock_that_runs_work_moves_to_each_sleeper_in_turn() -> None:
    clock = ManualClock()
    began = clock.now()
    woken = []

    async def sleeper(seconds: int) -> None:
        await clock.sleep(timedelta(seconds=seconds))
        woken.append((clock.now() - began).total_seconds())

    async def work() -> str:
        await asyncio.gather(sleeper(30), sleeper(10), sleeper(20))
        await sleeper(5)
        return "done"

    assert await clock.run(work()) == "done"
    assert woken == [10, 20, 30, 35]


async def test_work_that_does_not_wait_for_the_clock_is_not_waited_for() -> None:
    with pytest.raises(RuntimeError, match="not for this clock"):
        await ManualClock().run(asyncio.Event().wait())


async def test_what_the_work_raises_comes_out() -> None:
    async def work() -> None:
        raise ValueError("of the work")

    with pytest.raises(ValueError, match="of the work"):
        await ManualClock().run(work())


async def test_a_users_test_gives_tokens_and_signs_in_without_any_service() -> None:
    clock = ManualClock()
    adapter, queue = TestAdapter(clock), MemoryQueue(clock)
    agent = AgentApplication(adapter, MemoryStore(clock.now), queue)

    @agent.message("profile")
    async def profile(context: TurnContext, state: TurnState) -> None:
        token = await context.user_token("graph")
        await context.send_activity(f"Your token has {len(token)} characters")

    await adapter.say(agent, "profile")
    assert adapter.sent[-1].attachments[0].content_type == "application/vnd.microsoft.card.oauth"
    adapter.user_tokens.codes["123456"] = ("graph", "a token")
    await adapter.say(agent, "123456")
    for message in queue.take_due():
        await agent.do_work(message)
    assert adapter.texts[-1] == "Your token has 7 characters"
    assert await adapter.say(agent, "profile") == ["Your token has 7 characters"]
