"""Every hostile address at every place where a sender can put one, over real sockets: nobody is called, nothing shown.

Every name, and every address, leads to one server, and no address is forbidden: what keeps the agent off is the guard
of URLs alone. What addresses a name may have is in `test_checked_network.py`.
"""

from __future__ import annotations

import json

import pytest

from agent_core import (
    Activity,
    AgentApplication,
    Attachment,
    ClaimsIdentity,
    ConversationReference,
    TurnContext,
    TurnState,
)
from agent_core.channel.attachment_downloader import AttachmentDownloader
from agent_core.channel.cloud_adapter import AgentIdentity, CloudAdapter, HttpRequest
from agent_core.channel.connector_client import ConnectorClient
from agent_core.channel.http_client import HttpClient, origin_of
from agent_core.channel.token_validator import TokenValidator
from agent_core.channel.url_guard import UrlGuard
from agent_core.errors import AttachmentNotAvailable, NotAllowed
from agent_core.proactive.conversation import Conversation
from agent_core.store.memory_store import MemoryStore
from agent_core.testing import ManualClock, MemoryQueue
from tests.canary import TOKEN, Canary
from tests.hostile_urls import HOSTILE

Watched = tuple[Canary, HttpClient]
CHANNEL = ClaimsIdentity({"aud": "app"}, service_url_verified=True)
PARENT = "0f0f0f0f-1111-2222-3333-444444444444"
PARENT_AGENT = ClaimsIdentity({"aud": "app", "ver": "2.0", "azp": PARENT.upper()}, service_url_verified=True)
GOOD = "https://smba.trafficmanager.net/teams/"
PARENTS = "https://skills.parent.example/api/skills/"
FILE = "application/vnd.microsoft.teams.file.download.info"
hostile = pytest.mark.parametrize("url", HOSTILE.values(), ids=HOSTILE.keys())
# Joined to the address that sent them on, these lead to an allowed host.
RELATIVE = ("empty", "no scheme", "only the scheme", "scheme with one slash", "scheme with none")


class Tokens:
    """The agent's token, whatever it is asked for."""

    async def token(self, *arguments: object, **named: object) -> str:
        return TOKEN


class Believing(TokenValidator):
    """Takes every token to be valid, with the serviceUrl in it: the guard does not rely on it."""

    def __init__(self, identity: ClaimsIdentity) -> None:
        self._believed = identity

    async def validate(self, authorization: str | None, activity: Activity) -> ClaimsIdentity:
        return self._believed

    def caller_id(self, identity: ClaimsIdentity) -> str | None:
        return None


def agent_with(http: HttpClient, identity: ClaimsIdentity = CHANNEL) -> tuple[CloudAdapter, AgentApplication]:
    clock = ManualClock()
    guard = UrlGuard(development=False, callers={PARENT: ("parent.example",)})
    adapter = CloudAdapter(
        identity=lambda: AgentIdentity("app", Believing(identity)),
        connector=lambda: ConnectorClient(http, Tokens(), clock.now),
        guard=lambda: guard,
        now=clock.now,
        downloader=lambda: AttachmentDownloader(http, guard, Tokens().token),
    )
    agent = AgentApplication(adapter, MemoryStore(clock.now), MemoryQueue(clock))

    @agent.activity("message")
    async def answer(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("Hello!")

    return adapter, agent


def message(service_url: str, **fields: object) -> dict[str, object]:
    return {
        "type": "message",
        "id": "1",
        "channelId": "msteams",
        "serviceUrl": service_url,
        "conversation": {"id": "c1"},
        "from": {"id": "user"},
        "recipient": {"id": "agent"},
        "text": "hello",
        **fields,
    }


async def post(adapter: CloudAdapter, agent: AgentApplication, body: dict[str, object]) -> int:
    headers = {"content-type": "application/json"}
    request = HttpRequest("POST", "https://agent.example/api/messages", headers, json.dumps(body).encode())
    return (await adapter.process_activity(request, agent)).status


def conversation(service_url: str, identity: ClaimsIdentity) -> Conversation:
    reference = ConversationReference.from_dict(
        {"channelId": "msteams", "serviceUrl": service_url, "conversation": {"id": "c1"}, "bot": {"id": "agent"}}
    )
    return Conversation(reference, identity, ManualClock().now())


@pytest.mark.parametrize(("url", "identity"), [(GOOD, CHANNEL), (PARENTS, PARENT_AGENT)])
async def test_p9_4_the_canary_would_see_it(watched: Watched, url: str, identity: ClaimsIdentity) -> None:
    """Where nothing is wrong, the message arrives there with the token: so the other tests can fail."""
    seen, http = watched
    seen.answer = b'HTTP/1.1 201 Created\r\ncontent-length: 10\r\n\r\n{"id":"1"}'
    adapter, agent = agent_with(http, identity)
    assert await post(adapter, agent, message(url)) == 202
    await agent.proactive.send_activity(conversation(url, identity), "Psst")
    assert len(seen.visits) == 2
    assert seen.bearers == [f"Bearer {TOKEN}"] * 2
    assert {visit.server_name for visit in seen.visits} == {origin_of(url).host}


@hostile
@pytest.mark.parametrize("identity", [CHANNEL, PARENT_AGENT], ids=["channel", "agent"])
async def test_p9_4_no_hostile_service_url_comes_in(watched: Watched, url: str, identity: ClaimsIdentity) -> None:
    seen, http = watched
    adapter, agent = agent_with(http, identity)
    assert await post(adapter, agent, message(url)) == 403
    assert (seen.asked, seen.connections) == ([], 0)
    assert await agent.proactive.get_conversation("c1") is None


@hostile
@pytest.mark.parametrize("identity", [CHANNEL, PARENT_AGENT], ids=["channel", "agent"])
async def test_p9_4_no_hostile_service_url_is_sent_to_from_the_store(
    watched: Watched, url: str, identity: ClaimsIdentity
) -> None:
    """It is asked again before each proactive send, also of a reference that calls itself verified."""
    seen, http = watched
    _, agent = agent_with(http, identity)
    await agent.proactive.store_conversation(conversation(url, identity))
    with pytest.raises(NotAllowed) as refusal:
        await agent.proactive.send_activity("c1", "Psst")
    assert refusal.value.code == "ServiceUrlNotAllowed"
    assert (seen.asked, seen.connections) == ([], 0)


@hostile
@pytest.mark.parametrize("place", ["contentUrl", "downloadUrl"])
@pytest.mark.parametrize("service_url", [GOOD, "the same"])
async def test_p9_1_no_hostile_address_of_an_attachment_is_fetched(
    watched: Watched, url: str, place: str, service_url: str
) -> None:
    """Also where the activity's serviceUrl is the same hostile address, and calls itself verified."""
    seen, http = watched
    adapter, _ = agent_with(http)
    attachment = (
        {"contentType": "image/*", "contentUrl": url}
        if place == "contentUrl"
        else {"contentType": FILE, "content": {"downloadUrl": url}, "contentUrl": GOOD}
    )
    body = message(url if service_url == "the same" else service_url, attachments=[attachment])
    context = TurnContext(adapter, Activity.from_dict(body), now=ManualClock().now(), identity=CHANNEL, runtime=adapter)
    (received,) = context.attachments
    with pytest.raises(AttachmentNotAvailable) as refusal:
        await received.download(slack_token=TOKEN, max_redirects=3)
    assert refusal.value.code in ("HostNotAllowed", "NoAddress")
    assert (seen.asked, seen.connections) == ([], 0)


@pytest.mark.parametrize(("trick", "url"), HOSTILE.items(), ids=HOSTILE.keys())
async def test_p9_2_no_redirect_to_a_hostile_address_is_followed(watched: Watched, trick: str, url: str) -> None:
    """P9.2: each redirect is checked like the first address."""
    seen, http = watched
    adapter, _ = agent_with(http)
    seen.answer = b"HTTP/1.1 302 Found\r\nlocation: " + url.encode() + b"\r\ncontent-length: 0\r\n\r\n"
    attachment = Attachment(content_type="image/png", content_url="https://media.botframework.com/1")
    body = Activity.from_dict(message(GOOD)).replace(attachments=[attachment])
    context = TurnContext(adapter, body, now=ManualClock().now(), identity=CHANNEL, runtime=adapter)
    with pytest.raises(AttachmentNotAvailable) as refusal:
        await context.attachments[0].download(max_redirects=3)
    assert set(seen.asked) <= {"media.botframework.com", "smba.trafficmanager.net"}
    assert seen.bearers == []
    if seen.asked == ["media.botframework.com"] and trick not in RELATIVE:
        assert refusal.value.code in ("HostNotAllowed", "Unreachable")


@pytest.mark.parametrize("service_url", ["https://smba.trafficmanager.net/teams/", "https://other.example/"])
async def test_p8_7_a_calling_agent_is_answered_at_its_own_hosts_only(watched: Watched, service_url: str) -> None:
    """The connector's hosts are no exception: a token for that caller has no business there."""
    seen, http = watched
    adapter, agent = agent_with(http, PARENT_AGENT)
    assert await post(adapter, agent, message(service_url)) == 403
    with pytest.raises(NotAllowed):
        await agent.proactive.send_activity(conversation(service_url, PARENT_AGENT), "Psst")
    assert seen.connections == 0


async def test_p8_7_a_channel_is_not_answered_at_an_agents_hosts(watched: Watched) -> None:
    seen, http = watched
    adapter, agent = agent_with(http, CHANNEL)
    assert await post(adapter, agent, message(PARENTS)) == 403
    assert seen.connections == 0
