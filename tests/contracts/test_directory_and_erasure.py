"""Conversations found by user, team, channel and status, and a user's data deleted: the same on every store."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Protocol
from uuid import uuid4

import pytest

from agent_core import AgentApplication, ConversationAccount, TurnContext, TurnState
from agent_core.activity.conversation_reference import ChannelAccount
from agent_core.activity.json_text import dump
from agent_core.errors import StoreUnavailable
from agent_core.proactive.conversation import user_partition
from agent_core.proactive.directory import ConversationFilter
from agent_core.proactive.erasure import UserData
from agent_core.proactive.queue import QueueMessage
from agent_core.store.document_store import CONVERSATIONS, SCHEDULES, USERS, DocumentStore, Where
from agent_core.testing import ManualClock, MemoryQueue, TestAdapter


class StoreUnderTest(Protocol):
    """What the fixture of that name gives."""

    @property
    def store(self) -> DocumentStore: ...
    @property
    def clock(self) -> ManualClock: ...


class World:
    """An agent on a store that others use too: every id has this test's own mark in it."""

    def __init__(self, under_test: StoreUnderTest) -> None:
        self.mark = uuid4().hex[:12]
        self.clock, self.store = under_test.clock, under_test.store
        self.adapter = TestAdapter(self.clock, "msteams")
        self.queue = MemoryQueue(self.clock)
        self.agent = AgentApplication(self.adapter, self.store, self.queue)

        @self.agent.message("keep")
        async def keep(context: TurnContext, state: TurnState) -> None:
            state.conversation["kept"] = state.user["kept"] = "Ada's secret"
            await context.expect_callback("done")

        @self.agent.continuation("done")
        async def done(context: TurnContext, state: TurnState) -> None:
            await context.send_activity("Done")

        @self.agent.message("long", long_running=True)
        async def long(context: TurnContext, state: TurnState) -> None:
            raise RuntimeError("broken")

    def id(self, name: str) -> str:
        return f"{name}-{self.mark}"

    async def say(
        self, user: str, conversation: str, text: str = "hello", *, aad: str | None = None, **fields: Any
    ) -> None:
        person = ChannelAccount(id=self.id(user), aad_object_id=self.id(f"AAD-{aad or user}"))
        kind = {"conversation_type": "personal"} if conversation.startswith("personal") else {"is_group": True}
        account = ConversationAccount(id=self.id(conversation), tenant_id=self.id("tenant"), **kind)
        await self.clock.advance(timedelta(seconds=1))
        activity = self.adapter.activity(text=text, from_property=person, conversation=account, **fields)
        await self.adapter.process(self.agent, activity.replace(id=uuid4().hex))

    async def found(self, **which: Any) -> list[str]:
        """The names of the conversations that meet this."""
        conversations = [each async for each in self.agent.conversations.every(ConversationFilter(**which))]
        return sorted(each.id.removesuffix(f"-{self.mark}") for each in conversations)

    async def left(self, name: str) -> list[str]:
        """The kinds of the documents of a conversation."""
        page = await self.store.query(CONVERSATIONS, partition=self.id(name))
        return sorted(document.body["kind"] for document in page.documents)

    async def left_of_user(self, user: str, channel: str = "msteams") -> int:
        return len((await self.store.query(USERS, partition=user_partition(channel, self.id(user)))).documents)


@pytest.fixture
async def world(under_test: StoreUnderTest) -> World:
    return World(under_test)


async def test_conversations_are_found_by_user_tenant_team_channel_and_status(world: World) -> None:
    team = {"team": {"id": world.id("team")}}
    await world.say("ada", "personal-ada")
    await world.say("ada-on-slack", "personal-slack", aad="ada", channel_id="slack")
    await world.say("bob", "personal-bob")
    for thread in (1, 2):
        await world.say("bob", f"channel;messageid={thread}", channel_data=team)
    tenant = world.id("tenant")
    assert await world.found(tenant_id=tenant.upper()) == [
        *("channel;messageid=1", "channel;messageid=2", "personal-ada", "personal-bob", "personal-slack")
    ]
    assert await world.found(aad_object_id=world.id("AAD-ada")) == ["personal-ada", "personal-slack"]
    assert await world.found(aad_object_id=world.id("AAD-ada"), channel_id="slack") == ["personal-slack"]
    assert await world.found(user_id=world.id("ada")) == ["personal-ada"]
    assert await world.found(team_id=world.id("team")) == ["channel;messageid=1", "channel;messageid=2"]
    assert await world.found(tenant_id=tenant, status="suspended") == []
    removed = world.adapter.activity(
        "installationUpdate", action="remove", conversation=ConversationAccount(id=world.id("personal-bob"))
    )
    await world.clock.advance(timedelta(seconds=1))
    await world.adapter.process(world.agent, removed.replace(id=uuid4().hex))
    assert await world.found(tenant_id=tenant, status="suspended") == ["personal-bob"]
    assert await world.found(tenant_id=tenant, status="active", channel_id="slack") == ["personal-slack"]
    assert await world.agent.conversations.count(ConversationFilter(tenant_id=tenant)) == 5
    of_ada = await world.agent.conversations.find_by_user(world.id("AAD-ada"), tenant_id=tenant)
    assert len(of_ada) == 2
    assert await world.agent.conversations.find_by_user(world.id("AAD-ada"), tenant_id="another") == []


async def test_a_page_says_where_the_next_one_begins(world: World) -> None:
    for number in range(5):
        await world.say("ada", f"personal-{number}")
    which = ConversationFilter(aad_object_id=world.id("AAD-ada"))
    seen, continuation = [], None
    for expected in (2, 2, 1):
        page = await world.agent.conversations.list(which, page_size=2, continuation=continuation)
        assert len(page.conversations) == expected
        seen += [conversation.id for conversation in page.conversations]
        continuation = page.continuation
    assert continuation is None
    assert len(set(seen)) == 5


async def test_all_channels_of_a_team_are_told_apart(world: World) -> None:
    team = {"team": {"id": world.id("team")}}
    for name in ("a", "b"):
        for thread in (1, 2):
            account = ConversationAccount(id=f"{world.id(name)};messageid={thread}", conversation_type="channel")
            activity = world.adapter.activity(text="hi", conversation=account, channel_data=team)
            await world.adapter.process(world.agent, activity.replace(id=uuid4().hex))
    found = await world.found(teams_channel_id=world.id("a"))
    assert found == [f"{world.id('a')};messageid={thread}" for thread in (1, 2)]


async def test_a_user_is_erased_everywhere_and_others_are_not_touched(world: World) -> None:
    """The right to erasure: with a report of what went, and in a second run nothing."""
    for user in ("ada", "bob"):
        await world.say(user, f"personal-{user}", "keep")
        await world.agent.notifications.schedule(
            world.id(f"personal-{user}"), at=world.clock.now() + timedelta(days=1), activity=f"to {user}"
        )
        await world.agent.receive_callback(callback(world, f"personal-{user}"))
    await world.say("ada-on-slack", "personal-slack", "keep", aad="ada", channel_id="slack")
    await world.say("ada", "group", "keep")
    await world.say("ada", "left-group")
    await world.say("bob", "left-group")
    await world.say("ada", "group", "long")
    await run_to_death(world)
    before = await world.left("personal-bob")
    counted = await world.agent.user_data.delete(world.id("AAD-ada"), dry_run=True)
    assert await world.left("personal-ada") != []
    report = await world.agent.user_data.delete(world.id("aad-ada"))
    assert report.deleted == counted.deleted
    assert report.deleted["conversation"] == 2
    assert report.deleted["state"] == 2
    assert report.deleted["schedule"] == 1
    assert report.deleted["delivery"] >= 1
    assert report.deleted["expected_callback"] >= 1
    assert report.deleted["dead_letter"] == 1
    assert report.scrubbed == counted.scrubbed == 1
    assert sorted(report.conversation_ids) == sorted([world.id("personal-ada"), world.id("personal-slack")])

    assert await world.left("personal-ada") == await world.left("personal-slack") == []
    assert await world.left_of_user("ada") == await world.left_of_user("ada-on-slack", "slack") == 0
    group = await world.agent.conversations.get(world.id("group"))
    assert group is not None
    assert group.reference.user is None
    assert await world.found(aad_object_id=world.id("AAD-ada")) == []
    assert (
        await world.store.query(SCHEDULES, where=[Where("conversation", "=", world.id("personal-ada"))])
    ).documents == []

    assert await world.left("personal-bob") == before
    assert await world.left_of_user("bob") == 1
    left_group = await world.agent.conversations.get(world.id("left-group"))
    assert left_group is not None
    assert left_group.reference.user is not None
    again = await world.agent.user_data.delete(world.id("AAD-ada"))
    assert (again.deleted, again.scrubbed) == ({}, 0)
    assert again.to_dict() == {"deleted": {}, "scrubbed": 0, "conversations": [], "dryRun": False}


async def test_a_user_without_an_entra_id_is_erased_by_channel_and_id(world: World) -> None:
    await world.say("ada", "personal-1", "keep", channel_id="webchat")
    await world.say("ada", "personal-2", "keep", channel_id="directline")
    report = await world.agent.user_data.delete(channel_id="webchat", user_id=world.id("ada"))
    assert report.conversation_ids == [world.id("personal-1")]
    assert await world.left_of_user("ada", "webchat") == 0
    assert await world.left_of_user("ada", "directline") == 1
    with pytest.raises(ValueError, match="Name the user"):
        await world.agent.user_data.delete(user_id="ada")


async def test_a_users_state_is_found_when_the_conversations_are_gone(world: World) -> None:
    await world.say("ada", "personal-ada", "keep")
    await world.agent.conversations.delete(world.id("personal-ada"))
    report = await world.agent.user_data.delete(world.id("AAD-ada"))
    assert report.deleted == {"state": 1}
    assert await world.left_of_user("ada") == 0


async def test_an_erasure_that_dies_at_any_write_is_finished_by_the_next(world: World) -> None:
    class Dying:
        """The store, until it has written so often."""

        def __init__(self, writes: int) -> None:
            self.writes = writes

        def __getattr__(self, name: str) -> Any:
            if name in ("delete", "replace", "batch", "upsert", "create"):
                self.writes -= 1
                if self.writes < 0:
                    raise StoreUnavailable("dead")
            return getattr(world.store, name)

    for writes in range(40):
        await world.say("ada", "personal-ada", "keep")
        await world.say("ada-on-slack", "personal-slack", "keep", aad="ada", channel_id="slack")
        await world.say("ada", "group", "keep")
        await world.agent.receive_callback(callback(world, "personal-ada"))
        dying: Any = Dying(writes)
        agent = AgentApplication(world.adapter, dying, world.queue)
        died = False
        try:
            await UserData(dying, agent._conversations).delete(world.id("AAD-ada"))
        except StoreUnavailable:
            died = True
        await world.agent.user_data.delete(world.id("AAD-ada"))
        assert await world.left("personal-ada") == await world.left("personal-slack") == []
        assert await world.left_of_user("ada") == await world.left_of_user("ada-on-slack", "slack") == 0
        assert await world.found(aad_object_id=world.id("AAD-ada")) == []
        if not died:
            assert writes > 5
            return
    pytest.fail("it never came to an end")


def callback(world: World, conversation: str) -> QueueMessage:
    body = {"conversationId": world.id(conversation), "channelId": "msteams", "continuation": "done"}
    return QueueMessage(dump(body), uuid4().hex)


async def run_to_death(world: World) -> None:
    """Try what is on the queue until it is a dead letter."""
    while world.queue.messages:
        await world.clock.advance(timedelta(hours=1))
        for message in world.queue.take_due():
            await world.agent.do_work(message)


async def test_a_conversation_of_the_same_id_on_another_channel_stays_whole(world: World) -> None:
    await world.say("ada", "personal-1", "keep")
    await world.say("bob", "personal-1", "keep", channel_id="slack")
    await world.agent.user_data.delete(world.id("AAD-ada"))
    left = await world.left("personal-1")
    assert left.count("conversation") == left.count("expected_callback") == 1
    assert left.count("claim") == 2, "these do not say whose they are, and are gone in a day"


async def test_only_one_channels_data_is_deleted_if_one_is_named(world: World) -> None:
    for channel_id in ("msteams", "slack"):
        await world.say("ada", "personal-1", "keep", channel_id=channel_id)
        await world.agent.conversations.delete(world.id("personal-1"), channel_id)
    await world.agent.user_data.delete(world.id("AAD-ada"), channel_id="slack")
    assert (await world.left_of_user("ada", "msteams"), await world.left_of_user("ada", "slack")) == (1, 0)


async def test_what_leads_to_a_users_documents_is_deleted_after_them(world: World) -> None:
    await world.say("ada", "personal-1", "keep")
    await world.agent.conversations.delete(world.id("personal-1"))
    partition = user_partition("msteams", world.id("ada"))
    for name in ("a", "z"):
        await world.store.create(USERS, {"id": name, "user": partition, "kind": "sign_in"})

    class DiesAfterOne:
        written = False

        def __getattr__(self, name: str) -> Any:
            if name == "delete" and self.written:
                raise StoreUnavailable("dead")
            self.written = self.written or name == "delete"
            return getattr(world.store, name)

    dying: Any = DiesAfterOne()
    with pytest.raises(StoreUnavailable):
        await UserData(dying, world.agent._conversations).delete(world.id("AAD-ada"))
    assert await world.left_of_user("ada") == 2
    await world.agent.user_data.delete(world.id("AAD-ada"))
    assert await world.left_of_user("ada") == 0


async def test_who_speaks_in_a_group_while_another_is_erased_there_stays(world: World) -> None:
    await world.say("ada", "group")

    class Interrupting:
        """The store; after it was asked for Ada's conversations, Bob writes."""

        asked = False

        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def query(self, *arguments: Any, **named: Any) -> Any:
            page = await world.store.query(*arguments, **named)
            if not self.asked:
                self.asked = True
                await world.say("bob", "group")
            return page

    interrupting: Any = Interrupting()
    await UserData(interrupting, world.agent._conversations).delete(world.id("AAD-ada"))
    group = await world.agent.conversations.get(world.id("group"))
    assert group is not None
    assert group.reference.user is not None
    assert group.reference.user.id == world.id("bob")
