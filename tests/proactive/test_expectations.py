"""What a callback fulfils is used up once, also where two callbacks without tickets find the same one at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, cast

import pytest

from agent_core import TurnContext, TurnState
from agent_core.store.document_store import CONVERSATIONS, DocumentStore, Page, Where
from tests.proactive.setting import Setting

CALLBACK = {"conversationId": "c1", "continuation": "shipped"}
EXPECTED = Where("kind", "=", "expected_callback")


class Rival:
    """A store in which another callback uses up what was found, before the one that found it does."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store
        self.fast = 0

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return cast(Callable[..., Awaitable[Any]], getattr(self._store, name))

    async def query(self, *args: Any, **options: Any) -> Page:
        page = await self._store.query(*args, **options)
        if self.fast and EXPECTED in options.get("where", ()):
            self.fast -= 1
            for document in page.documents:
                await self._store.delete(CONVERSATIONS, document.body["conversation"], document.id)
        return page


class Shop(Setting):
    """An agent that expects callbacks, with a placeholder or without."""

    rival: Rival

    def __init__(self) -> None:
        super().__init__(wrap=self._rivalled)
        self.runs = 0

        @self.agent.message("order")
        async def order(context: TurnContext, state: TurnState) -> None:
            await context.expect_callback("shipped", replaces=await context.send_activity("working"))

        @self.agent.message("quietly")
        async def quietly(context: TurnContext, state: TurnState) -> None:
            await context.expect_callback("shipped")

        @self.agent.continuation("shipped")
        async def shipped(context: TurnContext, state: TurnState) -> None:
            self.runs += 1
            if context.activity.value is not None:
                await context.send_activity(context.activity.value)

    def _rivalled(self, store: DocumentStore) -> DocumentStore:
        self.rival = Rival(store)
        return cast(DocumentStore, self.rival)

    async def expects(self, *texts: str) -> None:
        for text in texts:
            await self.adapter.say(self.agent, text)
            await self.clock.advance(timedelta(seconds=1))

    async def left(self) -> int:
        return len((await self.store.query(CONVERSATIONS, partition="c1", where=[EXPECTED])).documents)


@pytest.mark.parametrize("rivals", [0, 1, 2])
async def test_a_placeholder_that_another_callback_used_up_is_left_to_it_and_the_next_one_is_edited(
    rivals: int,
) -> None:
    shop = Shop()
    await shop.expects("order", "order", "order")
    shop.rival.fast = rivals
    await shop.callback({**CALLBACK, "value": "shipped"})
    expected: list[str | None] = ["working"] * 3
    expected[rivals] = "shipped"
    assert shop.adapter.texts == expected
    assert await shop.left() == 2 - rivals
    assert shop.runs == 1


async def test_a_new_message_that_finds_its_expectation_used_up_is_not_sent_and_edits_what_is_expected_next() -> None:
    """It is looked at with the ledger's `sending`, so nothing has left: the work is tried again."""
    shop = Shop()
    await shop.expects("quietly", "order")
    shop.rival.fast = 1
    await shop.callback({**CALLBACK, "value": "shipped"})
    assert shop.adapter.texts == ["working"]
    await shop.later(timedelta(seconds=1))
    assert shop.adapter.texts == ["shipped"]
    assert await shop.left() == 0
    assert await shop.dead_letters() == []


async def test_a_callback_of_which_nothing_is_said_uses_its_expectation_up_too() -> None:
    shop = Shop()
    await shop.expects("quietly", "quietly", "quietly")
    await shop.callback(CALLBACK, "m1")
    assert await shop.left() == 2
    shop.rival.fast = 1
    await shop.callback(CALLBACK, "m2")
    assert await shop.left() == 1
    assert shop.runs == 2
    assert shop.queue.messages == []


async def test_what_failed_before_it_said_anything_leaves_the_expectation_for_its_next_attempt() -> None:
    shop = Shop()
    await shop.expects("quietly")
    await shop.callback({**CALLBACK, "value": 7})  # no text: the handler fails
    assert await shop.left() == 1
