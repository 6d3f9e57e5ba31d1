"""Takes activities from channels over HTTP, runs their turns, and sends what the turns say through the connector."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from agent_core.activity.activity import Activity
from agent_core.activity.activity_types import RoleTypes
from agent_core.activity.attachments import Attachment
from agent_core.activity.conversation_reference import (
    ChannelAccount,
    ConversationParameters,
    ConversationResourceResponse,
    ResourceResponse,
)
from agent_core.activity.json_text import dump
from agent_core.channel.url_guard import UrlGuard, is_loopback
from agent_core.errors import (
    BadActivity,
    Busy,
    KeysUnavailable,
    NotAllowed,
    NotAuthenticated,
    NotSupported,
    QueueUnavailable,
    SettingsError,
    StoreError,
)
from agent_core.store.document_store import MAX_NAME, is_storable
from agent_core.turn.channel_adapter import Agent, Answer, ChannelAdapter
from agent_core.turn.claims_identity import ClaimsIdentity
from agent_core.turn.turn_context import TurnContext
from agent_core.turn.user_tokens import UserTokenService

if TYPE_CHECKING:  # loaded with the first request, so that a cold start is spared them
    from agent_core.activity.received_attachments import FetchedContent
    from agent_core.channel.attachment_downloader import AttachmentDownloader
    from agent_core.channel.connector import Connector
    from agent_core.channel.connector_client import ConnectorClient
    from agent_core.channel.token_provider import AgenticIdentity
    from agent_core.channel.token_validator import TokenValidator
    from agent_core.channel.user_token_client import UserTokenClient

logger = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024
MAX_AGENTIC_ID = 150
# What of a conversation's id may stand in a header as it is: what Teams writes.
SHOWN = ":;=@,/+|"
# A tunnel from the internet rewrites the host and leaves one of these behind.
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host")
# Types that mean nothing without a name (A5001, A5401, A6310, A6411).
NAMED_TYPES = ("command", "commandResult", "event", "invoke")


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """An HTTP request, whatever brought it. Header names are lower-case."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What to answer. `body` is JSON or empty."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """Who the agent is to the channel.

    Attributes:
        app_id: None only in development, where no token is asked for and none is sent.
    """

    app_id: str | None
    validator: TokenValidator | None


class CloudAdapter(ChannelAdapter):
    """The adapter for everything that speaks the Activity Protocol over HTTP.

    Its collaborators come from functions, called on first use, so that building it reads no setting and connects to
    nothing.
    """

    def __init__(
        self,
        *,
        identity: Callable[[], AgentIdentity],
        connector: Callable[[], ConnectorClient],
        guard: Callable[[], UrlGuard],
        now: Callable[[], datetime],
        sleep: Callable[[timedelta], Awaitable[None]] | None = None,
        user_tokens: Callable[[], UserTokenClient] | None = None,
        downloader: Callable[[], AttachmentDownloader] | None = None,
    ) -> None:
        """Without `user_tokens`, users cannot sign in; without `downloader`, there are no attachments to download."""
        super().__init__(now, sleep)
        self._identity = identity
        self._connector = connector
        self._guard = guard
        self._user_tokens = user_tokens
        self._downloader = downloader

    @property
    def user_tokens(self) -> UserTokenService:
        return super().user_tokens if self._user_tokens is None else self._user_tokens()

    async def process_activity(self, request: HttpRequest, agent: Agent) -> HttpResponse:
        """Answer one POST of a channel: check it, run its turn, reply.

        Never raises for what a request or a handler does. 400, 405, 413 or 415 is for what is no activity, and for an
        invoke whose value a handler refused with BadActivity; 401 and 403 for who may not; 501 for an invoke that
        nobody handles; 500 for one that failed; 503 where the store, the queue or the keys to check a token with are
        not reached and nothing was said yet, so that the channel tries again. Else it is 202, or 200 with a body.
        """
        try:
            activity = _activity(request)
            activity, identity = await self._authenticate(request, activity)
            if activity.delivery_mode != "expectReplies":
                self._guard().check_service_url(activity.service_url, identity)
        except BadActivity as error:
            return _error(error.status, error.code, str(error), {"allow": "POST"} if error.status == 405 else {})
        except NotAuthenticated as error:
            logger.warning("Refused an activity: %s", error)
            return _error(401, error.code, str(error), {"www-authenticate": "Bearer"})
        except NotAllowed as error:
            logger.warning("Refused an activity: %s", error)
            return _error(403, error.code, str(error))
        except KeysUnavailable as error:
            # 401 would make the channel drop the activity of a caller who may be a good one.
            return _error(503, "KeysUnavailable", str(error), {"retry-after": "5"})
        except SettingsError as error:
            logger.error("The agent is not set up: %s", error)
            return _error(500, "NotConfigured", str(error))
        return await self._run(activity, identity, agent)

    async def _run(self, activity: Activity, identity: ClaimsIdentity, agent: Agent) -> HttpResponse:
        replies = ReplyBuffer(self) if activity.delivery_mode == "expectReplies" else None
        context = TurnContext(
            replies or self,
            activity,
            now=self.now(),
            callbacks=agent.callbacks,
            user_tokens=agent.user_tokens,
            identity=identity,
            runtime=self,
        )
        try:
            if not _waits(activity) and await agent.defer(activity, identity):
                return HttpResponse(202)
            answer = await agent.answer_once(context, partial(self._turn, context, agent, replies))
        except SettingsError as error:
            logger.error("The agent is not set up: %s", error)
            return _error(500, "NotConfigured", str(error))
        except NotAllowed as error:
            logger.warning("Refused activity %r: %s", activity.id, error)
            return _error(403, error.code, str(error))
        except Busy as error:
            return _error(503, "Busy", str(error), {"retry-after": "5"})
        except (StoreError, QueueUnavailable) as error:
            logger.error("Activity %r could not be handled: %s", activity.id, error)
            if context.responded:
                # A second try would say it all again.
                return HttpResponse(202)
            return _error(503, "Unavailable", "The agent cannot work right now; try again", {"retry-after": "5"})
        return HttpResponse(answer.status) if answer.body is None else _json(answer.status, answer.body)

    async def _turn(self, context: TurnContext, agent: Agent, replies: ReplyBuffer | None) -> Answer:
        """Run the turn, and say how its activity is answered; raises only for what another try can mend."""
        waits = _waits(context.activity)
        try:
            await self.run_turn(context, agent.on_turn, agent.on_turn_error)
        except SettingsError:
            raise
        except BadActivity as error:
            # What a handler finds wrong with the value of an invoke is the caller's to know, and no failure of ours.
            logger.info("A handler refused activity %r: %s", context.activity.id, error)
            return _failure(error.status, error.code, str(error)) if waits else Answer(202, failed=True)
        except Exception as error:
            logger.exception("The turn of activity %r failed", context.activity.id)
            if isinstance(error, (StoreError, QueueUnavailable)) and not context.responded:
                raise
            return (
                _failure(500, "TurnFailed", "The turn failed; the agent's log says why")
                if waits
                else Answer(202, failed=True)
            )
        return _answer(context, replies)

    async def _authenticate(self, request: HttpRequest, activity: Activity) -> tuple[Activity, ClaimsIdentity]:
        """The activity with its caller's id, and the caller."""
        validator = self._identity().validator
        if validator is not None:
            identity = await validator.validate(request.headers.get("authorization"), activity)
            if not identity.service_url_verified and activity.delivery_mode != "expectReplies":
                raise NotAllowed(
                    "The serviceUrl is at no host that AGENT_CALLERS gives the calling agent; "
                    "without one it can call with deliveryMode 'expectReplies' only",
                    code="ServiceUrlNotAllowed",
                )
            return activity.replace(caller_id=validator.caller_id(identity)), identity
        # Development without an app id: whoever reaches this machine's own address is taken at his word. The name in
        # the URL is checked too, or any web page could come in by a name of its own that resolves to this machine.
        if not is_loopback(request.url) or any(name in request.headers for name in FORWARDED):
            raise NotAuthenticated(
                "Without an app id the agent answers on this machine's own address only; open it as localhost, "
                "or set CONNECTIONS__SERVICE_CONNECTION__SETTINGS__CLIENTID",
                code="NotLoopback",
            )
        return activity, ClaimsIdentity()

    def own_identity(self) -> ClaimsIdentity:
        app_id = self._identity().app_id
        return ClaimsIdentity({"aud": app_id} if app_id else {}, service_url_verified=True)

    def check_service_url(self, service_url: str) -> None:
        self._guard().check_service_url(service_url, self.own_identity())

    async def send_activities(self, context: TurnContext, activities: Sequence[Activity]) -> list[ResourceResponse]:
        connector = self.connector(context)
        conversation_id = _conversation_id(context)
        responses = []
        # One after the other: channels do not keep the order of requests that overlap.
        for activity in activities:
            if _stays_here(activity, context):
                responses.append(ResourceResponse())
            elif activity.reply_to_id:
                responses.append(await connector.reply_to_activity(conversation_id, activity.reply_to_id, activity))
            else:
                responses.append(await connector.send_to_conversation(conversation_id, activity))
        return responses

    async def update_activity(self, context: TurnContext, activity: Activity) -> ResourceResponse:
        return await self.connector(context).update_activity(_conversation_id(context), activity.id or "", activity)

    async def delete_activity(self, context: TurnContext, activity_id: str) -> None:
        await self.connector(context).delete_activity(_conversation_id(context), activity_id)

    async def create_conversation(
        self, service_url: str, parameters: ConversationParameters, identity: ClaimsIdentity
    ) -> ConversationResourceResponse:
        return await self._connector_at(service_url, identity).create_conversation(parameters)

    def fetch_attachment(
        self,
        activity: Activity,
        identity: ClaimsIdentity,
        attachment: Attachment,
        *,
        slack_token: str | None,
        max_redirects: int,
    ) -> AbstractAsyncContextManager[FetchedContent]:
        if self._downloader is None:
            raise NotSupported("This adapter was built without a downloader, so attachments cannot be downloaded")
        return self._downloader().fetch(
            activity, identity, attachment, slack_token=slack_token, max_redirects=max_redirects
        )

    async def get_member(self, context: TurnContext, user_id: str) -> ChannelAccount:
        return await self.connector(context).get_conversation_member(_conversation_id(context), user_id)

    def get_paged_members(self, context: TurnContext, page_size: int | None = None) -> AsyncIterator[ChannelAccount]:
        return self.connector(context).get_paged_members(_conversation_id(context), page_size=page_size)

    def connector(self, context: TurnContext) -> Connector:
        """The REST API of the service that carries this turn, for what the context has no method for.

            channels = await adapter.connector(context).teams.get_team_channels(team_id)

        Whether the service may be called is asked each time, because what is stored may be old or foreign.

        Raises:
            NotAllowed: the service is none that the agent's token may go to.
            NotSupported: the agent is addressed as one with an identity of its own, and it is not said as which.
        """
        from agent_core.channel.connector import CopilotStudioConnector
        from agent_core.channel.connector_client import ConnectorService

        activity = context.activity
        if activity.is_from_copilot_studio_connector:
            self._guard().check_service_url(activity.service_url, context.identity)
            # Its URL is taken as it is: the slash that other services get would be another URL.
            return CopilotStudioConnector(self._connector(), ConnectorService(activity.service_url or "", None))
        return self._connector_at(
            activity.service_url, context.identity, activity.conversation_id, self._agentic_identity(activity)
        )

    def _agentic_identity(self, activity: Activity) -> AgenticIdentity | None:
        """As whom the agent is addressed, if it is as one with an identity of its own in the tenant."""
        if not activity.is_agentic or activity.recipient is None:
            return None
        from agent_core.channel.token_provider import AgenticIdentity

        recipient, tenant_id = activity.recipient, activity.agentic_tenant_id
        is_user = recipient.has_role(RoleTypes.agentic_user)
        user_id = recipient.agentic_user_id if is_user else None
        if not tenant_id or not recipient.agentic_app_id or (is_user and not user_id):
            # The token of the bot would be another's.
            raise NotSupported(
                "The agent is addressed as an agentic identity, and the activity does not say which: its recipient "
                "needs 'tenantId', 'agenticAppId' and, for a user, 'agenticUserId'"
            )
        return AgenticIdentity(tenant_id, recipient.agentic_app_id, user_id, self._connector().cloud.agentic_scope)

    def _connector_at(
        self,
        service_url: str | None,
        identity: ClaimsIdentity,
        conversation_id: str | None = None,
        agentic: AgenticIdentity | None = None,
    ) -> Connector:
        from agent_core.channel.connector import Connector
        from agent_core.channel.connector_client import ConnectorService

        guard, client = self._guard(), self._connector()
        url = guard.check_service_url(service_url, identity)
        caller = identity.calling_agent
        if caller is not None and agentic is None:
            # A parent takes tokens that are made for it, and is told which of its conversations is meant.
            headers = {"x-ms-conversation-id": quote(conversation_id, safe=SHOWN)} if conversation_id else {}
            return Connector(client, ConnectorService(url, f"{caller}/.default", headers))
        if self._identity().app_id is not None and not identity.service_url_verified:
            raise NotAllowed(
                "This conversation's serviceUrl was never in a validated token, so the agent's token cannot go there; "
                "it is verified when the user next writes",
                code="ServiceUrlNotVerified",
            )
        scope = agentic or client.cloud.connector_scope
        return Connector(
            client, ConnectorService(url, scope, check_url=partial(guard.check_service_url, identity=identity))
        )


class ReplyBuffer:
    """Collects what a turn says instead of sending it, for a caller that takes the replies in the HTTP answer."""

    def __init__(self, adapter: CloudAdapter) -> None:
        self.activities: list[Activity] = []
        self._adapter = adapter

    async def send_activities(self, context: TurnContext, activities: Sequence[Activity]) -> list[ResourceResponse]:
        self.activities += [each for each in activities if not _stays_here(each, context)]
        return [ResourceResponse() for _ in activities]

    async def update_activity(self, context: TurnContext, activity: Activity) -> ResourceResponse:
        raise NotSupported("The caller takes all replies at once (expectReplies): there is nothing to edit yet")

    async def delete_activity(self, context: TurnContext, activity_id: str) -> None:
        raise NotSupported("The caller takes all replies at once (expectReplies): there is nothing to delete yet")

    async def get_member(self, context: TurnContext, user_id: str) -> ChannelAccount:
        return await self._adapter.get_member(context, user_id)

    def get_paged_members(self, context: TurnContext, page_size: int | None = None) -> AsyncIterator[ChannelAccount]:
        return self._adapter.get_paged_members(context, page_size)


def _activity(request: HttpRequest) -> Activity:
    """The activity of a request; BadActivity says what is wrong with it."""
    if request.method.upper() != "POST":
        raise BadActivity("Send activities with POST", code="MethodNotAllowed", status=405)
    if len(request.body) > MAX_BODY:
        raise BadActivity(
            f"The body has {len(request.body)} bytes; at most {MAX_BODY} are allowed", code="TooLarge", status=413
        )
    # A form post is what a web page can send without asking; JSON is not.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise BadActivity("Send Content-Type: application/json", code="NotJson", status=415)
    # A caller's id is what its token says, never what its activity says (A2251).
    activity = Activity.from_json(request.body).replace(caller_id=None)
    _check_complete(activity)
    if activity.delivery_mode == "stream":
        raise BadActivity("Delivery mode 'stream' is not served here; use 'normal'", code="StreamNotSupported")
    return activity


def _check_complete(activity: Activity) -> None:
    if not activity.type:
        raise BadActivity("An activity needs a 'type' (A2010)", code="MissingType")
    if not activity.conversation_id:
        raise BadActivity("An activity needs a 'conversation' with an 'id' (A2080)", code="MissingConversation")
    if not activity.channel_id:
        raise BadActivity("An activity needs a 'channelId' (A2020)", code="MissingChannel")
    if activity.from_property is None or not activity.from_property.id:
        raise BadActivity("An activity needs a 'from' with an 'id' (A2060)", code="MissingFrom")
    ids = {
        "conversation.id": activity.conversation_id,
        "channelId": activity.channel_id,
        "from.id": activity.from_property.id,
        "id": activity.id or "-",
    }
    for name, value in ids.items():
        # They name documents and stand in URLs.
        if not is_storable(value):
            raise BadActivity(f"{name!r} must be at most {MAX_NAME} characters of Unicode text", code="BadId")
    if activity.type in NAMED_TYPES and not activity.name:
        raise BadActivity(f"An activity of type {activity.type!r} needs a 'name'", code="MissingName")


def _conversation_id(context: TurnContext) -> str:
    """The id in the URLs of this turn's conversation: that of an agentic one is cut and cleaned, as the SDKs do."""
    activity = context.activity
    if activity.channel == "agents" and activity.is_agentic:
        return re.sub(r"[/\\#?]", "_", activity.conversation_id[:MAX_AGENTIC_ID])
    return activity.conversation_id


def _stays_here(activity: Activity, context: TurnContext) -> bool:
    """Traces are for the emulator, and an invoke's answer travels in the HTTP response."""
    if activity.type == "trace":
        return context.activity.channel_id != "emulator"
    return activity.type == "invokeResponse"


def _waits(activity: Activity) -> bool:
    """Whether the caller takes the answer from the HTTP response."""
    return activity.delivery_mode == "expectReplies" or activity.type == "invoke"


def _answer(context: TurnContext, replies: ReplyBuffer | None) -> Answer:
    status, body = 202, None
    if context.activity.type == "invoke":
        response = context.invoke_response
        if response is None:
            return Answer(501, _error_body("NotImplemented", "No handler answers this invoke"))
        status, body = response.status or 200, response.body
    if replies is None:
        return Answer(status, body)
    collected: dict[str, Any] = {"activities": [each.to_dict() for each in replies.activities]}
    if body is not None:
        collected["body"] = body
    return Answer(200 if status == 202 else status, collected)


def _failure(status: int, code: str, message: str) -> Answer:
    return Answer(status, _error_body(code, message), failed=True)


def _error_body(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def _json(status: int, body: Any, headers: Mapping[str, str] | None = None) -> HttpResponse:
    return HttpResponse(status, dump(body), {"content-type": "application/json; charset=utf-8", **(headers or {})})


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> HttpResponse:
    return _json(status, _error_body(code, message), headers)
