"""What a continuation asks of the store: three round trips in sequence, wherever its first process was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from agent_core import ConversationReference, TurnContext, TurnState
from agent_core.activity.activity_types import CallbackTypes
from agent_core.activity.conversation_reference import ChannelAccount, ConversationAccount
from agent_core.errors import ChannelError
from agent_core.hosting.cosmos_store import CosmosStore
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.tickets import Ticket, Tickets, counterpart_of
from agent_core.store.document_store import CONVERSATIONS, DocumentStore, Where
from agent_core.store.memory_store import MemoryStore
from agent_core.turn.claims_identity import ClaimsIdentity
from tests.cosmos_server.database import own_database
from tests.proactive.setting import Setting

TICKETS = Tickets([b"k" * 32], "required")
TENANT = "11111111-1111-1111-1111-111111111111"


class Counted:
    """Passes every call on, and notes how many calls had to be answered before it began."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store
        self._answered = 0
        self.calls: list[tuple[int, str]] = []

    @property
    def round_trips(self) -> int:
        """The longest chain of calls of which each began after the one before was answered."""
        return max((place for place, _ in self.calls), default=0)

    def forget(self) -> None:
        """Count anew."""
        self._answered = 0
        self.calls.clear()

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            place = self._answered + 1
            self.calls.append((place, name))
            for _ in range(20):  # what is asked at once overlaps
                await asyncio.sleep(0)
            try:
                return await method(*args, **kwargs)
            finally:
                self._answered = max(self._answered, place)

        return call


class Process(Setting):
    """A process that sees the conversation for the first time, over a store that others use too."""

    counted: Counted

    def __init__(self, store: DocumentStore, tickets: Tickets | None) -> None:
        super().__init__("msteams", tickets=tickets, wrap=self._counting, open_store=lambda now: store)

        @self.agent.continuation("shipped")
        async def shipped(context: TurnContext, state: TurnState) -> None:
            state.conversation["shipped"] = state.user["shipped"] = context.activity.value
            if context.activity.value != "silent":
                await context.send_activity(str(context.activity.value))

    def _counting(self, store: DocumentStore) -> DocumentStore:
        self.counted = Counted(store)
        return cast(DocumentStore, self.counted)

    async def cost(self, body: dict[str, Any]) -> tuple[int, list[tuple[int, str]]]:
        """Receive this callback; returns the round trips and the calls."""
        self.counted.forget()
        await self.callback(body, str(body["id"]))
        return self.counted.round_trips, self.counted.calls.copy()


@pytest.fixture(params=["memory", "cosmos"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[DocumentStore]:
    if request.param == "memory":
        yield MemoryStore(lambda: datetime.now(UTC))
        return
    async with own_database() as (connection, _):
        store = CosmosStore(connection)
        yield store
        await store.close()


async def a_conversation(process: Process, conversation_id: str) -> Conversation:
    reference = ConversationReference(
        channel_id="msteams",
        service_url="https://service.test/",
        user=ChannelAccount(id="29:user", name="User"),
        conversation=ConversationAccount(id=conversation_id, tenant_id=TENANT),
    )
    conversation = Conversation(reference, ClaimsIdentity(), process.clock.now())
    await process.agent.proactive.store_conversation(conversation)
    # As it stands in the store.
    return await process.agent._conversations.find(conversation_id)


async def expected(process: Process, conversation: Conversation, *, placeholder: bool) -> dict[str, Any]:
    """What an external system is handed: the ticket."""
    handed_out: list[dict[str, Any]] = []

    async def order(context: TurnContext, state: TurnState) -> None:
        replaces = await context.send_activity("Working on it") if placeholder else None
        kinds = [CallbackTypes.result, CallbackTypes.notification]
        handed_out.append((await context.expect_callback("shipped", replaces=replaces, kinds=kinds)).to_dict())

    await process.agent.proactive.continue_conversation(conversation, order)
    return handed_out[0]


@pytest.mark.parametrize("case", ["new message", "edit", "nothing said", "notification"])
async def test_a_continuation_with_one_message_costs_three_round_trips_in_a_process_that_never_was_there(
    store: DocumentStore, case: str
) -> None:
    """Issue 6, 5. The claim is made without a look, beside all reads; the ticket tells whose state they are of."""
    before = Process(store, TICKETS)
    conversation = await a_conversation(before, "c1")
    ticket = await expected(before, conversation, placeholder=case == "edit")
    process = Process(store, TICKETS)
    process.adapter.messages = before.adapter.messages
    value: dict[str, Any] = {"value": "silent" if case == "nothing said" else case}
    if case == "notification":
        value = {"type": "agent.notification.v1", "text": case}
    round_trips, calls = await process.cost({**ticket, "id": "1", **value})
    assert round_trips <= 3, calls
    assert process.adapter.texts == ([] if case == "nothing said" else [case])
    # What was expected has come, and the line is as if nobody had been there.
    for kind in ("turn_order", *(["expected_callback"] if case != "notification" else [])):
        page = await store.query(CONVERSATIONS, partition="c1", where=[Where("kind", "=", kind)])
        assert page.documents == [], kind


async def test_without_a_ticket_it_is_three_where_the_process_was_before_and_four_the_first_time(
    store: DocumentStore,
) -> None:
    """Issue 6, 5. Only the conversation's document tells whose state is to be read."""
    process = Process(store, None)
    await a_conversation(process, "c1")
    body = {"conversationId": "c1", "continuation": "shipped"}
    costs = [await process.cost({**body, "id": str(number), "value": number}) for number in range(3)]
    assert [round_trips for round_trips, _ in costs] == [4, 3, 3], costs
    assert process.adapter.texts == ["0", "1", "2"]


async def test_a_conversation_without_a_user_costs_three_the_first_time_too(store: DocumentStore) -> None:
    process = Process(store, None)
    reference = ConversationReference(
        channel_id="msteams", service_url="https://service.test/", conversation=ConversationAccount(id="c1")
    )
    await process.agent.proactive.store_conversation(Conversation(reference, ClaimsIdentity(), process.clock.now()))
    body = {"conversationId": "c1", "continuation": "shipped", "id": "1", "value": "x"}
    assert (await process.cost(body))[0] == 3


async def test_a_user_that_was_guessed_wrongly_is_read_again(store: DocumentStore) -> None:
    """Somebody else of the group spoke last: the state is that one's, whatever the ticket says."""
    process = Process(store, TICKETS)
    conversation = await a_conversation(process, "c1")
    ticket = await expected(process, conversation, placeholder=False)
    assert counterpart_of(ticket["ticket"]) is not None
    other = conversation.reference.replace(user=ChannelAccount(id="29:other"))
    await process.agent.proactive.store_conversation(Conversation(other, ClaimsIdentity(), process.clock.now()))
    seen: list[Any] = []

    async def look(context: TurnContext, state: TurnState) -> None:
        seen.append(state.user.get("shipped"))

    await Process(store, TICKETS).cost({**ticket, "id": "1", "value": "for the other"})
    for reference, expected_value in ((other, "for the other"), (conversation.reference, None)):
        known = Conversation(reference, ClaimsIdentity(), process.clock.now())
        await process.agent.proactive.store_conversation(known)
        await process.agent.proactive.continue_conversation("c1", look)
        assert seen.pop() == expected_value


async def test_a_braked_tenant_is_known_in_the_first_round_trip(store: DocumentStore) -> None:
    """The ticket names it. Nothing is sent, and what was claimed is given back."""
    process = Process(store, TICKETS)
    tickets = [
        await expected(process, await a_conversation(process, name), placeholder=False) for name in ("c1", "c2", "c3")
    ]
    limited = ChannelError("told to", decision="throttled", status=429, retry_after=timedelta(seconds=30))
    process.adapter.failures = [limited, limited]
    for number, ticket in enumerate(tickets[:2]):
        await process.callback({**ticket, "id": str(number), "value": "x"}, str(number))
    other = Process(store, TICKETS)
    _, calls = await other.cost({**tickets[2], "id": "3", "value": "x"})
    # The claim beside the expectation, the conversation, the user's state and the brake; and the claim is given back.
    assert calls == [(1, "batch"), *[(1, "read")] * 4, (2, "batch")]
    assert other.adapter.texts == []
    assert len(other.queue.messages) == 1


def test_what_a_ticket_says_of_its_user_is_taken_from_ours_alone_and_from_old_ones_not_at_all() -> None:
    ticket = Ticket("c1", None, "x", "1", frozenset([CallbackTypes.result]), datetime(2026, 1, 1, tzinfo=UTC))
    for user in (None, "user|" + "0" * 40):
        signed = TICKETS.sign(Ticket(**{**_fields(ticket), "user": user, "tenant_id": TENANT}))
        counterpart = counterpart_of(signed.text)
        assert counterpart is not None
        assert (counterpart.user, counterpart.tenant_id) == (user, TENANT)
    strange = TICKETS.sign(Ticket(**{**_fields(ticket), "user": "x" * 5000}))
    assert counterpart_of(strange.text) is None
    for text in (None, "", "1", "t1.", "t1.e30.x", "t1.W10.x", "t1.WzEsMiwzLDQsNSw2XQ.x", "t1.!.x"):
        assert counterpart_of(text) is None, text


def _fields(ticket: Ticket) -> dict[str, Any]:
    names = ("conversation_id", "channel_id", "continuation", "id", "kinds", "expires")
    return {name: getattr(ticket, name) for name in names}
