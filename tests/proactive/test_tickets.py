"""Who may continue what: a ticket is good for what it was given out for, until its time, and for nothing else."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_core import CallbackTypes, ConversationAccount, TurnContext, TurnState
from agent_core.errors import InvalidCallback
from agent_core.proactive.callback_message import Callback
from agent_core.proactive.tickets import Tickets, expectation_of
from agent_core.turn.turn_context import ANSWERS, EXPECTED_FOR
from tests.proactive.setting import Setting

KEY, OLD_KEY = b"k" * 32, b"o" * 32
NOTIFICATION, PROGRESS = "agent.notification.v1", "agent.callback.progress.v1"


class Shop(Setting):
    """An agent that gives out tickets; `tickets` has each as JSON."""

    def __init__(self, tickets: Tickets | None, channel_id: str = "emulator", **options: Any) -> None:
        super().__init__(channel_id, tickets)
        self.tickets: list[dict[str, Any]] = []

        @self.agent.message()
        async def order(context: TurnContext, state: TurnState) -> None:
            placeholder = await context.send_activity("Working on it")
            ticket = await context.expect_callback("order_placed", replaces=placeholder, **options)
            self.tickets.append(ticket.to_dict())

        @self.agent.continuation("order_placed")
        async def order_placed(context: TurnContext, state: TurnState) -> None:
            await context.send_activity(f"Order #{context.activity.value}")

        @self.agent.continuation("refund")
        async def refund(context: TurnContext, state: TurnState) -> None:
            await context.send_activity("Refunded")

    async def ticket(self, conversation_id: str = "c1") -> dict[str, Any]:
        activity = self.adapter.activity(text="order", conversation=ConversationAccount(id=conversation_id))
        await self.adapter.process(self.agent, activity)
        return self.tickets[-1]

    async def reasons(self) -> list[str]:
        return [letter.reason for letter in await self.dead_letters()]


def required() -> Tickets:
    return Tickets([KEY], "required")


async def test_a_ticket_continues_what_it_was_given_out_for() -> None:
    shop = Shop(required())
    ticket = await shop.ticket()
    await shop.callback({**ticket, "type": PROGRESS, "text": "On the truck"}, "p1")
    assert shop.adapter.texts == ["On the truck"]
    await shop.callback({**ticket, "value": 1292})
    assert shop.adapter.texts == ["Order #1292"]
    assert await shop.reasons() == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ticket": None}, "TicketMissing"),
        ({"ticket": "id1"}, "TicketInvalid"),
        ({"ticket": "t1.W10.AAAA"}, "TicketInvalid"),
        ({"ticket": "t1..."}, "TicketInvalid"),
        ({"ticket": "é"}, "TicketInvalid"),
        ({"conversationId": "c2"}, "TicketForAnotherConversation"),
        ({"channelId": "msteams"}, "TicketForAnotherConversation"),
        ({"continuation": "refund"}, "TicketForAnotherContinuation"),
        ({"type": NOTIFICATION, "text": "Hi"}, "TicketForAnotherKind"),
    ],
)
async def test_a_ticket_for_something_else_is_a_dead_letter_with_that_reason(
    changes: dict[str, Any], reason: str
) -> None:
    """Done when, 4.8: a sender could otherwise name any conversation."""
    shop = Shop(required())
    await shop.ticket("c2")
    await shop.callback({**await shop.ticket(), "value": 1, **changes})
    assert await shop.reasons() == [reason]
    assert shop.adapter.texts == ["Working on it"] * 2
    assert shop.queue.messages == []


async def test_a_ticket_is_good_until_its_time_and_then_no_more() -> None:
    shop = Shop(required(), valid_for=timedelta(hours=1))
    ticket = await shop.ticket()
    await shop.clock.advance(timedelta(minutes=59))
    await shop.callback({**ticket, "value": 1}, "m1")
    assert shop.adapter.texts == ["Order #1"]
    await shop.clock.advance(timedelta(minutes=1, seconds=1))
    await shop.callback({**ticket, "value": 2}, "m2")
    assert await shop.reasons() == ["TicketExpired"]


async def test_a_callback_that_came_in_time_is_tried_again_after_its_ticket_expired() -> None:
    shop = Shop(required(), valid_for=timedelta(minutes=1))
    failures = [RuntimeError()] * 4

    @shop.agent.continuation("flaky")
    async def flaky(context: TurnContext, state: TurnState) -> None:
        if failures:
            raise failures.pop()
        await context.send_activity("Done")

    @shop.agent.event("go")
    async def go(context: TurnContext, state: TurnState) -> None:
        ticket = await context.expect_callback("flaky", valid_for=timedelta(minutes=1))
        shop.tickets.append(ticket.to_dict())

    await shop.adapter.process(shop.agent, shop.adapter.activity("event", name="go"))
    await shop.callback(shop.tickets[0])
    for _ in range(4):
        await shop.later(timedelta(minutes=2))
    assert shop.adapter.texts == ["Done"]


async def test_a_ticket_may_allow_notifications() -> None:
    shop = Shop(required(), kinds=[CallbackTypes.notification])
    ticket = await shop.ticket()
    await shop.callback({**ticket, "type": NOTIFICATION, "text": "We close at five"})
    assert shop.adapter.texts == ["Working on it", "We close at five"]
    await shop.callback({**ticket, "value": 1}, "m2")
    assert await shop.reasons() == ["TicketForAnotherKind"]


async def test_a_ticket_says_which_channel_is_meant_where_the_message_does_not() -> None:
    shop = Shop(required())
    ticket = await shop.ticket()
    await shop.adapter.process(shop.agent, shop.adapter.activity(text="order", channel_id="webchat"))
    await shop.callback({name: value for name, value in {**ticket, "value": 1}.items() if name != "channelId"})
    assert shop.adapter.texts == ["Order #1", "Working on it"]


async def test_optional_tickets_must_be_good_if_they_come() -> None:
    shop = Shop(Tickets([KEY], "optional"))
    ticket = await shop.ticket()
    await shop.callback({**ticket, "continuation": "refund"}, "m1")
    assert await shop.reasons() == ["TicketForAnotherContinuation"]
    await shop.callback({"conversationId": "c1", "continuation": "order_placed", "value": 1}, "m2")
    assert shop.adapter.texts == ["Order #1"]


@pytest.mark.parametrize("tickets", [None, Tickets([KEY], "off"), Tickets([], "optional")])
async def test_where_tickets_are_off_none_is_looked_at_and_each_still_means_its_placeholder(
    tickets: Tickets | None,
) -> None:
    shop = Shop(tickets)
    await shop.ticket()
    await shop.callback({**await shop.ticket(), "value": 2}, "m1")
    assert shop.adapter.texts == ["Working on it", "Order #2"]
    await shop.callback({**shop.tickets[0], "continuation": "refund"}, "m2")
    await shop.callback({**shop.tickets[0], "ticket": "none/of?ours#", "value": 3}, "m3")
    assert shop.adapter.texts == ["Working on it", "Order #2", "Refunded", "Order #3"]
    assert await shop.reasons() == []


async def test_keys_rotate_and_what_an_older_one_signed_stays_good_as_long_as_it_is_kept() -> None:
    shop = Shop(Tickets([OLD_KEY], "required"))
    callback = Callback.from_body({**await shop.ticket(), "value": 1}, "m1")
    now = shop.clock.now()
    for keys in ([OLD_KEY], [KEY, OLD_KEY]):
        assert Tickets(keys, "required").admit(callback, now) == callback
    with pytest.raises(InvalidCallback) as refused:
        Tickets([KEY], "required").admit(callback, now)
    assert refused.value.reason == "TicketInvalid"


def test_required_tickets_need_a_key() -> None:
    with pytest.raises(ValueError, match="key"):
        Tickets([], "required")


async def test_no_character_of_a_ticket_can_be_changed() -> None:
    shop = Shop(required())
    ticket = await shop.ticket()
    text = ticket["ticket"]
    for place in range(len(text)):
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        await shop.callback({**ticket, "ticket": changed, "value": 1}, f"m{place}")
    assert await shop.reasons() == ["TicketInvalid"] * len(text)


@given(st.text())
def test_any_text_means_some_expectation(text: str) -> None:
    assert expectation_of(text) == text
    assert isinstance(expectation_of(f"t1.{text}.x"), str)


@pytest.mark.parametrize("claims", [b"[" * 6000, b"[]", b"{}", b"7", b"\xff"])
def test_a_ticket_that_says_nothing_means_itself(claims: bytes) -> None:
    ticket = f"t1.{base64.urlsafe_b64encode(claims).decode()}.x"
    assert expectation_of(ticket) == ticket


def test_what_is_asked_for_by_default_is_an_answer_within_two_weeks() -> None:
    assert CallbackTypes.notification not in ANSWERS
    assert timedelta(days=14) == EXPECTED_FOR
