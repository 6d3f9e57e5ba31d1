"""Takes activities from channels over HTTP, runs their turns, and sends what the turns say through the connector."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from agent_core.activity.activity import Activity
from agent_core.activity.conversation_reference import (
    ConversationParameters,
    ConversationResourceResponse,
    ResourceResponse,
)
from agent_core.activity.json_text import dump
from agent_core.channel.url_guard import UrlGuard, is_loopback
from agent_core.errors import (
    BadActivity,
    KeysUnavailable,
    NotAllowed,
    NotAuthenticated,
    NotSupported,
    QueueUnavailable,
    SettingsError,
    StoreError,
)
from agent_core.store.document_store import MAX_NAME, is_storable
from agent_core.turn.channel_adapter import Agent, ChannelAdapter
from agent_core.turn.claims_identity import ClaimsIdentity
from agent_core.turn.turn_context import TurnContext

if TYPE_CHECKING:  # loaded with the first request, so that a cold start is spared them
    from agent_core.channel.connector_client import ConnectorClient
    from agent_core.channel.token_validator import TokenValidator

logger = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024
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
    ) -> None:
        super().__init__(now, sleep)
        self._identity = identity
        self._connector = connector
        self._guard = guard

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
                self._guard().check_service_url(activity.service_url)
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
        expects_replies = activity.delivery_mode == "expectReplies"
        replies = ReplyBuffer()
        context = TurnContext(
            replies if expects_replies else self,
            activity,
            now=self.now(),
            callbacks=agent.callbacks,
            identity=identity,
            runtime=self,
        )
        waits = expects_replies or activity.type == "invoke"
        try:
            if not waits and await agent.defer(activity, identity):
                return HttpResponse(202)
            await self.run_turn(context, agent.on_turn, agent.on_turn_error)
        except SettingsError as error:
            logger.error("The agent is not set up: %s", error)
            return _error(500, "NotConfigured", str(error))
        except BadActivity as error:
            # What a handler finds wrong with the value of an invoke is the caller's to know, and no failure of ours.
            logger.info("A handler refused activity %r: %s", activity.id, error)
            return _error(error.status, error.code, str(error)) if waits else HttpResponse(202)
        except Exception as error:
            logger.exception("The turn of activity %r failed", activity.id)
            if isinstance(error, (StoreError, QueueUnavailable)) and not context.responded:
                return _error(503, "Unavailable", "The agent cannot work right now; try again", {"retry-after": "5"})
            return (
                _error(500, "TurnFailed", "The turn failed; the agent's log says why") if waits else HttpResponse(202)
            )
        return _answer(context, replies if expects_replies else None)

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

    async def send_activities(self, context: TurnContext, activities: Sequence[Activity]) -> list[ResourceResponse]:
        service_url = self._service_url(context)
        conversation_id = context.activity.conversation_id
        responses = []
        # One after the other: channels do not keep the order of requests that overlap.
        for activity in activities:
            if _stays_here(activity, context):
                responses.append(ResourceResponse())
            elif activity.reply_to_id:
                responses.append(
                    await self._connector().reply_to_activity(
                        service_url, conversation_id, activity.reply_to_id, activity
                    )
                )
            else:
                responses.append(await self._connector().send_to_conversation(service_url, conversation_id, activity))
        return responses

    async def update_activity(self, context: TurnContext, activity: Activity) -> ResourceResponse:
        return await self._connector().update_activity(
            self._service_url(context), context.activity.conversation_id, activity.id or "", activity
        )

    async def delete_activity(self, context: TurnContext, activity_id: str) -> None:
        await self._connector().delete_activity(
            self._service_url(context), context.activity.conversation_id, activity_id
        )

    async def create_conversation(
        self, service_url: str, parameters: ConversationParameters, identity: ClaimsIdentity
    ) -> ConversationResourceResponse:
        return await self._connector().create_conversation(self._guard().check_service_url(service_url), parameters)

    def _service_url(self, context: TurnContext) -> str:
        """Where this turn's answers go: asked again for every send, because what is stored may be old or foreign."""
        url = self._guard().check_service_url(context.activity.service_url)
        if self._identity().app_id is not None and not context.identity.service_url_verified:
            raise NotAllowed(
                "This conversation's serviceUrl was never in a validated token, so the agent's token cannot go there; "
                "it is verified when the user next writes",
                code="ServiceUrlNotVerified",
            )
        return url


class ReplyBuffer:
    """Collects what a turn says instead of sending it, for a caller that takes the replies in the HTTP answer."""

    def __init__(self) -> None:
        self.activities: list[Activity] = []

    async def send_activities(self, context: TurnContext, activities: Sequence[Activity]) -> list[ResourceResponse]:
        self.activities += [each for each in activities if not _stays_here(each, context)]
        return [ResourceResponse() for _ in activities]

    async def update_activity(self, context: TurnContext, activity: Activity) -> ResourceResponse:
        raise NotSupported("The caller takes all replies at once (expectReplies): there is nothing to edit yet")

    async def delete_activity(self, context: TurnContext, activity_id: str) -> None:
        raise NotSupported("The caller takes all replies at once (expectReplies): there is nothing to delete yet")


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


def _stays_here(activity: Activity, context: TurnContext) -> bool:
    """Traces are for the emulator, and an invoke's answer travels in the HTTP response."""
    if activity.type == "trace":
        return context.activity.channel_id != "emulator"
    return activity.type == "invokeResponse"


def _answer(context: TurnContext, replies: ReplyBuffer | None) -> HttpResponse:
    status, body = 202, None
    if context.activity.type == "invoke":
        response = context.invoke_response
        if response is None:
            return _error(501, "NotImplemented", "No handler answers this invoke")
        status, body = response.status or 200, response.body
    if replies is None:
        return _json(status, body) if body is not None else HttpResponse(status)
    collected: dict[str, Any] = {"activities": [each.to_dict() for each in replies.activities]}
    if body is not None:
        collected["body"] = body
    return _json(200 if status == 202 else status, collected)


def _json(status: int, body: Any, headers: Mapping[str, str] | None = None) -> HttpResponse:
    return HttpResponse(status, dump(body), {"content-type": "application/json; charset=utf-8", **(headers or {})})


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> HttpResponse:
    return _json(status, {"error": {"code": code, "message": message}}, headers)
