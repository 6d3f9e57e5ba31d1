"""Doubles that ship: what a user's tests need to run an agent without a channel, a clock or Azure."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from agent_core.activity.activity import Activity
from agent_core.activity.attachments import Attachment
from agent_core.activity.cards import TokenExchangeResource
from agent_core.activity.conversation_reference import (
    ChannelAccount,
    ConversationAccount,
    ConversationParameters,
    ConversationReference,
    ConversationResourceResponse,
    ResourceResponse,
)
from agent_core.activity.received_attachments import FetchedContent, address_of
from agent_core.errors import AttachmentNotAvailable, ChannelError, ConsentRequired
from agent_core.proactive.queue import QueueMessage
from agent_core.turn.channel_adapter import Agent, ChannelAdapter
from agent_core.turn.claims_identity import ClaimsIdentity
from agent_core.turn.stream_protocol import is_stream
from agent_core.turn.turn_context import TurnContext
from agent_core.turn.user_tokens import OAuthConnection, SignInResource, TokenResponse

T = TypeVar("T")
# Of the event loop, until what can go on has gone on.
_STEPS = 25


class ManualClock:
    """A clock that moves only when told to; sleepers wake in the order of their times.

    clock = ManualClock()
    await clock.advance(timedelta(minutes=1))
    """

    def __init__(self, start: datetime = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)) -> None:
        self._now = start
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._order = 0

    def now(self) -> datetime:
        """The time it was moved to."""
        return self._now

    async def sleep(self, delay: timedelta) -> None:
        """Return when the clock was moved by that much."""
        if delay <= timedelta(0):
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._order += 1
        heapq.heappush(self._sleepers, (self._now + delay, self._order, woken))
        await woken

    async def advance(self, delta: timedelta) -> None:
        """Move the time forward, waking every sleeper at its own time on the way."""
        end = self._now + delta
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
            # Let what was woken run, and sleep again before `end`, before the next one is.
            for _ in range(3):
                await asyncio.sleep(0)
        self._now = end

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do this work to its end, moving the time forward to the next sleeper whenever nothing else goes on.

        texts = await clock.run(adapter.say(agent, "tell me a long story"))    # streamed, so it takes its time
        """
        task = asyncio.ensure_future(work)
        while True:
            for _ in range(_STEPS):
                await asyncio.sleep(0)
            if task.done():
                return task.result()
            while self._sleepers and self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)
            if not self._sleepers:
                task.cancel()
                raise RuntimeError("The work waits for something, and not for this clock")
            await self.advance(self._sleepers[0][0] - self._now)


class MemoryQueue:
    """A work queue in memory: keeps what was sent, drops a message id that it has seen, delivers when asked."""

    def __init__(self, clock: ManualClock) -> None:
        self.messages: list[QueueMessage] = []
        self._clock = clock
        self._sent: dict[str, datetime] = {}

    async def send(self, message: QueueMessage) -> None:
        if message.message_id not in self._sent:
            self._sent[message.message_id] = self._clock.now()
            self.messages.append(message)

    async def send_many(self, messages: Sequence[QueueMessage]) -> None:
        for message in messages:
            await self.send(message)

    async def close(self) -> None:
        """Nothing is open."""

    def take_due(self) -> list[QueueMessage]:
        """Take out what may be received by now, in the order it came to be; hand each to `agent.do_work`."""
        now = self._clock.now()
        due = [each for each in self.messages if (each.scheduled_enqueue_time or now) <= now]
        self.messages = [each for each in self.messages if each not in due]
        return sorted(due, key=lambda each: self._since(each, now))

    def _since(self, message: QueueMessage, now: datetime) -> datetime:
        sent = self._sent.get(message.message_id, now)
        return max(message.scheduled_enqueue_time or sent, sent)


class TestTokenService:
    """A user token service in memory: one user, who is signed in to what `tokens` names.

        adapter.user_tokens.tokens["graph"] = "a token"          # signed in already
        adapter.user_tokens.codes["123456"] = ("graph", "a token")   # signs in with that code

    Attributes:
        tokens: the user's tokens, by the name that handlers use.
        codes: what each code of the sign-in page is good for; it works once.
        exchanges: what each token of the user's client can be exchanged for.
        consent_required: whether the user must first allow exchanges.
        calls: the names of the methods that were called, in order.
    """

    __test__ = False  # its name is no test's

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}
        self.codes: dict[str, tuple[str, str]] = {}
        self.exchanges: dict[str, str] = {}
        self.consent_required = False
        self.calls: list[str] = []

    def connection(self, name: str) -> OAuthConnection:
        return OAuthConnection(name, name)

    async def get_token(
        self, user_id: str, connection_name: str, channel_id: str, *, code: str | None = None
    ) -> TokenResponse | None:
        self.calls.append("get_token")
        if code is not None:
            named, token = self.codes.get(code, ("", ""))
            if named != connection_name:
                return None
            del self.codes[code]
            self.tokens[connection_name] = token
        return self._token(connection_name)

    async def get_token_or_sign_in_resource(
        self, user_id: str, connection_name: str, reference: ConversationReference
    ) -> TokenResponse | SignInResource:
        self.calls.append("get_token_or_sign_in_resource")
        resource = TokenExchangeResource(id=f"exchange-{connection_name}", uri="api://agent")
        return self._token(connection_name) or SignInResource(
            sign_in_link="https://token.botframework.com/sign-in", token_exchange_resource=resource
        )

    async def exchange_token(
        self, user_id: str, connection_name: str, channel_id: str, *, token: str
    ) -> TokenResponse | None:
        self.calls.append("exchange_token")
        if self.consent_required:
            raise ConsentRequired("The user must first consent")
        if token in self.exchanges:
            self.tokens[connection_name] = self.exchanges[token]
        return self._token(connection_name)

    async def sign_out(self, user_id: str, connection_name: str, channel_id: str) -> None:
        self.calls.append("sign_out")
        self.tokens.pop(connection_name, None)

    def _token(self, connection_name: str) -> TokenResponse | None:
        token = self.tokens.get(connection_name)
        return None if token is None else TokenResponse(connection_name, token)


class TestAdapter(ChannelAdapter):
    """A channel in memory: turns run through the real pipeline, and what they send is kept as a user would see it.

        adapter = TestAdapter(clock)
        agent = AgentApplication(adapter, MemoryStore(clock.now), MemoryQueue(clock))
        assert await adapter.say(agent, "hello") == ["Hello!"]

    Attributes:
        messages: the messages the user sees, by id, in order, edits and deletions applied; of a stream its end.
        sent: every activity in the order it was sent.
        files: what attachments hold, by their address: a Teams file's `downloadUrl`, else the `contentUrl`.
        members: who is in the conversation besides the agent.
        failures: errors to raise for the next calls of the channel, first one first; None lets one through.
    """

    __test__ = False  # its name is no test's

    def __init__(self, clock: ManualClock, channel_id: str = "emulator", conversation_id: str = "c1") -> None:
        super().__init__(clock.now, clock.sleep)
        self.messages: dict[str, Activity] = {}
        self.sent: list[Activity] = []
        self.files: dict[str, bytes] = {}
        self.members: list[ChannelAccount] = [ChannelAccount(id="user", name="User")]
        self.failures: list[ChannelError | None] = []
        self._user_tokens = TestTokenService()
        self._channel_id = channel_id
        self._conversation_id = conversation_id
        self._count = 0

    @property
    def user_tokens(self) -> TestTokenService:
        """What keeps the user's tokens: put one in, and the user is signed in."""
        return self._user_tokens

    @property
    def texts(self) -> list[str | None]:
        """The texts the user sees."""
        return [activity.text for activity in self.messages.values()]

    def activity(self, activity_type: str = "message", **fields: Any) -> Activity:
        """An activity as this channel would send it."""
        self._count += 1
        return Activity(
            **{
                "type": activity_type,
                "id": f"in{self._count}",
                "channel_id": self._channel_id,
                "service_url": "https://smba.trafficmanager.net/test/",
                "conversation": ConversationAccount(id=self._conversation_id),
                "from_property": ChannelAccount(id="user", name="User"),
                "recipient": ChannelAccount(id="agent", name="Agent"),
                **fields,
            }
        )

    async def say(self, agent: Agent, text: str) -> list[str | None]:
        """Say something to the agent; returns the texts it answered with."""
        before = len(self.sent)
        await self.process(agent, self.activity(text=text))
        return [activity.text for activity in self.sent[before:]]

    async def process(self, agent: Agent, activity: Activity, identity: ClaimsIdentity | None = None) -> TurnContext:
        """Run one turn; what it raises comes out. Returns its context, which is over.

        An activity with an id that was processed before runs no turn, as it would not if a channel posted it again.
        """
        return await self.receive(activity, identity or ClaimsIdentity(service_url_verified=True), agent)

    def own_identity(self) -> ClaimsIdentity:
        return ClaimsIdentity({"aud": "agent"}, service_url_verified=True)

    async def send_activities(self, context: TurnContext, activities: Sequence[Activity]) -> list[ResourceResponse]:
        responses = []
        for activity in activities:
            self._fail_if_told()
            self._count += 1
            # The parts of a stream have its id, but for the first, whose answer says it.
            activity_id = (activity.id if is_stream(activity) else None) or f"out{self._count}"
            self.sent.append(activity)
            if activity.type == "message":
                self.messages[activity_id] = activity
            responses.append(ResourceResponse(id=activity_id))
        return responses

    async def update_activity(self, context: TurnContext, activity: Activity) -> ResourceResponse:
        self._fail_if_told()
        if activity.id not in self.messages:
            raise ChannelError("No such activity", decision="gone", status=404)
        self.messages[activity.id] = activity
        return ResourceResponse(id=activity.id)

    async def delete_activity(self, context: TurnContext, activity_id: str) -> None:
        self._fail_if_told()
        self.messages.pop(activity_id, None)

    async def create_conversation(
        self, service_url: str, parameters: ConversationParameters, identity: ClaimsIdentity
    ) -> ConversationResourceResponse:
        self._fail_if_told()
        self._count += 1
        return ConversationResourceResponse(id=f"created{self._count}")

    @asynccontextmanager
    async def fetch_attachment(
        self,
        activity: Activity,
        identity: ClaimsIdentity,
        attachment: Attachment,
        *,
        slack_token: str | None,
        max_redirects: int,
    ) -> AsyncGenerator[FetchedContent, None]:
        content = self.files.get(address_of(attachment) or "")
        if content is None:
            raise AttachmentNotAvailable("Put it into adapter.files", code="Expired", status=404)

        async def chunks() -> AsyncIterator[bytes]:
            yield content

        yield FetchedContent(None, chunks())

    async def get_member(self, context: TurnContext, user_id: str) -> ChannelAccount:
        self._fail_if_told()
        for member in self.members:
            if user_id in (member.id, member.aad_object_id):
                return member
        raise ChannelError("No such member", decision="gone", status=404)

    async def get_paged_members(
        self, context: TurnContext, page_size: int | None = None
    ) -> AsyncIterator[ChannelAccount]:
        self._fail_if_told()
        for member in self.members:
            yield member

    def _fail_if_told(self) -> None:
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
