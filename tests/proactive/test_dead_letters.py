"""P6.12: what ended without its effect is listed, and one command decides about it: replay or discard."""

import asyncio
import base64
from datetime import timedelta

import pytest

from agent_core import AgentApplication, TurnContext, TurnState
from agent_core.errors import ChannelError, DeadLetterAmbiguous, NotReplayable, QueueUnavailable
from agent_core.proactive.dead_letters import DeadLetter, DeadLetters
from agent_core.proactive.ledger import KEPT
from agent_core.proactive.queue import QueueMessage
from agent_core.proactive.tickets import Tickets
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import CONVERSATIONS, Where
from agent_core.testing import MemoryQueue
from tests.proactive.setting import Setting

CALLBACK = {"conversationId": "c1", "continuation": "order_placed", "value": 7, "id": "order-7"}


class Shop(Setting):
    """An agent whose continuation sends two messages, and fails between them for as long as `broken` says."""

    def __init__(self, tickets: Tickets | None = None) -> None:
        super().__init__("webchat", tickets)
        self.broken = True

        @self.agent.message("hi")
        async def greet(context: TurnContext, state: TurnState) -> None:
            await context.send_activity("Hello")

        @self.agent.continuation("order_placed")
        async def order_placed(context: TurnContext, state: TurnState) -> None:
            await context.send_activity("First")
            if self.broken:
                raise ValueError("broken")
            await context.send_activity("Second")

    async def with_a_dead_callback(self) -> DeadLetter:
        """A callback that was given up after its first message."""
        await self.adapter.say(self.agent, "hi")
        await self.callback(CALLBACK)
        for _ in range(8):
            await self.later(timedelta(hours=1))
        (letter,) = await self.dead_letters()
        assert letter.reason == "HandlerFailed"
        return letter

    async def record(self) -> dict[str, object]:
        """The ledger's record of the callback."""
        page = await self.store.query(CONVERSATIONS, partition="c1", where=[Where("kind", "=", "delivery")])
        (document,) = page.documents
        return document.body


async def test_a_replay_does_the_rest_and_does_not_send_again_what_was_sent() -> None:
    shop = Shop()
    letter = await shop.with_a_dead_callback()
    assert shop.adapter.texts == ["Hello", "First"]
    shop.broken = False
    assert await shop.agent.dead_letters.replay(letter)
    assert await shop.dead_letters() == []
    await shop.work()
    assert shop.adapter.texts == ["Hello", "First", "Second"]
    assert (await shop.record())["status"] == "sent"


async def test_what_fails_again_in_a_replay_is_tried_as_often_as_at_first_and_is_a_dead_letter_again() -> None:
    """Its messages have ids of their own: those of the first round are still known to the queue, and dropped."""
    shop = Shop()
    for _ in range(2):
        letter = (await shop.dead_letters() or [await shop.with_a_dead_callback()])[0]
        assert await shop.agent.dead_letters.replay(letter)
        for _ in range(8):
            await shop.later(timedelta(hours=1))
        (again,) = await shop.dead_letters()
        assert (again.key, again.attempts) == (letter.key, 7)
        assert again.created > letter.created
    shop.broken = False
    assert await shop.agent.dead_letters.replay(again)
    await shop.work()
    assert shop.adapter.texts == ["Hello", "First", "Second"]


async def test_a_delivery_about_which_nobody_decides_keeps_its_record_longer_than_others() -> None:
    shop = Shop()
    letter = await shop.with_a_dead_callback()
    await shop.clock.advance(KEPT + timedelta(days=1))
    shop.broken = False
    assert await shop.agent.dead_letters.replay(letter)
    await shop.work()
    assert shop.adapter.texts == ["Hello", "First", "Second"]


async def test_two_operators_at_once_have_one_effect() -> None:
    shop = Shop()
    letter = await shop.with_a_dead_callback()
    shop.broken = False
    done = await asyncio.gather(*(shop.agent.dead_letters.replay(letter) for _ in range(3)))
    assert True in done
    assert len(shop.queue.messages) == 1
    while await shop.work():
        pass
    assert shop.adapter.texts == ["Hello", "First", "Second"]
    assert not await shop.agent.dead_letters.replay(letter)
    assert not await shop.agent.dead_letters.discard(letter)
    assert shop.queue.messages == []


async def test_a_replay_that_dies_before_the_queue_has_it_leaves_the_dead_letter() -> None:
    shop = Shop()
    letter = await shop.with_a_dead_callback()

    class NoQueue(MemoryQueue):
        async def send(self, message: QueueMessage) -> None:
            raise QueueUnavailable("not reached")

    with pytest.raises(QueueUnavailable):
        await DeadLetters(shop.store, shop.clock.now, NoQueue(shop.clock)).replay(letter)
    assert await shop.dead_letters() == [letter]
    shop.broken = False
    assert await shop.agent.dead_letters.replay(letter)
    await shop.work()
    assert shop.adapter.texts == ["Hello", "First", "Second"]


async def test_a_discarded_delivery_is_not_done_when_a_late_copy_comes() -> None:
    shop = Shop()
    letter = await shop.with_a_dead_callback()
    shop.broken = False
    assert await shop.agent.dead_letters.discard(letter)
    assert await shop.dead_letters() == []
    await shop.callback(CALLBACK)
    assert shop.adapter.texts == ["Hello", "First"]
    record = await shop.record()
    assert (record["status"], record["ttl"]) == ("dead", KEPT.total_seconds())
    assert record["discarded"]


@pytest.mark.parametrize("decision", ["replay", "discard"])
async def test_a_parked_delivery_is_sent_again_by_a_replay_and_had_arrived_by_a_discard(decision: str) -> None:
    shop = Shop()
    shop.broken = False
    await shop.adapter.say(shop.agent, "hi")
    shop.adapter.failures = [ChannelError("no answer", decision="ambiguous")]
    await shop.callback(CALLBACK)
    (letter,) = await shop.dead_letters()
    assert letter.reason == "Unsure"
    assert (await shop.record())["status"] == "parked"
    assert await getattr(shop.agent.dead_letters, decision)(letter)
    await shop.work()
    await shop.callback(CALLBACK)
    assert shop.adapter.texts == (["Hello", "First", "Second"] if decision == "replay" else ["Hello"])
    assert await shop.dead_letters() == []


async def test_a_refused_ticket_is_admitted_by_the_operator_who_replays() -> None:
    shop = Shop(Tickets([b"k" * 32], "required"))
    shop.broken = False
    await shop.adapter.say(shop.agent, "hi")
    await shop.callback({**CALLBACK, "ticket": "t1.forged.ticket"})
    (letter,) = await shop.dead_letters()
    assert letter.reason == "TicketInvalid"
    assert "forged" in letter.payload
    assert "forged" not in repr(letter)
    assert "forged" not in str(letter.to_dict())
    assert "(redacted)" in letter.to_dict()["payload"]
    assert await shop.agent.dead_letters.replay(letter)
    await shop.work()
    assert shop.adapter.texts == ["Hello", "First", "Second"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"ticket": "s3cret", "conversationId": ',
        b'{"ticket":"s3cret"}\xff',
        b'{"a": [{"ticket": "s3cret"}]}',
        b'{"body": "{\\"ticket\\": \\"s3cret\\"}"}',
        b'{"specversion": "1.0", "data_base64": "s3cret"}',
    ],
)
async def test_no_ticket_is_shown_however_broken_the_message(body: bytes) -> None:
    shop = Shop()
    await shop.callback(body)
    (letter,) = await shop.dead_letters()
    assert b"s3cret" not in _shown(letter)


def _shown(letter: DeadLetter) -> bytes:
    payload = letter.to_dict()["payload"]
    encoded = payload.removeprefix("base64:")
    return payload.encode() if encoded == payload else base64.b64decode(encoded)


@pytest.mark.parametrize("body", [b"\xff\xfe", b"base64:no", b"[]"])
async def test_a_message_that_was_none_is_looked_at_again_as_it_came(body: bytes) -> None:
    """Say after an upgrade that understands it; until then it is the same dead letter again."""
    shop = Shop()
    message = QueueMessage(body, "m1", content_type="text/x", subject="s", application_properties={"p": 1})
    await shop.agent.receive_callback(message)
    (letter,) = await shop.dead_letters()
    seen = []
    receive = shop.agent._callbacks.receive

    async def look(message: QueueMessage) -> None:
        seen.append(message)
        await receive(message)

    shop.agent._callbacks.receive = look  # type: ignore[method-assign]  # to see what comes
    await shop.clock.advance(timedelta(seconds=1))
    assert await shop.agent.dead_letters.replay(letter)
    await shop.work()
    assert seen == [message]
    (again,) = await shop.dead_letters()
    assert (again.key, again.reason) == (letter.key, letter.reason)


async def test_a_forged_work_item_on_the_callback_queue_does_not_become_work_by_a_replay() -> None:
    """Who may publish callbacks may not make the agent run turns of his choice, with an operator's help neither."""
    shop = Shop()
    forged = WorkItem("turn", "turn:x", {"activity": {"type": "message"}, "claims": {}, "serviceUrlVerified": True})
    await shop.agent.receive_callback(QueueMessage(forged.to_message().body, "m1"))
    (letter,) = await shop.dead_letters()
    await shop.clock.advance(timedelta(seconds=1))
    assert await shop.agent.dead_letters.replay(letter)
    await shop.work()
    (again,) = await shop.dead_letters()
    assert again.reason == letter.reason
    assert shop.adapter.texts == []


async def test_a_conflict_and_foreign_work_are_not_replayed_but_can_be_discarded() -> None:
    shop = Shop()
    shop.broken = False
    await shop.adapter.say(shop.agent, "hi")
    await shop.callback(CALLBACK)
    await shop.callback({**CALLBACK, "value": 8})
    await shop.agent.do_work(QueueMessage(b"{}", "m9"))
    letters = await shop.dead_letters()
    assert {letter.reason for letter in letters} == {"IdempotencyConflict", "NotWork"}
    for letter in letters:
        with pytest.raises(NotReplayable):
            await shop.agent.dead_letters.replay(letter)
    assert await shop.dead_letters() == letters
    for letter in letters:
        assert await shop.agent.dead_letters.discard(letter)
    assert await shop.dead_letters() == []
    assert (await shop.record())["status"] == "sent"


async def test_an_occurrence_and_a_long_running_turn_are_replayed_like_callbacks() -> None:
    shop = Shop()
    await shop.adapter.say(shop.agent, "hi")
    await shop.agent.notifications.schedule("c1", at=shop.clock.now(), continuation="order_placed")

    @shop.agent.message("report", long_running=True)
    async def report(context: TurnContext, state: TurnState) -> None:
        if shop.broken:
            raise ValueError("broken")
        await context.send_activity("Report")

    await shop.adapter.say(shop.agent, "report")
    for _ in range(12):
        await shop.later(timedelta(hours=1))
    letters = await shop.dead_letters()
    assert {letter.what for letter in letters} == {"occurrence 'order_placed'", "long-running turn"}
    shop.broken = False
    for letter in letters:
        assert await shop.agent.dead_letters.replay(letter)
    while await shop.work():
        await shop.clock.advance(timedelta(seconds=2))
    assert sorted(map(str, shop.adapter.texts)) == ["First", "Hello", "Report", "Second"]


async def test_dead_letters_are_found_by_key_reason_conversation_sort_and_time() -> None:
    shop = Shop()
    letters = shop.agent.dead_letters
    start = shop.clock.now()
    for number, (key, what, reason, conversation) in enumerate(
        [
            ("a", "callback 'x'", "Unsure", "c1"),
            ("b", "callback", "InvalidJson", ""),
            ("c", "occurrence 'x'", "Unsure", "c2"),
            ("a", "callbacks", "Blocked", "c2"),
        ]
    ):
        await letters.add(
            key=key, what=what, reason=reason, explanation="", payload=b"{}", conversation=conversation, attempts=number
        )
        await shop.clock.advance(timedelta(minutes=1))

    async def numbers(agent: AgentApplication = shop.agent, **filters: object) -> list[int]:
        return [each.attempts async for each in agent.dead_letters.list(**filters)]  # type: ignore[arg-type]  # any of them

    assert await numbers() == [0, 1, 2, 3]
    assert await numbers(reason="Unsure") == [0, 2]
    assert await numbers(what="callback") == [0, 1]
    assert await numbers(conversation="c2") == [2, 3]
    assert await numbers(conversation="") == [1]
    assert await numbers(since=start + timedelta(minutes=2)) == [2, 3]
    assert await numbers(limit=2) == [0, 1]
    assert await numbers(reason="Unsure", limit=1, what="occurrence") == [2]
    found = await letters.get("b")
    assert found is not None
    assert found.attempts == 1
    with pytest.raises(DeadLetterAmbiguous, match="'c1', 'c2'"):
        await letters.get("a")
    found = await letters.get("a", "c2")
    assert found is not None
    assert found.attempts == 3
    assert await letters.get("nothing") is None
    assert await letters.get("a", "c3") is None
