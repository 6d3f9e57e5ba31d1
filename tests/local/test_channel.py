"""The local channel over a real socket: what the agent may call, what the page may call, and what neither may."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from agent_core.local.channel import LocalChannel
from agent_core.testing import ManualClock

JsonObject = dict[str, Any]
Answer = Callable[[JsonObject], Awaitable[Response]]
CARD = "application/vnd.microsoft.card.adaptive"


async def accept(activity: JsonObject) -> Response:
    return Response(status_code=202)


@dataclass
class ScriptedAgent:
    """Takes what the channel posts, and answers as it is told."""

    answer: Answer = accept
    arrived: asyncio.Queue[JsonObject] = field(default_factory=asyncio.Queue)

    async def receive(self, request: Request) -> Response:
        activity = await request.json()
        self.arrived.put_nowait(activity)
        return await self.answer(activity)

    async def next(self) -> JsonObject:
        async with asyncio.timeout(5):
            return await self.arrived.get()


@dataclass
class Local:
    """A running channel with its agent, and a client that calls both sides of it."""

    channel: LocalChannel
    agent: ScriptedAgent
    client: httpx.AsyncClient
    url: str

    async def create(self) -> str:
        """A new conversation that the agent was told of."""
        answer = await self.page("")
        assert answer.status_code == 201
        assert (await self.agent.next())["type"] == "conversationUpdate"
        conversation = str(answer.json()["id"])
        await self.until(conversation, lambda entries: entries[0]["status"] == "delivered")
        return conversation

    async def page(self, path: str, body: JsonObject | None = None) -> httpx.Response:
        return await self.client.post(f"/channel/page/conversations{path}", json=body or {})

    async def send(self, conversation: str, activity: JsonObject) -> httpx.Response:
        return await self.client.post(f"/channel/v3/conversations/{conversation}/activities", json=activity)

    async def say(self, conversation: str, text: str) -> str:
        answer = await self.page(f"/{conversation}/messages", {"text": text})
        assert answer.status_code == 202
        return str(answer.json()["id"])

    async def entries(self, conversation: str) -> list[JsonObject]:
        """The transcript as a page that opens now shows it."""
        events = self.events(conversation, until="current")
        # By id, as what changes while it is read comes again in its new version.
        found = {data["id"]: data async for name, data in events if name == "change"}
        return sorted(found.values(), key=lambda entry: int(entry["position"]))

    async def until(self, conversation: str, good: Callable[[list[JsonObject]], bool]) -> list[JsonObject]:
        """The transcript once it is as wanted."""
        async with asyncio.timeout(5), contextlib.aclosing(self.events(conversation)) as events:
            async for name, _ in events:
                if name in ("current", "change"):
                    found = await self.entries(conversation)
                    if found and good(found):
                        return found
        raise AssertionError("the stream ended")

    async def events(
        self, conversation: str, *, after: int = 0, until: str | None = None, headers: dict[str, str] | None = None
    ) -> AsyncGenerator[tuple[str, JsonObject]]:
        """Server-sent events as (name, data); a comment is called ""."""
        path = f"/channel/page/conversations/{quote(conversation, safe='')}/events?after={after}"
        async with self.client.stream("GET", path, headers=headers) as response:
            assert response.status_code == 200, (await response.aread(), conversation)
            name, data, number = "", {}, 0
            async for line in response.aiter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    data = json.loads(line.removeprefix("data: "))
                elif line.startswith("id: "):
                    number = int(line.removeprefix("id: "))
                elif line == "":
                    assert name != "change" or number == data["sequence"], "what a browser sends as Last-Event-ID"
                    yield name, data
                    if name == until:
                        return
                    name, data, number = "", {}, 0


class Server:
    """A server on a free port whose application can be changed: starting one takes longer than most tests."""

    def __init__(self) -> None:
        self.app: ASGIApp = Starlette()
        # With its protocol named, else asyncio does not switch Nagle's algorithm off and each request takes 40 ms.
        self.socket = socket.socket(proto=socket.IPPROTO_TCP)
        self.socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.uvicorn = uvicorn.Server(
            uvicorn.Config(self._call, interface="asgi3", log_config=None, lifespan="off", ws="none")
        )

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Server]:
        task = asyncio.create_task(self.uvicorn.serve(sockets=[self.socket]))
        while not self.uvicorn.started:  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(0.005)
        try:
            yield self
        finally:
            self.uvicorn.should_exit = True
            await task


@asynccontextmanager
async def running(
    server: Server, database: Path, *, answer_within: float = 5, heartbeat: float = 15, agent_is_there: bool = True
) -> AsyncIterator[Local]:
    """A channel and its agent, on that server."""
    agent = ScriptedAgent()
    async with httpx.AsyncClient(base_url=server.url, timeout=5) as client:

        async def post(target: str, body: bytes) -> tuple[int, bytes]:
            answer = await client.post(target, content=body, headers={"Content-Type": "application/json"}, timeout=None)
            return answer.status_code, answer.content

        channel = LocalChannel(
            database,
            agent_url=f"{server.url}/api/messages" if agent_is_there else "http://127.0.0.1:1/api/messages",
            service_url=f"{server.url}/channel/",
            now=ManualClock().now,
            post=post,
            answer_within=timedelta(seconds=answer_within),
            heartbeat=timedelta(seconds=heartbeat),
        )
        server.app = Starlette(routes=[*channel.routes(), Route("/api/messages", agent.receive, methods=["POST"])])
        try:
            yield Local(channel, agent, client, server.url)
        finally:
            await channel.close()


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    async with Server().serving() as found:
        yield found


@pytest.fixture
async def local(server: Server, tmp_path: Path) -> AsyncIterator[Local]:
    async with running(server, tmp_path / "channel.db") as found:
        yield found


def message(text: str, **more: Any) -> JsonObject:
    return {"type": "message", "text": text, **more}


def chunk(text: str, number: int, stream: str | None = None, kind: str = "streaming") -> JsonObject:
    entity = {"type": "streaminfo", "streamType": kind, "streamSequence": number}
    return {"type": "typing", "text": text, "entities": [entity if stream is None else {**entity, "streamId": stream}]}


def final(text: str, stream: str) -> JsonObject:
    return message(text, entities=[{"type": "streaminfo", "streamId": stream, "streamType": "final"}])


# What the agent calls: the Bot Connector API.


async def test_creating_a_conversation_answers_its_id_and_the_service_url(local: Local) -> None:
    answer = await local.client.post("/channel/v3/conversations", json={"members": [{"id": "user"}]})
    assert answer.status_code == 201
    created = answer.json()
    assert created == {"id": created["id"], "serviceUrl": f"{local.url}/channel/"}
    assert await local.entries(created["id"]) == []


async def test_a_conversation_can_be_created_with_its_first_activity(local: Local) -> None:
    answer = await local.client.post("/channel/v3/conversations", json={"activity": message("Good morning")})
    created = answer.json()
    (entry,) = await local.entries(created["id"])
    assert entry["id"] == created["activityId"]
    assert entry["activity"]["text"] == "Good morning"


async def test_conversations_are_listed_with_their_members(local: Local) -> None:
    conversation = await local.create()
    answer = await local.client.get("/channel/v3/conversations")
    (listed,) = answer.json()["conversations"]
    assert listed["id"] == conversation
    assert [member["id"] for member in listed["members"]] == ["user", "agent"]


async def test_members_are_the_user_and_the_agent(local: Local) -> None:
    conversation = await local.create()
    activity = (await local.send(conversation, message("x"))).json()["id"]
    path = f"/channel/v3/conversations/{conversation}"
    members = [{"id": "user", "name": "User"}, {"id": "agent", "name": "Agent"}]
    assert (await local.client.get(f"{path}/members")).json() == members
    assert (await local.client.get(f"{path}/pagedmembers?pageSize=50")).json() == {"members": members}
    assert (await local.client.get(f"{path}/activities/{quote(activity, safe='')}/members")).json() == members
    assert (await local.client.get(f"{path}/members/user")).json() == members[0]
    unknown = await local.client.get(f"{path}/members/nobody")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "MemberNotFoundInConversation")


async def test_a_sent_activity_gets_an_id_a_timestamp_and_its_place(local: Local) -> None:
    conversation = await local.create()
    sent = await local.send(
        conversation, message("One", id="mine", timestamp="1999-01-01T00:00:00Z", custom={"a": [1]})
    )
    assert sent.status_code == 201
    entry = (await local.entries(conversation))[-1]
    assert entry["id"] == entry["activity"]["id"] == sent.json()["id"] != "mine"
    assert entry["author"] == "agent"
    assert entry["activity"]["timestamp"] == "2026-01-05T12:00:00.0000000Z"
    assert entry["activity"]["custom"] == {"a": [1]}


async def test_a_reply_says_what_it_replies_to(local: Local) -> None:
    conversation = await local.create()
    asked = await local.say(conversation, "Hello?")
    path = f"/channel/v3/conversations/{conversation}/activities/{quote(asked, safe='')}"
    assert (await local.client.post(path, json=message("Yes"))).status_code == 201
    assert (await local.entries(conversation))[-1]["activity"]["replyToId"] == asked


async def test_an_edit_keeps_the_place_and_is_marked(local: Local) -> None:
    conversation = await local.create()
    first = (await local.send(conversation, message("Waiting"))).json()["id"]
    await local.send(conversation, message("Something else"))
    path = f"/channel/v3/conversations/{conversation}/activities/{quote(first, safe='')}"
    answer = await local.client.put(path, json=message("Done"))
    assert (answer.status_code, answer.json()) == (200, {"id": first})
    edited, other = (await local.entries(conversation))[-2:]
    assert (edited["activity"]["text"], edited["edited"]) == ("Done", True)
    assert (other["activity"]["text"], other["edited"]) == ("Something else", False)


async def test_a_deleted_activity_is_gone_with_its_words(local: Local) -> None:
    conversation = await local.create()
    doomed = (await local.send(conversation, message("A secret"))).json()["id"]
    path = f"/channel/v3/conversations/{conversation}/activities/{quote(doomed, safe='')}"
    assert (await local.client.delete(path)).status_code == 200
    entry = (await local.entries(conversation))[-1]
    assert entry["status"] == "deleted"
    assert "A secret" not in json.dumps(entry)
    for again in (await local.client.delete(path), await local.client.put(path, json=message("x"))):
        assert (again.status_code, again.json()["error"]["code"]) == (404, "ActivityNotFoundInConversation")


async def test_the_agent_cannot_change_what_the_user_said(local: Local) -> None:
    conversation = await local.create()
    said = await local.say(conversation, "My words")
    path = f"/channel/v3/conversations/{conversation}/activities/{quote(said, safe='')}"
    assert (await local.client.put(path, json=message("Other words"))).status_code == 403
    assert (await local.client.delete(path)).status_code == 403
    assert (await local.entries(conversation))[-1]["activity"]["text"] == "My words"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/activities"),
        ("POST", "/activities/1"),
        ("PUT", "/activities/1"),
        ("DELETE", "/activities/1"),
        ("GET", "/members"),
        ("GET", "/members/user"),
        ("GET", "/pagedmembers"),
        ("GET", "/activities/1/members"),
    ],
)
async def test_an_unknown_conversation_is_not_found(local: Local, method: str, path: str) -> None:
    """The id has an encoded slash: it is one id, not two parts of a path."""
    body = message("x") if method in ("POST", "PUT") else None
    answer = await local.client.request(method, f"/channel/v3/conversations/a%2Fb%7Cc{path}", json=body)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "ConversationNotFound"
    assert answer.json()["error"]["message"]


async def test_typing_in_an_unknown_conversation_is_not_found(local: Local) -> None:
    assert (await local.send("nowhere", {"type": "typing"})).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b'{"type": NaN}',
        b'{"value": 1e999}',
        b"\xff",
        b'{"a":' * 70 + b"1" + b"}" * 70,
        b"[" * 100_000,
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(local: Local, body: bytes) -> None:
    conversation = await local.create()
    answer = await local.client.post(f"/channel/v3/conversations/{conversation}/activities", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "BadSyntax")


@pytest.mark.parametrize(
    "activity",
    [
        {"text": "no type"},
        {"type": ""},
        {"type": 1},
        {"type": "message"},
        {"type": "message", "text": "  \n"},
        {"type": "message", "text": "", "attachments": [], "suggestedActions": {"actions": []}},
        {"type": "message", "text": 5},
        {"type": "message", "text": "x", "attachments": {}},
        {"type": "message", "text": "x", "entities": "y"},
    ],
)
async def test_an_activity_without_shape_or_content_is_refused(local: Local, activity: JsonObject) -> None:
    conversation = await local.create()
    before = await local.entries(conversation)
    assert (await local.send(conversation, activity)).status_code == 400
    assert await local.entries(conversation) == before


@pytest.mark.parametrize(
    "activity",
    [
        {"type": "message", "attachments": [{"contentType": CARD, "content": {}}]},
        {"type": "message", "text": None, "suggestedActions": {"actions": [{"type": "imBack", "value": "Hi"}]}},
        {"type": "trace", "name": "x"},
        {"type": "event", "name": "x"},
        {"type": "endOfConversation"},
        {"type": "a type from the future"},
    ],
)
async def test_whatever_else_an_agent_may_send_is_accepted(local: Local, activity: JsonObject) -> None:
    conversation = await local.create()
    answer = await local.send(conversation, activity)
    assert answer.status_code == 201
    assert (await local.entries(conversation))[-1]["id"] == answer.json()["id"]


async def test_more_than_a_mebibyte_is_too_big(local: Local) -> None:
    conversation = await local.create()
    answer = await local.send(conversation, message("x" * 1024 * 1024))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "MessageSizeTooBig")
    assert (await local.send(conversation, message("x" * 1000 * 1024))).status_code == 201


# Streaming


async def test_a_streamed_message_grows_under_one_id_and_its_final_message_replaces_it(local: Local) -> None:
    conversation = await local.create()
    first = await local.send(conversation, chunk("Looking…", 1, kind="informative"))
    assert first.status_code == 201
    stream = first.json()["id"]
    for number, text in enumerate(["The", "The answer", "The answer is"], start=2):
        answer = await local.send(conversation, chunk(text, number, stream))
        assert (answer.status_code, answer.json()) == (202, {})
        entry = (await local.entries(conversation))[-1]
        assert (entry["id"], entry["status"], entry["activity"]["text"]) == (stream, "streaming", text)
    assert (await local.send(conversation, final("The answer is 42.", stream))).json() == {"id": stream}
    entries = await local.entries(conversation)
    assert len(entries) == 2  # with the conversationUpdate
    assert (entries[-1]["id"], entries[-1]["status"], entries[-1]["edited"]) == (stream, "sent", False)
    assert (entries[-1]["activity"]["type"], entries[-1]["activity"]["text"]) == ("message", "The answer is 42.")


async def test_a_chunk_that_is_late_is_dropped_and_one_after_the_end_is_refused(local: Local) -> None:
    conversation = await local.create()
    stream = (await local.send(conversation, chunk("a", 1))).json()["id"]
    await local.send(conversation, chunk("a b c", 3, stream))
    late = await local.send(conversation, chunk("a b", 2, stream))
    assert (late.status_code, late.json()["error"]["code"]) == (202, "ContentStreamSequenceOrderPreConditionFailed")
    assert (await local.entries(conversation))[-1]["activity"]["text"] == "a b c"
    await local.send(conversation, final("a b c d", stream))
    for over in (chunk("a b c d e", 4, stream), final("Again", stream)):
        answer = await local.send(conversation, over)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "ContentStreamNotAllowed")
    assert (await local.entries(conversation))[-1]["activity"]["text"] == "a b c d"


async def test_a_stream_may_bring_an_id_of_its_own(local: Local) -> None:
    conversation = await local.create()
    assert (await local.send(conversation, chunk("a", 1, "from-the-agent"))).json() == {"id": "from-the-agent"}
    await local.send(conversation, final("a b", "from-the-agent"))
    assert (await local.entries(conversation))[-1]["id"] == "from-the-agent"


@pytest.mark.parametrize(
    "activity",
    [chunk("", 1), chunk("x", 0), chunk("x", 1, "\ud800"), {**chunk("x", 1), "type": "typing", "text": None}],
)
async def test_a_chunk_without_text_number_or_usable_id_is_refused(local: Local, activity: JsonObject) -> None:
    conversation = await local.create()
    body = json.dumps(activity).encode()
    answer = await local.client.post(f"/channel/v3/conversations/{conversation}/activities", content=body)
    assert answer.status_code == 400


async def test_an_unfinished_stream_can_be_ended_by_an_edit(local: Local) -> None:
    """What an agent does whose stream took longer than the channel allows."""
    conversation = await local.create()
    stream = (await local.send(conversation, chunk("a", 1))).json()["id"]
    path = f"/channel/v3/conversations/{conversation}/activities/{quote(stream, safe='')}"
    assert (await local.client.put(path, json=message("a b c"))).status_code == 200
    assert (await local.entries(conversation))[-1]["status"] == "sent"


async def test_typing_is_shown_but_not_kept(local: Local) -> None:
    conversation = await local.create()
    before = await local.entries(conversation)
    names = []
    async with contextlib.aclosing(local.events(conversation)) as events:
        async for name, _ in events:
            names.append(name)
            if name == "current":
                answer = await local.send(conversation, {"type": "typing"})
                assert (answer.status_code, answer.json()) == (202, {})
            if name == "typing":
                break
    assert await local.entries(conversation) == before


# What the page calls


async def test_what_the_user_writes_reaches_the_agent_as_a_channel_sends_it(local: Local) -> None:
    conversation = await local.create()
    body = {
        "text": "Hello",
        "locale": "de-AT",
        "localTimestamp": "2026-01-05T13:00:00.123+01:00",
        "localTimezone": "Europe/Vienna",
        "from": {"id": "somebody else"},
    }
    answer = await local.page(f"/{conversation}/messages", body)
    assert answer.status_code == 202
    assert await local.agent.next() == {
        "type": "message",
        "id": answer.json()["id"],
        "timestamp": "2026-01-05T12:00:00.0000000Z",
        "localTimestamp": "2026-01-05T13:00:00.123+01:00",
        "localTimezone": "Europe/Vienna",
        "locale": "de-AT",
        "channelId": "emulator",
        "serviceUrl": f"{local.url}/channel/",
        "from": {"id": "user", "name": "User", "role": "user"},
        "recipient": {"id": "agent", "name": "Agent", "role": "bot"},
        "conversation": {"id": conversation},
        "text": "Hello",
        "textFormat": "plain",
    }


async def test_what_a_browser_reports_wrongly_is_left_out(local: Local) -> None:
    conversation = await local.create()
    wrong = {"text": "x", "locale": "<de>", "localTimestamp": "2026-01-05T13:00:00", "localTimezone": ["Vienna"]}
    await local.page(f"/{conversation}/messages", wrong)
    assert not {"locale", "localTimestamp", "localTimezone"} & (await local.agent.next()).keys()


async def test_the_agent_is_told_of_a_new_conversation(local: Local) -> None:
    answer = await local.page("", {"locale": "en-GB"})
    update = await local.agent.next()
    assert update["conversation"] == {"id": answer.json()["id"]}
    assert [member["id"] for member in update["membersAdded"]] == ["user", "agent"]
    assert (update["recipient"]["id"], update["locale"]) == ("agent", "en-GB")


async def test_a_conversation_is_listed_under_the_first_words_of_the_user(local: Local) -> None:
    older = await local.create()
    newer = await local.create()
    await local.say(older, "  Order\na laptop ")
    await local.say(older, "And a mouse")
    listed = (await local.client.get("/channel/page/conversations")).json()["conversations"]
    assert [(each["id"], each["title"]) for each in listed] == [(older, "Order a laptop"), (newer, "")]


async def test_a_submitted_form_reaches_the_agent_as_a_value(local: Local) -> None:
    conversation = await local.create()
    body = {"value": {"size": "L"}, "replyToId": "card", "channelData": {"postBack": True}}
    await local.page(f"/{conversation}/messages", body)
    activity = await local.agent.next()
    assert (activity["value"], activity["replyToId"]) == ({"size": "L"}, "card")
    assert "text" not in activity


@pytest.mark.parametrize("body", [{}, {"text": ""}, {"text": " \n"}, {"text": 7}, {"text": ["x"], "value": 1}])
async def test_a_message_without_content_is_refused(local: Local, body: JsonObject) -> None:
    conversation = await local.create()
    assert (await local.page(f"/{conversation}/messages", body)).status_code == 400


async def test_the_page_does_not_wait_for_the_agent_and_order_is_kept(local: Local) -> None:
    conversation = await local.create()
    other = await local.create()
    go = asyncio.Event()

    async def wait(activity: JsonObject) -> Response:
        if activity["conversation"]["id"] == conversation:
            await go.wait()
        return Response(status_code=202)

    local.agent.answer = wait
    for text in ("one", "two", "three"):
        await local.say(conversation, text)
    await local.say(other, "not held up")
    assert [(await local.agent.next())["text"] for _ in range(2)] == ["one", "not held up"]
    assert local.agent.arrived.empty()
    go.set()
    assert [(await local.agent.next())["text"] for _ in range(2)] == ["two", "three"]
    await local.until(conversation, lambda entries: all(entry["status"] == "delivered" for entry in entries))


async def test_a_message_the_agent_refuses_is_marked_with_the_reason_and_can_be_sent_again(local: Local) -> None:
    conversation = await local.create()

    async def refuse(activity: JsonObject) -> Response:
        return Response(json.dumps({"error": {"code": "Broken", "message": "The handler failed. \ud800"}}), 500)

    local.agent.answer = refuse
    said = await local.say(conversation, "Hello")
    first = await local.agent.next()
    entry = (await local.until(conversation, lambda entries: entries[-1]["status"] == "failed"))[-1]
    assert entry["notice"] == "The agent answered 500: The handler failed. ?"

    local.agent.answer = accept
    path = f"/{conversation}/messages/{quote(said, safe='')}/redelivery"
    assert (await local.page(path)).status_code == 202
    assert await local.agent.next() == first, "the same activity with the same id, so that an agent can tell"
    entry = (await local.until(conversation, lambda entries: entries[-1]["status"] == "delivered"))[-1]
    assert entry["notice"] is None
    assert (await local.page(path)).status_code == 409


async def test_an_agent_that_does_not_answer_in_time_did_not_get_the_message(server: Server, tmp_path: Path) -> None:
    async with running(server, tmp_path / "channel.db", answer_within=0.05) as local:
        conversation = await local.create()

        async def never(activity: JsonObject) -> Response:
            await asyncio.sleep(0.3)
            return Response(status_code=202)

        local.agent.answer = never
        await local.say(conversation, "Hello")
        entry = (await local.until(conversation, lambda entries: entries[-1]["status"] == "failed"))[-1]
        assert entry["notice"] == "The agent did not answer in time."


async def test_an_agent_that_is_not_there_is_reported_for_the_first_greeting_already(
    server: Server, tmp_path: Path
) -> None:
    async with running(server, tmp_path / "channel.db", agent_is_there=False) as local:
        conversation = (await local.page("")).json()["id"]
        (entry,) = await local.until(conversation, lambda entries: entries[0]["status"] == "failed")
        assert entry["activity"]["type"] == "conversationUpdate"
        assert entry["notice"] == "The agent could not be reached (ConnectError)."


async def execute(local: Local, answer: Response) -> tuple[JsonObject, JsonObject]:
    """Show a card, press its button, let the agent answer; what the page is told, and the entry afterwards."""
    conversation = await local.create()
    card = {"type": "AdaptiveCard", "body": [{"type": "TextBlock", "text": "Before"}]}
    attachments = [{"contentType": "image/png", "name": "x"}, {"contentType": CARD, "content": card}]
    shown = (await local.send(conversation, message("Look", attachments=attachments))).json()["id"]

    async def respond(activity: JsonObject) -> Response:
        return answer

    local.agent.answer = respond
    action = {"type": "Action.Execute", "verb": "approve", "data": {"n": 1}}
    body = {"activityId": shown, "attachment": 1, "action": action, "locale": "en-GB"}
    told = await local.page(f"/{conversation}/invokes", body)
    assert told.status_code == 200
    invoke = await local.agent.next()
    assert (invoke["type"], invoke["name"]) == ("invoke", "adaptiveCard/action")
    assert invoke["value"] == {"action": action, "trigger": "manual"}
    assert (invoke["replyToId"], invoke["locale"], invoke["from"]["id"]) == (shown, "en-GB", "user")
    return told.json(), (await local.entries(conversation))[-1]


async def test_the_card_that_an_execute_answers_takes_the_place_of_the_shown_one(local: Local) -> None:
    card = {"type": "AdaptiveCard", "body": [{"type": "TextBlock", "text": "After"}]}
    told, entry = await execute(local, JSONResponse({"statusCode": 200, "type": CARD, "value": card}))
    assert told == {"notice": None}
    assert entry["activity"]["attachments"][1] == {"contentType": CARD, "content": card}
    assert entry["activity"]["attachments"][0] == {"contentType": "image/png", "name": "x"}
    assert entry["edited"] is False


@pytest.mark.parametrize(
    ("answer", "notice"),
    [
        (
            JSONResponse({"statusCode": 200, "type": "application/vnd.microsoft.activity.message", "value": "Ok!"}),
            "Ok!",
        ),
        (Response(status_code=501), "The agent has no handler for this action (501)."),
        (Response(status_code=500), "The agent answered 500: without an explanation."),
        (
            JSONResponse(
                {"statusCode": 400, "type": "application/vnd.microsoft.error", "value": {"code": "x", "message": "No."}}
            ),
            "The agent answered 200: No.",
        ),
        (JSONResponse({"statusCode": "odd", "type": 5, "value": []}), None),
        (JSONResponse(["odd"]), None),
    ],
)
async def test_any_other_answer_to_an_execute_is_told_and_leaves_the_card(
    local: Local, answer: Response, notice: str | None
) -> None:
    told, entry = await execute(local, answer)
    assert told == {"notice": notice}
    assert entry["activity"]["attachments"][1]["content"]["body"][0]["text"] == "Before"


# Surviving


async def test_a_new_channel_over_the_same_file_knows_everything(server: Server, tmp_path: Path) -> None:
    async with running(server, tmp_path / "channel.db") as local:
        conversation = await local.create()
        await local.say(conversation, "Remember this")
        await local.send(conversation, message("I will"))
        await local.until(conversation, lambda entries: all(entry["status"] != "pending" for entry in entries))
        before = await local.entries(conversation)
    async with running(server, tmp_path / "channel.db") as local:
        assert await local.entries(conversation) == before
        await local.send(conversation, message("And I did"))
        assert (await local.entries(conversation))[-1]["sequence"] > max(entry["sequence"] for entry in before)


_PROCESS = """
import asyncio, sys, httpx, uvicorn
from datetime import UTC, datetime
from pathlib import Path
from starlette.applications import Starlette
from agent_core.local.channel import LocalChannel

async def never(url, body):
    await asyncio.Event().wait()

channel = LocalChannel(Path(sys.argv[1]), agent_url="http://127.0.0.1:1/", service_url="http://127.0.0.1/channel/",
                       now=lambda: datetime.now(UTC), post=never, new_id=lambda: "one")

async def main():
    transport = httpx.ASGITransport(Starlette(routes=channel.routes()))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        await client.post("/channel/page/conversations", json={})
        await client.post("/channel/page/conversations/chat-one/messages", json={"text": "Hello"})
        chunk = {"type": "streaminfo", "streamType": "streaming", "streamSequence": 1}
        body = {"type": "typing", "text": "Half a", "entities": [chunk]}
        await client.post("/channel/v3/conversations/chat-one/activities", json=body)
        print("said", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_what_a_killed_process_left_half_done_is_there_and_marked(server: Server, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROCESS, str(tmp_path / "channel.db"), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert await process.stdout.readline() == b"said\n"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    async with running(server, tmp_path / "channel.db") as local:
        greeting, said, streamed = await local.entries("chat-one")
        assert [greeting["status"], said["status"], streamed["status"]] == ["failed", "failed", "interrupted"]
        assert said["notice"] == "The channel stopped before the agent had answered."
        assert (said["activity"]["text"], streamed["activity"]["text"]) == ("Hello", "Half a")
        await local.page(f"/chat-one/messages/{quote(said['id'], safe='')}/redelivery")
        assert (await local.agent.next())["text"] == "Hello"


# The event stream


async def test_a_reader_that_comes_back_misses_nothing_and_gets_nothing_twice(local: Local) -> None:
    conversation = await local.create()
    writing = asyncio.create_task(_write(local, conversation, 40))
    seen: dict[str, JsonObject] = {}
    numbers: list[int] = []
    last = 0
    while not any(entry["activity"].get("text") == "the end" for entry in seen.values()):
        # Three events, then the connection is lost; the header wins over the address, as when a browser reconnects.
        resume = local.events(conversation, after=0, headers={"Last-Event-ID": str(last)})
        async with contextlib.aclosing(resume) as events:
            count = 0
            async for name, entry in events:
                if name == "change":
                    last = entry["sequence"]
                    numbers.append(last)
                    seen[entry["id"]] = entry
                    count += 1
                    if count == 3 or entry["activity"].get("text") == "the end":
                        break
    await writing
    assert numbers == sorted(set(numbers))
    now = await local.entries(conversation)
    assert sorted(seen.values(), key=lambda entry: int(entry["position"])) == now
    assert [entry["activity"]["text"] for entry in now[1:-1]] == [f"{number} edited" for number in range(40)]


async def _write(local: Local, conversation: str, count: int) -> None:
    for number in range(count):
        sent = (await local.send(conversation, message(str(number)))).json()["id"]
        path = f"/channel/v3/conversations/{conversation}/activities/{quote(sent, safe='')}"
        await local.client.put(path, json=message(f"{number} edited"))
    await local.send(conversation, message("the end"))


async def test_a_long_transcript_comes_whole(local: Local) -> None:
    """More than one read of the file."""
    conversation = await local.create()
    for number in range(230):
        await local.send(conversation, message(str(number)))
    assert [entry["activity"].get("text") for entry in await local.entries(conversation)][1:] == [*map(str, range(230))]


async def test_a_change_in_another_conversation_is_only_mentioned(local: Local) -> None:
    here = await local.create()
    there = await local.create()
    news: list[tuple[str, JsonObject]] = []
    async with contextlib.aclosing(local.events(here)) as events:
        async for name, data in events:
            news.append((name, data))
            if name == "current":
                await local.send(there, message("A secret of there"))
            if name == "elsewhere":
                break
    assert [name for name, _ in news] == ["change", "current", "elsewhere"]
    assert news[-1][1] == {}


async def test_a_silent_stream_shows_that_it_lives(server: Server, tmp_path: Path) -> None:
    async with running(server, tmp_path / "channel.db", heartbeat=0.02) as local:
        conversation = await local.create()
        names = []
        async with contextlib.aclosing(local.events(conversation)) as events:
            async for name, _ in events:
                names.append(name)
                if len(names) == 4:
                    break
        assert names == ["change", "current", "", ""]


async def test_the_streams_end_when_told_and_no_new_one_begins(local: Local) -> None:
    conversation = await local.create()
    names = []
    async with asyncio.timeout(3):
        async for name, _ in local.events(conversation):
            names.append(name)
            if name == "current":
                local.channel.end_streams()
    assert names == ["change", "current"]
    refused = await local.client.get(f"/channel/page/conversations/{conversation}/events")
    assert refused.status_code == 503
    assert (await local.send(conversation, message("Still heard"))).status_code == 201


async def test_open_streams_do_not_hold_up_the_end_of_the_server(tmp_path: Path) -> None:
    """uvicorn waits for every open response before it ends."""
    own = Server()
    until_ended = contextlib.AsyncExitStack()
    await until_ended.enter_async_context(own.serving())
    async with running(own, tmp_path / "channel.db") as local:
        conversation = await local.create()
        async with contextlib.aclosing(local.events(conversation)) as events:
            assert [(await anext(events))[0], (await anext(events))[0]] == ["change", "current"]
            local.channel.end_streams()
            async with asyncio.timeout(3):
                await until_ended.aclose()


async def test_a_closed_channel_says_so(server: Server, tmp_path: Path) -> None:
    async with running(server, tmp_path / "channel.db") as local:
        conversation = await local.create()
        await local.channel.close()
        assert (await local.send(conversation, message("Too late"))).status_code == 503


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "9" * 30, "٣"])
async def test_a_wrong_place_to_resume_from_is_refused(local: Local, after: str) -> None:
    conversation = await local.create()
    answer = await local.client.get(f"/channel/page/conversations/{conversation}/events", params={"after": after})
    assert answer.status_code == 400


# Who may call


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "0.0.0.0", "localhost.", ""]
)
@pytest.mark.parametrize("path", ["/", "/page/chat.js", "/channel/v3/conversations", "/channel/page/conversations"])
async def test_only_loopback_names_are_answered(local: Local, host: str, path: str) -> None:
    """A site whose name was pointed at this machine (DNS rebinding) sends its own name."""
    answer = await local.client.get(path, headers={"Host": host})
    assert answer.status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:7071", "LocalHost", "[::1]:80"])
async def test_every_loopback_name_is_answered(local: Local, host: str) -> None:
    assert (await local.client.get("/channel/page/conversations", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://{host}", "http://localhost"]
)
@pytest.mark.parametrize("path", ["/channel/page/conversations", "/channel/v3/conversations"])
async def test_no_other_site_may_write(local: Local, origin: str, path: str) -> None:
    headers = {"Origin": origin.format(host=local.client.base_url.netloc.decode()), "Content-Type": "application/json"}
    assert (await local.client.post(path, content=b"{}", headers=headers)).status_code == 403
    assert (await local.client.get("/channel/page/conversations")).json() == {"conversations": []}


async def test_the_page_s_own_origin_may_write(local: Local) -> None:
    headers = {"Origin": local.url}
    assert (await local.client.post("/channel/page/conversations", json={}, headers=headers)).status_code == 201


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
async def test_the_page_s_requests_must_be_json(local: Local, media_type: str | None) -> None:
    """A form of another site cannot send that type without asking first."""
    headers = {} if media_type is None else {"Content-Type": media_type}
    answer = await local.client.post("/channel/page/conversations", content=b"{}", headers=headers)
    assert answer.status_code == 415
    assert (await local.client.get("/channel/page/conversations")).json() == {"conversations": []}


@pytest.mark.parametrize(
    "path", ["/", "/page/chat.js", "/channel/page/conversations", "/channel/v3/nothing", "/page/x"]
)
async def test_every_answer_forbids_what_a_hostile_text_would_need(local: Local, path: str) -> None:
    answer = await local.client.get(path)
    assert answer.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "name", ["nothing.js", "..%2Fchannel.py", "%2e%2e%2fchannel.py", "../channel.py", "chat.js%00"]
)
async def test_only_the_page_s_own_files_are_served(local: Local, name: str) -> None:
    answer = await local.client.get(f"/page/{name}")
    assert answer.status_code == 404
    assert (await local.client.get("/page/chat.js")).headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "\u0000\u202e", "\ud800 alone", "data: x\n\nevent: change\n\n", "🤖" * 1000]
)
async def test_hostile_text_comes_through_as_it_was_written(local: Local, text: str) -> None:
    conversation = await local.create()
    body = json.dumps(message(text)).encode()
    path = f"/channel/v3/conversations/{conversation}/activities"
    assert (await local.client.post(path, content=body)).status_code == 201
    said = json.dumps({"text": text}).encode()
    path = f"/channel/page/conversations/{conversation}/messages"
    headers = {"Content-Type": "application/json"}
    assert (await local.client.post(path, content=said, headers=headers)).status_code == 202
    assert [entry["activity"]["text"] for entry in (await local.entries(conversation))[1:]] == [text, text]
    assert (await local.agent.next())["text"] == text
