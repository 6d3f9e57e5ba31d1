"""The chat page in a real Chromium, with a small agent behind it that answers over the Bot Connector routes."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
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

pytest.importorskip("playwright.async_api", reason="drives a browser with playwright: pip install playwright")

from playwright.async_api import Browser, Locator, Page, async_playwright, expect

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]

JsonObject = dict[str, Any]
CARD = "application/vnd.microsoft.card.adaptive"
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
expect.set_options(timeout=5_000)


async def echo(agent: Agent, activity: JsonObject) -> Response:
    """Welcome whoever comes, and repeat what is said."""
    conversation = activity["conversation"]["id"]
    if activity["type"] == "conversationUpdate":
        await agent.send(conversation, "Welcome!")
    elif activity["type"] == "message":
        await agent.send(conversation, f"You said *{activity.get('text') or activity.get('value')}*.")
    return Response(status_code=202)


@dataclass
class Agent:
    """What a real agent is to the channel: a route that takes activities, and calls to the Bot Connector API."""

    client: httpx.AsyncClient
    channel: LocalChannel
    answer: Callable[[Agent, JsonObject], Awaitable[Response]] = echo
    received: list[JsonObject] = field(default_factory=list)

    async def receive(self, request: Request) -> Response:
        activity = await request.json()
        self.received.append(activity)
        return await self.answer(self, activity)

    async def send(self, conversation: str, text: str | None = None, **more: Any) -> str:
        """Post a message, or whatever `more` makes of it; its id, "" where the channel gives none."""
        body = {"type": "message", "text": text, **more}
        answer = await self.client.post(
            f"/channel/v3/conversations/{quote(conversation, safe='')}/activities", json=body
        )
        assert answer.is_success, answer.text
        return str(answer.json().get("id", ""))

    async def send_card(self, conversation: str, *body: JsonObject, actions: list[JsonObject]) -> str:
        card = {"type": "AdaptiveCard", "version": "1.5", "body": [*body], "actions": actions}
        return await self.send(conversation, attachments=[{"contentType": CARD, "content": card}])

    async def edit(self, conversation: str, activity: str, text: str) -> None:
        path = f"/channel/v3/conversations/{conversation}/activities/{quote(activity, safe='')}"
        assert (await self.client.put(path, json={"type": "message", "text": text})).is_success

    async def delete(self, conversation: str, activity: str) -> None:
        path = f"/channel/v3/conversations/{conversation}/activities/{quote(activity, safe='')}"
        assert (await self.client.delete(path)).is_success

    def messages(self) -> list[JsonObject]:
        return [activity for activity in self.received if activity["type"] == "message"]


class Server:
    """A server on a free port whose application can be changed while pages are open."""

    def __init__(self) -> None:
        self.app: ASGIApp = Starlette()
        self.socket = socket.socket(proto=socket.IPPROTO_TCP)
        self.socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        config = uvicorn.Config(self._call, interface="asgi3", log_config=None, lifespan="off", ws="none")
        self.uvicorn = uvicorn.Server(config)

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
    async def channel(self, database: Path) -> AsyncIterator[Agent]:
        """A channel and an agent, served here until the end of the block."""
        async with httpx.AsyncClient(base_url=self.url) as client:

            async def post(url: str, body: bytes) -> tuple[int, bytes]:
                answer = await client.post(url, content=body)
                return answer.status_code, answer.content

            channel = LocalChannel(
                database,
                agent_url=f"{self.url}/api/messages",
                service_url=f"{self.url}/channel/",
                now=lambda: datetime.now(UTC),
                post=post,
            )
            agent = Agent(client, channel)
            self.app = Starlette(routes=[*channel.routes(), Route("/api/messages", agent.receive, methods=["POST"])])
            try:
                yield agent
            finally:
                await channel.close()


@dataclass
class Chat:
    """An open page, the agent behind it, and everything the browser complained of or asked others for."""

    page: Page
    agent: Agent
    server: Server
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    async def open(self, conversation: str = "") -> str:
        """Load the page, with a conversation of that id or a new one; its id once it is connected."""
        await self.page.goto(f"{self.server.url}/#{conversation}")
        await expect(self.page.locator("#connection")).to_have_text("Connected")
        return str(await self.page.locator("#conversation-id").inner_text())

    async def say(self, text: str) -> None:
        await self.page.get_by_label("Message", exact=True).fill(text)
        await self.page.keyboard.press("Enter")

    @property
    def log(self) -> Locator:
        return self.page.get_by_role("log")

    def last(self) -> Locator:
        return self.page.locator("article").last


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    async with Server().serving() as found:
        yield found


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=QUIET)
        yield launched
        await launched.close()


@pytest.fixture
async def chat(server: Server, browser: Browser, tmp_path: Path) -> AsyncIterator[Chat]:
    """Every test ends with a look at what the browser had to say: nothing, unless the test took it out."""
    async with server.channel(tmp_path / "channel.db") as agent:
        context = await browser.new_context(locale="en-GB", timezone_id="Europe/Vienna", reduced_motion="reduce")
        page = await context.new_page()
        found = Chat(page, agent, server)
        page.on("console", lambda said: found.complaints.append(said.text) if said.type != "log" else None)
        page.on("pageerror", lambda error: found.complaints.append(str(error)))
        page.on("dialog", lambda dialog: found.complaints.append(f"dialog: {dialog.message}"))
        context.on("page", lambda other: found.complaints.append("a page opened") if other != page else None)
        context.on(
            "request",
            lambda request: (
                None if request.url.startswith((server.url, "data:")) else found.foreign.append(request.url)
            ),
        )
        yield found
        await context.close()
        assert found.complaints == []
        assert found.foreign == []


async def test_a_message_gets_its_reply_and_both_are_there_after_a_reload(chat: Chat) -> None:
    conversation = await chat.open()
    await expect(chat.log).to_contain_text("Welcome!")
    await chat.page.get_by_label("Message", exact=True).fill("one")
    await chat.page.keyboard.press("Shift+Enter")
    await chat.page.keyboard.type("two")
    await chat.page.keyboard.press("Enter")
    await expect(chat.page.locator(".user .plain")).to_have_text("one\ntwo", use_inner_text=True)
    await expect(chat.page.get_by_label("Message", exact=True)).to_have_value("")
    await expect(chat.page.locator("article")).to_have_count(3)
    (said,) = chat.agent.messages()
    assert (said["locale"], said["localTimezone"]) == ("en-GB", "Europe/Vienna")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0[12]:00", said["localTimestamp"])
    before = await chat.log.inner_text()
    await chat.page.reload()
    await expect(chat.page.locator("article")).to_have_count(3)
    assert await chat.log.inner_text() == before
    assert await chat.page.locator("#conversation-id").inner_text() == conversation


async def test_an_edit_and_a_deletion_arrive_live(chat: Chat) -> None:
    conversation = await chat.open()
    await expect(chat.log).to_contain_text("Welcome!")
    changed = await chat.agent.send(conversation, "Waiting for the supplier")
    doomed = await chat.agent.send(conversation, "Forget me")
    await expect(chat.last()).to_contain_text("Forget me")
    await chat.agent.edit(conversation, changed, "The order is **#4711**")
    await chat.agent.delete(conversation, doomed)
    await expect(chat.page.locator("article")).to_have_count(2)
    await expect(chat.last().locator("strong")).to_have_text("#4711")
    await expect(chat.last()).to_contain_text("edited")
    await expect(chat.log).not_to_contain_text("Waiting")


async def test_streamed_text_grows_after_an_informative_line(chat: Chat) -> None:
    conversation = await chat.open()
    await expect(chat.log).to_contain_text("Welcome!")
    entity = {"type": "streaminfo", "streamType": "informative", "streamSequence": 1}
    stream = await chat.agent.send(conversation, "Searching…", type="typing", entities=[entity])
    await expect(chat.page.locator(".informative")).to_have_text(re.compile("Searching…"))
    for number, text in enumerate(["The", "The order", "The order is"], start=2):
        entity = {"type": "streaminfo", "streamId": stream, "streamType": "streaming", "streamSequence": number}
        await chat.agent.send(conversation, text, type="typing", entities=[entity])
        await expect(chat.page.locator(".streaming .markdown")).to_have_text(text)
    await expect(chat.last()).to_have_attribute("aria-busy", "true")
    entity = {"type": "streaminfo", "streamId": stream, "streamType": "final"}
    await chat.agent.send(conversation, "The order is **on its way**.", entities=[entity])
    await expect(chat.last().locator("strong")).to_have_text("on its way")
    await expect(chat.page.locator("article")).to_have_count(2)
    await expect(chat.page.locator(".streaming, .informative, [aria-busy]")).to_have_count(0)


async def test_typing_is_shown_until_the_message_comes(chat: Chat) -> None:
    conversation = await chat.open()
    await chat.agent.send(conversation, type="typing")
    await expect(chat.page.get_by_text("The agent is typing")).to_be_attached()
    await chat.agent.send(conversation, "Here I am")
    await expect(chat.last()).to_contain_text("Here I am")
    await expect(chat.page.get_by_text("The agent is typing")).to_have_count(0)


async def test_what_the_agent_says_later_appears_by_itself_also_elsewhere(chat: Chat) -> None:
    first = await chat.open()
    await chat.say("order laptop")
    await expect(chat.log).to_contain_text("You said order laptop.")
    await chat.agent.send(first, "Your laptop is here")
    await expect(chat.last()).to_contain_text("Your laptop is here")

    await chat.page.get_by_role("button", name="New conversation").click()
    await expect(chat.page.locator("#conversation-id")).not_to_have_text(first)
    await expect(chat.log).not_to_contain_text("laptop")
    await expect(chat.page.get_by_label("Message", exact=True)).to_be_focused()
    await chat.agent.send(first, "It is waiting at the desk")
    link = chat.page.get_by_role("link", name="order laptop")
    await expect(link).to_contain_text("new messages")
    await expect(chat.log).not_to_contain_text("desk")
    await link.click()
    await expect(chat.last()).to_contain_text("It is waiting at the desk")
    await expect(link).not_to_contain_text("new messages")
    await chat.page.reload()
    await expect(chat.last()).to_contain_text("It is waiting at the desk")


async def test_a_form_is_filled_in_and_submitted_with_the_keyboard_alone(chat: Chat) -> None:
    conversation = await chat.open()
    await chat.agent.send_card(
        conversation,
        {"type": "Input.Text", "id": "name", "label": "Name", "isRequired": True, "errorMessage": "Who is it for?"},
        {"type": "Input.Number", "id": "count", "label": "How many", "min": 1, "max": 3, "value": 2},
        {
            "type": "Input.ChoiceSet",
            "id": "size",
            "label": "Screen",
            "style": "expanded",
            "choices": [{"title": "13 inches", "value": "13"}, {"title": "14 inches", "value": "14"}],
            "value": "13",
        },
        {"type": "Input.Toggle", "id": "mail", "title": "Tell me", "valueOn": "yes", "valueOff": "no"},
        actions=[{"type": "Action.Submit", "title": "Order", "data": {"action": "order", "__proto__": "kept"}}],
    )
    await expect(chat.page.get_by_role("button", name="Order")).to_be_visible()
    await chat.page.get_by_role("textbox", name="Name").focus()
    keyboard = chat.page.keyboard
    for _ in range(4):
        await keyboard.press("Tab")
    await expect(chat.page.get_by_role("button", name="Order")).to_be_focused()
    await keyboard.press("Enter")
    await expect(chat.page.get_by_text("Who is it for?")).to_be_visible()
    await expect(chat.page.get_by_role("textbox", name="Name")).to_be_focused()
    assert chat.agent.messages() == []

    await keyboard.type("Ada")
    await keyboard.press("Tab")
    await keyboard.press("ArrowUp")
    await keyboard.press("Tab")
    await keyboard.press("ArrowDown")
    await keyboard.press("Tab")
    await keyboard.press("Space")
    await keyboard.press("Tab")
    await keyboard.press("Enter")
    await expect(chat.page.locator(".user").last).to_contain_text("Ada")
    await expect(chat.log).to_contain_text("You said {")
    (submitted,) = chat.agent.messages()
    wanted = {"action": "order", "__proto__": "kept", "name": "Ada", "count": "3", "size": "14", "mail": "yes"}
    assert submitted["value"] == wanted
    assert "text" not in submitted


async def test_an_execute_replaces_the_card_and_keeps_the_focus_in_it(chat: Chat) -> None:
    conversation = await chat.open()

    async def approve(agent: Agent, activity: JsonObject) -> Response:
        if activity["type"] != "invoke":
            return Response(status_code=202)
        by = activity["value"]["action"]["data"]["by"]
        card = {
            "type": "AdaptiveCard",
            "body": [{"type": "TextBlock", "text": f"Approved by {by}"}],
            "actions": [{"type": "Action.Execute", "title": "Undo", "verb": "undo"}],
        }
        return JSONResponse({"statusCode": 200, "type": CARD, "value": card})

    chat.agent.answer = approve
    by = {"type": "Input.Text", "id": "by", "label": "By"}
    await chat.agent.send_card(
        conversation, by, actions=[{"type": "Action.Execute", "title": "Approve", "verb": "approve", "data": {"n": 1}}]
    )
    await chat.page.get_by_role("textbox", name="By").fill("Ada")
    await chat.page.keyboard.press("Tab")
    await chat.page.keyboard.press("Enter")
    await expect(chat.last()).to_contain_text("Approved by Ada")
    await expect(chat.page.get_by_role("button", name="Undo")).to_be_focused()
    await expect(chat.last()).not_to_contain_text("edited")
    (invoke,) = [activity for activity in chat.agent.received if activity["type"] == "invoke"]
    wanted = {"type": "Action.Execute", "verb": "approve", "data": {"n": 1, "by": "Ada"}}
    assert invoke["value"]["action"] == wanted

    async def refuse(agent: Agent, activity: JsonObject) -> Response:
        return Response(status_code=501)

    chat.agent.answer = refuse
    await chat.page.keyboard.press("Enter")
    await expect(chat.last()).to_contain_text("The agent has no handler for this action (501).")


HOSTILE = [
    '<img src=x onerror="window.hacked=1">',
    "<script>window.hacked=1</script>",
    "<svg/onload=window.hacked=1>",
    "[click](javascript:window.hacked=1)",
    "[click](JaVaScRiPt:window.hacked=1)",
    "[click](data:text/html,<script>window.hacked=1</script>)",
    "javascript:window.hacked=1",
    '"><iframe srcdoc="<script>parent.hacked=1</script>">',
    "{{constructor.constructor('window.hacked=1')()}}",
]


async def test_hostile_words_do_nothing_wherever_they_stand(chat: Chat) -> None:
    conversation = await chat.open()
    everything = "\n\n".join(HOSTILE)
    script, url = HOSTILE[0], "javascript:window.hacked=1"
    body: list[JsonObject] = [
        {
            "type": "TextBlock",
            "text": everything,
            "wrap": True,
            "id": "__proto__",
            "size": "constructor",
            "color": script,
        },
        {
            "type": "RichTextBlock",
            "inlines": [{"type": "TextRun", "text": script, "selectAction": {"type": "Action.OpenUrl", "url": url}}],
        },
        {"type": "FactSet", "facts": [{"title": script, "value": everything}]},
        {"type": "Image", "url": url, "altText": script},
        {"type": "Input.Text", "id": script, "label": script, "placeholder": script, "value": script},
        {"type": "Input.ChoiceSet", "id": "x", "label": script, "choices": [{"title": script, "value": script}]},
        {"type": script, "fallbackText": script},
        {"type": "constructor"},
        {"type": "Container", "style": "toString", "items": ["text", None, 5, [], {"type": "TextBlock", "text": {}}]},
    ]
    actions: list[JsonObject] = [
        {"type": "Action.OpenUrl", "title": "Open", "url": url},
        {"type": "Action.Submit", "title": script, "style": script},
        {
            "type": "Action.ToggleVisibility",
            "title": "Toggle",
            "targetElements": ["__proto__", {"elementId": "constructor"}],
        },
        {"type": script, "title": script},
    ]
    hero = {"title": script, "text": everything, "images": [{"url": url, "alt": script}]}
    hero["buttons"] = [
        {"type": "openUrl", "title": script, "value": url},
        {"type": "imBack", "title": script, "value": url},
    ]
    claim = {"position": 1, "appearance": {"name": script, "url": url, "abstract": script}}
    await chat.agent.send(
        conversation,
        everything,
        **{"from": {"id": script, "name": script}},
        entities=[{"type": "https://schema.org/Message", "citation": [claim, None, 5], "additionalType": 5}, None, 7],
        attachments=[
            {
                "contentType": CARD,
                "content": {"type": "AdaptiveCard", "body": body, "actions": actions, "speak": script},
            },
            {"contentType": "application/vnd.microsoft.card.hero", "content": hero},
            {"contentType": "text/html", "content": script, "name": script, "contentUrl": url},
            {"contentType": "image/svg+xml", "contentUrl": url, "name": script},
            {"contentType": CARD, "content": None},
            {"contentType": script},
            None,
        ],
        suggestedActions={"actions": [{"type": "openUrl", "title": script, "value": url}, None]},
    )
    for text in HOSTILE:
        await expect(chat.last().locator(".markdown").first).to_contain_text(text)
    await chat.say(everything)
    await expect(chat.page.locator(".user .plain")).to_have_text(everything)
    await expect(chat.page.locator("#title")).to_contain_text(HOSTILE[0])
    await chat.page.get_by_role("button", name="Toggle").click()
    for link in await chat.page.locator("main a[href]").all():
        assert re.match(r"https?:|mailto:", str(await link.get_attribute("href")))
        assert await link.get_attribute("rel") == "noopener noreferrer"
    assert await chat.page.locator("main :is(script, iframe, svg[onload], img[onerror])").count() == 0
    assert await chat.page.evaluate("window.hacked") is None


async def test_a_card_without_end_is_cut_and_the_page_stays_quick(chat: Chat) -> None:
    conversation = await chat.open()
    deep: JsonObject = {"type": "TextBlock", "text": "The bottom"}
    for _ in range(18):
        deep = {"type": "Container", "items": [deep]}
    wide = {"type": "Container", "items": [{"type": "TextBlock", "text": "x"}] * 3000}
    await chat.agent.send_card(conversation, {"type": "TextBlock", "text": "The top"}, deep, wide, actions=[])
    await chat.agent.send(conversation, "*_[`" * 20_000)
    await chat.agent.send(conversation, "Done")
    await expect(chat.last()).to_contain_text("Done")
    await expect(chat.log).to_contain_text("The top")
    await expect(chat.log).not_to_contain_text("The bottom")
    assert await chat.page.locator(".card *").count() < 5000


async def test_nothing_is_loaded_from_other_hosts(chat: Chat) -> None:
    conversation = await chat.open()
    pixel = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    await chat.agent.send_card(
        conversation,
        {"type": "Image", "url": "https://example.com/a.png", "altText": "A far picture"},
        {"type": "Image", "url": pixel, "altText": "A near picture"},
        actions=[],
    )
    await chat.agent.send(
        conversation, attachments=[{"contentType": "image/png", "contentUrl": "https://example.com/b.png"}]
    )
    await expect(chat.page.get_by_role("link", name="A far picture")).to_have_attribute(
        "href", "https://example.com/a.png"
    )
    await expect(chat.page.get_by_role("img", name="A near picture")).to_be_attached()
    await expect(chat.page.locator("main img")).to_have_count(1)


async def test_cards_show_all_they_have(chat: Chat) -> None:
    conversation = await chat.open()
    cell = {"type": "TableCell", "items": [{"type": "TextBlock", "text": "Cell"}]}
    await chat.agent.send_card(
        conversation,
        {"type": "TextBlock", "text": "A heading", "style": "heading"},
        {"type": "FactSet", "facts": [{"title": "Budget", "value": "1 400 €"}]},
        {"type": "ColumnSet", "columns": [{"items": [{"type": "TextBlock", "text": "Left"}], "width": "auto"}]},
        {"type": "Table", "rows": [{"cells": [cell]}, {"cells": [cell]}]},
        {"type": "TextBlock", "text": "A secret", "id": "secret", "isVisible": False},
        {"type": "From.The.Future", "fallback": {"type": "TextBlock", "text": "The fallback"}},
        {"type": "From.The.Future"},
        {
            "type": "ActionSet",
            "actions": [{"type": "Action.OpenUrl", "title": "Terms", "url": "https://example.com/t"}],
        },
        actions=[
            {"type": "Action.ToggleVisibility", "title": "Reveal", "targetElements": ["secret"]},
            {
                "type": "Action.ShowCard",
                "title": "More",
                "card": {"type": "AdaptiveCard", "body": [{"type": "Input.Text", "id": "why", "label": "Why"}]},
            },
        ],
    )
    await expect(chat.page.get_by_role("heading", name="A heading")).to_be_visible()
    await expect(chat.page.get_by_role("columnheader", name="Cell")).to_be_visible()
    await expect(chat.page.get_by_role("link", name="Terms")).to_have_attribute("href", "https://example.com/t")
    for text in ("1 400 €", "Left", "The fallback", "[From.The.Future]"):
        await expect(chat.last().get_by_text(text)).to_be_visible()
    await expect(chat.page.get_by_text("A secret")).to_be_hidden()
    await chat.page.get_by_role("button", name="Reveal").click()
    await expect(chat.page.get_by_text("A secret")).to_be_visible()
    more = chat.page.get_by_role("button", name="More")
    await expect(more).to_have_attribute("aria-expanded", "false")
    await more.click()
    await expect(chat.page.get_by_role("textbox", name="Why")).to_be_visible()
    await expect(more).to_have_attribute("aria-expanded", "true")


async def test_suggested_answers_and_the_buttons_of_a_hero_card_speak_for_the_user(chat: Chat) -> None:
    conversation = await chat.open()
    await chat.agent.send(
        conversation,
        "Shall I?",
        suggestedActions={
            "actions": [
                {"type": "imBack", "title": "Yes", "value": "yes please"},
                {"type": "openUrl", "title": "Read", "value": "https://example.com/"},
            ]
        },
    )
    suggestions = chat.page.get_by_role("group", name="Suggested answers")
    await expect(suggestions.get_by_role("link", name="Read")).to_be_visible()
    await suggestions.get_by_role("button", name="Yes").click()
    await expect(chat.log).to_contain_text("You said yes please.")
    await expect(suggestions).to_be_hidden()
    hero = {
        "title": "Lunch",
        "subtitle": "Until two",
        "buttons": [{"type": "postBack", "title": "Soup", "value": "s1"}],
    }
    await chat.agent.send(
        conversation, attachments=[{"contentType": "application/vnd.microsoft.card.hero", "content": hero}]
    )
    await expect(chat.last()).to_contain_text("Until two")
    await chat.page.get_by_role("button", name="Soup").click()
    await expect(chat.log).to_contain_text("You said s1.")
    assert chat.agent.messages()[-1]["channelData"] == {"postBack": True}


async def test_sources_and_the_mark_of_generated_text_are_shown(chat: Chat) -> None:
    conversation = await chat.open()
    claims = [{"position": 2, "appearance": {"name": "Handbook", "url": "https://example.com/h", "abstract": "Page 4"}}]
    entity = {"type": "https://schema.org/Message", "additionalType": ["AIGeneratedContent"], "citation": claims}
    await chat.agent.send(conversation, "It is so [2].", entities=[entity])
    await expect(chat.last()).to_contain_text("AI generated")
    await expect(chat.last().get_by_role("listitem")).to_have_attribute("value", "2")
    await expect(chat.last().get_by_role("link", name="Handbook")).to_have_attribute("href", "https://example.com/h")


async def test_markdown_is_drawn_and_plain_text_is_not(chat: Chat) -> None:
    conversation = await chat.open()
    text = "**b** *i* `c` [l](https://example.com/l) https://example.com/m.\nnext\n\n- one\n- two\n\n```\n<b>*x*\n```"
    await chat.agent.send(conversation, text, textFormat="markdown")
    drawn = chat.last().locator(".markdown")
    await expect(drawn.locator("strong")).to_have_text("b")
    await expect(drawn.locator("em")).to_have_text("i")
    await expect(drawn.locator("p code")).to_have_text("c")
    assert [await link.get_attribute("href") for link in await drawn.locator("a").all()] == [
        "https://example.com/l",
        "https://example.com/m",
    ]
    await expect(drawn.locator("br")).to_have_count(1)
    await expect(drawn.locator("ul li")).to_have_text(["one", "two"])
    await expect(drawn.locator("pre code")).to_have_text("<b>*x*")
    await chat.agent.send(conversation, text, textFormat="plain")
    await expect(chat.last().locator(".plain")).to_have_text(text, use_inner_text=True)


async def test_an_undelivered_message_says_why_and_is_sent_again(chat: Chat) -> None:
    await chat.open()
    await expect(chat.log).to_contain_text("Welcome!")

    async def fail(agent: Agent, activity: JsonObject) -> Response:
        return JSONResponse({"error": {"code": "x", "message": "The handler failed."}}, 500)

    chat.agent.answer = fail
    await chat.say("Hello")
    await expect(chat.last()).to_contain_text("Not delivered. The agent answered 500: The handler failed.")
    chat.agent.answer = echo
    await chat.page.get_by_role("button", name="Send again").click()
    await expect(chat.log).to_contain_text("You said Hello.")
    await expect(chat.log).not_to_contain_text("Not delivered")
    await expect(chat.page.locator("article")).to_have_count(3)


async def test_a_page_whose_channel_went_away_comes_back_and_has_missed_nothing(
    chat: Chat, server: Server, tmp_path: Path
) -> None:
    conversation = await chat.open()
    await expect(chat.log).to_contain_text("Welcome!")
    server.app = Starlette()
    chat.agent.channel.end_streams()
    await expect(chat.page.locator("#connection")).to_have_text("Reconnecting…")
    await chat.say("Are you there?")
    await expect(chat.page.get_by_role("alert")).not_to_be_empty()
    await expect(chat.page.get_by_label("Message", exact=True)).to_have_value("Are you there?")
    async with server.channel(tmp_path / "channel.db") as reborn:
        await reborn.send(conversation, "Said meanwhile")
        await expect(chat.last()).to_contain_text("Said meanwhile")
        await expect(chat.page.locator("#connection")).to_have_text("Connected")
        await chat.page.keyboard.press("Enter")
        await expect(chat.log).to_contain_text("You said Are you there?.")
        await expect(chat.page.locator("article")).to_have_count(4)
        await expect(chat.page.get_by_role("alert")).to_be_empty()
        await chat.page.close()
    # A browser reports every request that failed; those were meant to.
    assert all(said.startswith("Failed to load resource") for said in chat.complaints)
    chat.complaints.clear()


async def test_the_page_can_be_read_and_used_without_a_mouse(chat: Chat) -> None:
    conversation = await chat.open()
    await expect(chat.log).to_contain_text("Welcome!")
    await chat.agent.send(conversation, "Hello")
    page = chat.page
    for landmark in (
        page.get_by_role("main"),
        page.get_by_role("complementary", name="Conversations"),
        page.get_by_role("navigation", name="Earlier conversations"),
    ):
        await expect(landmark).to_have_count(1)
    await expect(chat.log).to_have_attribute("aria-live", "polite")
    await expect(page.get_by_role("heading", level=1)).to_have_count(1)
    # Once around the page: every stop has a name and can be seen, and the way leads out again.
    await page.reload()
    await expect(chat.last()).to_contain_text("Hello")
    names = []
    for _ in range(12):
        await page.keyboard.press("Tab")
        stop = await page.evaluate(
            "() => { const e = document.activeElement; if (e === document.body) return null;"
            " const s = getComputedStyle(e.closest('form') ?? e);"
            " return [e.id || e.getAttribute('href'), s.outlineStyle !== 'none' || s.boxShadow !== 'none']; }"
        )
        if stop is None:
            break
        names.append(stop)
    assert [name for name, _ in names] == ["skip", "new", f"#{conversation}", "copy", "scroller", "text", "send"]
    assert all(seen for _, seen in names)


async def test_the_id_is_copied_for_the_command_line(chat: Chat) -> None:
    conversation = await chat.open()
    await chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await chat.page.get_by_role("button", name="Copy the conversation id").click()
    await expect(chat.page.locator("#copied")).to_have_text("Copied")
    assert await chat.page.evaluate("navigator.clipboard.readText()") == conversation


async def test_on_a_phone_the_conversations_are_behind_a_button(chat: Chat) -> None:
    await chat.page.set_viewport_size({"width": 390, "height": 800})
    await chat.open()
    menu = chat.page.get_by_role("button", name="Conversations", exact=True)
    new = chat.page.get_by_role("button", name="New conversation")
    await expect(new).to_be_hidden()
    await menu.click()
    await expect(new).to_be_visible()
    await chat.page.keyboard.press("Escape")
    await expect(new).to_be_hidden()
    await expect(menu).to_be_focused()
    assert await chat.page.evaluate("document.documentElement.scrollWidth") == 390
