"""What an SDK stored is taken over as often as one likes, and what this agent knows better by now stays."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent_core import TurnContext, TurnState
from agent_core.activity.conversation_reference import ConversationAccount
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.moving_in import Moved, MovingIn, Step
from agent_core.store.document_store import CONVERSATIONS, USERS, DocumentStore, Where
from agent_core.store.memory_store import MemoryStore
from agent_core.testing import ManualClock
from agent_core.turn.claims_identity import ClaimsIdentity
from tests.proactive.setting import Setting

APP = "00000000-0000-0000-0000-00000000a9e7"
SERVICE = "https://smba.trafficmanager.net/emea/"
WRITTEN = datetime(2026, 1, 1, tzinfo=UTC)


def document(key: str, document: dict[str, Any], written: datetime | None = WRITTEN) -> dict[str, Any]:
    item = {"id": key.replace("/", "*2f"), "realId": key, "document": document}
    return item | ({"_ts": int(written.timestamp())} if written else {})


def conversation(service_url: str = SERVICE, written: datetime | None = WRITTEN, **more: Any) -> dict[str, Any]:
    reference = {
        "user": {"id": "user"},
        "bot": {"id": f"28:{APP}"},
        "conversation": {"id": "c"},
        "channelId": "msteams",
        "serviceUrl": service_url,
    }
    return document("proactive/conversations/c", {"reference": reference, "claims": {"aud": APP}, **more}, written)


STATE = document("msteams/conversations/c", {"order": 1})
USER_STATE = document("msteams/users/user", {"city": "Zürich"})


class Import:
    """An import into a store in memory.

    Attributes:
        trusted: whether the operator vouches for the service URLs.
    """

    def __init__(self, store: DocumentStore, clock: ManualClock, *, dry_run: bool = False) -> None:
        self.store = store
        self.trusted = False
        self._moving_in = MovingIn(
            store, app_id=APP, now=clock.now, is_trusted=lambda conversation: self.trusted, dry_run=dry_run
        )

    async def take(self, item: dict[str, Any], step: Step = "conversations") -> Moved:
        moved = await self._moving_in.take(item, step)
        assert moved is not None
        return moved

    async def outcome(self, item: dict[str, Any], step: Step = "conversations") -> str:
        return (await self.take(item, step)).outcome

    async def left(self, item: dict[str, Any], step: Step) -> bool:
        """Whether the document belongs to the other step."""
        return await self._moving_in.take(item, step) is None

    async def stored(self) -> Conversation:
        page = await self.store.query(CONVERSATIONS, partition="c", where=[Where("kind", "=", "conversation")])
        return Conversation.from_document(page.documents[0])

    async def seen(self, **changes: Any) -> None:
        """The agent itself saw the conversation."""
        await self.store.upsert(CONVERSATIONS, replace(await self.stored(), **changes).to_document())

    async def documents(self) -> int:
        return sum([len((await self.store.query(container)).documents) for container in (CONVERSATIONS, USERS)])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def importing(clock: ManualClock) -> Import:
    return Import(MemoryStore(clock.now), clock)


async def test_a_conversation_is_imported_once_unverified_and_then_it_is_there(importing: Import) -> None:
    moved = await importing.take(conversation())
    assert (moved.outcome, moved.verified, moved.key) == ("imported", False, "proactive/conversations/c")
    found = await importing.stored()
    assert (found.reference.service_url, found.last_seen, found.status) == (SERVICE, WRITTEN, "active")
    assert not found.identity.service_url_verified
    assert await importing.outcome(conversation()) == "there"


async def test_a_newer_document_of_an_sdk_that_still_runs_replaces_what_was_imported(importing: Import) -> None:
    await importing.take(conversation())
    await importing.seen(state={"mine": 1}, status="suspended", time_zone="Europe/Zurich")
    later = WRITTEN + timedelta(days=1)
    assert await importing.outcome(conversation(f"{SERVICE}new/", later)) == "imported"
    found = await importing.stored()
    assert (found.reference.service_url, found.last_seen) == (f"{SERVICE}new/", later)
    assert (found.state, found.status, found.time_zone) == ({"mine": 1}, "suspended", "Europe/Zurich")


async def test_what_the_agent_has_seen_since_is_never_overwritten(importing: Import) -> None:
    await importing.take(conversation())
    await importing.seen(last_seen=WRITTEN + timedelta(days=2))
    assert await importing.outcome(conversation(f"{SERVICE}other/", WRITTEN + timedelta(days=1))) == "there"
    assert await importing.outcome(conversation(f"{SERVICE}other/", written=None)) == "there"
    assert (await importing.stored()).reference.service_url == SERVICE


async def test_what_a_validated_token_said_is_not_replaced_by_what_nobody_vouched_for(importing: Import) -> None:
    await importing.take(conversation())
    await importing.seen(identity=ClaimsIdentity({"aud": APP}, service_url_verified=True))
    newer = conversation(f"{SERVICE}other/", WRITTEN + timedelta(days=1))
    assert await importing.outcome(newer) == "there"
    importing.trusted = True
    assert await importing.outcome(newer) == "imported"


async def test_an_operator_may_vouch_for_it_at_once_or_later(importing: Import) -> None:
    await importing.take(conversation())
    importing.trusted = True
    assert (await importing.take(conversation(f"{SERVICE}other/"))).outcome == "there", "that is not what is stored"
    moved = await importing.take(conversation())
    assert (moved.outcome, moved.verified) == ("imported", True)
    assert (await importing.stored()).identity.service_url_verified
    assert await importing.outcome(conversation()) == "there"


async def test_an_imported_conversation_is_verified_when_its_user_writes() -> None:
    setting = Setting("msteams")
    importing = Import(setting.store, setting.clock)
    await importing.take(conversation())
    await importing.take(STATE, "state")
    await importing.take(USER_STATE, "state")
    remembered: list[Any] = []

    @setting.agent.message()
    async def answer(context: TurnContext, state: TurnState) -> None:
        remembered.extend([state.conversation["order"], state.user["city"]])

    incoming = setting.adapter.activity(text="hello", conversation=ConversationAccount(id="c"))
    await setting.adapter.process(setting.agent, incoming)
    found = await importing.stored()
    assert found.identity.service_url_verified
    assert found.last_seen == setting.clock.now()
    assert remembered == [1, "Zürich"]


async def test_state_comes_after_its_conversation_and_only_where_there_is_none(importing: Import) -> None:
    assert await importing.left(STATE, "conversations")
    assert await importing.left(conversation(), "state")
    unknown = await importing.take(STATE, "state")
    assert (unknown.outcome, unknown.reason) == ("skipped", "unknown-conversation")
    await importing.take(conversation())
    assert await importing.outcome(STATE, "state") == "imported"
    assert (await importing.stored()).state == {"order": 1}
    other = document("msteams/conversations/c", {"order": 2, "more": 3})
    assert await importing.outcome(other, "state") == "there"
    assert (await importing.stored()).state == {"order": 1}


async def test_a_users_state_is_created_and_never_changed(importing: Import) -> None:
    assert await importing.outcome(USER_STATE, "state") == "imported"
    assert await importing.outcome(document("msteams/users/user", {"city": "Bern"}), "state") == "there"
    (found,) = (await importing.store.query(USERS)).documents
    assert found.body["state"] == {"city": "Zürich"}


async def test_a_dry_run_says_the_same_and_writes_nothing(clock: ManualClock) -> None:
    dry = Import(MemoryStore(clock.now), clock, dry_run=True)
    assert (await dry.take(conversation())).outcome == "imported"
    assert [await dry.outcome(item, "state") for item in (STATE, USER_STATE)] == ["imported", "imported"]
    assert await dry.outcome(document("msteams/conversations/other", {"a": 1}), "state") == "skipped"
    assert await dry.documents() == 0


async def test_two_imports_and_a_turn_at_once_undo_nothing_of_each_other(clock: ManualClock) -> None:
    """Each write is of the version that it was decided on."""
    store = MemoryStore(clock.now)
    imports = [Import(store, clock) for _ in range(5)]
    outcomes = await asyncio.gather(*(each.outcome(conversation()) for each in imports))
    assert sorted(outcomes) == ["imported", *["there"] * 4]
    outcomes = await asyncio.gather(*(each.outcome(USER_STATE, "state") for each in imports))
    assert sorted(outcomes) == ["imported", *["there"] * 4]

    setting = imports[0]
    newer = conversation(f"{SERVICE}other/", WRITTEN + timedelta(days=1))

    class SeenMeanwhile(MemoryStore):
        async def read(self, *arguments: Any) -> Any:
            found = await store.read(*arguments)
            await setting.seen(last_seen=WRITTEN + timedelta(days=2))
            return found

        async def replace(self, *arguments: Any) -> Any:
            return await store.replace(*arguments)

    assert await Import(SeenMeanwhile(clock.now), clock).outcome(newer) == "there"
    assert (await setting.stored()).reference.service_url == SERVICE
