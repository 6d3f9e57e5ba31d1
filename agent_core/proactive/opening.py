"""The opening of a delivery: its work is claimed, and beside that all is read that its turn needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial

from agent_core.proactive.conversation import Conversation, Counterpart
from agent_core.proactive.conversations import Conversations
from agent_core.proactive.delivery import Delivery
from agent_core.proactive.delivery_gate import DeliveryGate
from agent_core.proactive.ledger import Claim, Expectation, Found, Ledger
from agent_core.proactive.preferences import PreferenceOwner
from agent_core.proactive.throttle import Throttle
from agent_core.proactive.turn_record import partition_of_user
from agent_core.proactive.waiting_line import Present, WaitingLine
from agent_core.store.document_store import Document

# Of so many conversations it is remembered with whom they are: 10,000 take 4 MB.
REMEMBERED = 10_000

Find = Callable[[], Awaitable[Conversation]]


class Openings:
    """Begins deliveries, in as few round trips to the store as it takes."""

    def __init__(
        self,
        ledger: Ledger,
        conversations: Conversations,
        throttle: Throttle,
        gate: DeliveryGate,
        line: WaitingLine,
    ) -> None:
        self._ledger = ledger
        self._conversations = conversations
        self._throttle = throttle
        self._gate = gate
        self._line = line
        self._counterparts: dict[str, Counterpart] = {}

    async def open(
        self,
        delivery: Delivery,
        find: Find | None,
        expectation: Expectation | None,
        counterpart: Counterpart | None,
        present: Present,
    ) -> tuple[Found, datetime | None]:
        """Claim the work and read what its turn needs; says too until when to wait.

        The usual case is one round trip: new work in a conversation in which nobody speaks. A second one uses up a
        placeholder, or reads the user's state where nobody could tell whose it is. Else the claim comes first: what was
        read before it may be older than the turn before.
        """
        if delivery.item.attempt == 1 and delivery.item.wait == 0:
            claimed, until = await asyncio.gather(
                self._claim_new(delivery, expectation),
                self._look_up(delivery, find, counterpart),
                return_exceptions=True,
            )
            if isinstance(claimed, BaseException):
                raise claimed
            if claimed is not None:
                if isinstance(until, BaseException):
                    raise until
                return claimed, until
        look = partial(self._ledger.look, delivery.work)
        claim = partial(self._ledger.claim, delivery.work, delivery.token)
        found = await self._line.wait(present, await claim(), look, claim)
        if not isinstance(found, Claim):
            return found, None
        delivery.begin(found)
        if expectation is not None:
            await self._fulfil(delivery, found, await expectation(), expectation)
        return found, await self._look_up(delivery, find, counterpart)

    async def _claim_new(self, delivery: Delivery, expectation: Expectation | None) -> Claim | None:
        claim, expected = await asyncio.gather(
            self._ledger.claim_new(delivery.work, delivery.token),
            expectation() if expectation else _nothing(),
            return_exceptions=True,
        )
        if isinstance(claim, Claim):
            delivery.begin(claim)  # so that it is given back whatever fails from here on
        for each in (claim, expected):
            if isinstance(each, BaseException):
                raise each
        if expectation is not None and isinstance(claim, Claim) and isinstance(expected, Document):
            await self._fulfil(delivery, claim, expected, expectation)
        return claim if isinstance(claim, Claim) else None

    async def _fulfil(
        self, delivery: Delivery, claim: Claim, expected: Document | None, expectation: Expectation
    ) -> None:
        await self._ledger.use_up(claim, expected, expectation)
        delivery.placeholder = claim.replaces

    async def _look_up(self, delivery: Delivery, find: Find | None, counterpart: Counterpart | None) -> datetime | None:
        """Read the conversation, its user's state and wishes, and until when nothing may be sent."""
        if find is None:
            return None

        conversation_id = delivery.work.conversation_id

        async def read(of: Counterpart) -> tuple[Document | None, datetime | None, Document | None]:
            return await asyncio.gather(
                self._conversations.user_at(of.user),
                self._throttle.until(of.tenant_id),
                self._gate.of_user(of.user) if delivery.notice is not None else _nothing(),
            )

        guess = self._counterparts.pop(conversation_id, counterpart)
        conversation, guessed, of_all = await asyncio.gather(
            find(),
            read(guess) if guess else _nothing(),
            self._gate.of_group(conversation_id) if delivery.notice is not None else _nothing(),
        )
        delivery.found = conversation
        user = partition_of_user(conversation.reference, conversation.identity)
        real = Counterpart(user, conversation.tenant_id)
        if len(self._counterparts) >= REMEMBERED:
            self._counterparts.pop(next(iter(self._counterparts)))
        self._counterparts[conversation_id] = real
        delivery.user, until, of_one = guessed if guessed and real == guess else await read(real)
        delivery.preferences = of_one if PreferenceOwner.of(conversation).is_user else of_all
        return until


async def _nothing() -> None:
    return None
