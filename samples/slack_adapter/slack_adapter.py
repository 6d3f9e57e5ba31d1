"""A channel adapter of one's own: Slack's native Events and Web API, without the Bot Service in between.

An adapter does two things. It turns what its channel sends into activities and runs their turns (`process_event`), and
it carries what the turns say back to the channel (the four methods of `ChannelAdapter`). Middleware, state, routing,
callbacks and notifications then work as on every other channel. https://docs.slack.dev/apis/events-api
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from agent_core import (
    Activity,
    ChannelAccount,
    ChannelAdapter,
    ClaimsIdentity,
    ConversationAccount,
    ConversationParameters,
    ResourceResponse,
    TurnContext,
)
from agent_core.activity.conversation_reference import ConversationResourceResponse
from agent_core.channel.http_client import HttpClient
from agent_core.errors import ChannelError, NoAnswer, NotAuthenticated, NotSent
from agent_core.turn.channel_adapter import Agent

API = "https://slack.com/api/"
# A signature older than this may be a recording: https://docs.slack.dev/authentication/verifying-requests-from-slack
FRESH = 300


class SlackAdapter(ChannelAdapter):
    """One Slack app: `bot_token` (xoxb-…) speaks, `signing_secret` proves that Slack does."""

    def __init__(
        self, http: HttpClient, *, bot_token: str, signing_secret: str, now: Callable[[], datetime], api: str = API
    ) -> None:
        super().__init__(now)
        self._http = http
        self._headers = {"authorization": f"Bearer {bot_token}", "content-type": "application/json; charset=utf-8"}
        self._signing_secret = signing_secret.encode()
        self._api = api

    async def process_event(self, headers: Mapping[str, str], body: bytes, agent: Agent) -> dict[str, Any]:
        """Answer one request of Slack's Events API with the JSON returned; header names are lower-case.

        Raises:
            NotAuthenticated: the request is not Slack's; answer 401.
        """
        self._check_signature(headers, body)
        request = json.loads(body)
        if request.get("type") == "url_verification":
            return {"challenge": request["challenge"]}
        event = request.get("event", {})
        # Slack hears its own messages too: an agent that answers itself never stops.
        if event.get("type") in ("message", "app_mention") and not event.get("bot_id") and not event.get("subtype"):
            # Slack waits three seconds and then sends again: what it repeats is dropped.
            await self.receive(_activity(request), ClaimsIdentity(service_url_verified=True), agent)
        return {}

    def own_identity(self) -> ClaimsIdentity:
        return ClaimsIdentity(service_url_verified=True)

    async def send_activities(self, context: TurnContext, activities: Sequence[Activity]) -> list[ResourceResponse]:
        responses = []
        for activity in activities:
            if activity.type != "message":
                responses.append(ResourceResponse())  # Slack's Web API shows no typing
                continue
            channel, _, thread = context.activity.conversation_id.partition("/")
            said = {"channel": channel, "text": activity.text or "", **({"thread_ts": thread} if thread else {})}
            responses.append(ResourceResponse(id=(await self._call("chat.postMessage", said))["ts"]))
        return responses

    async def update_activity(self, context: TurnContext, activity: Activity) -> ResourceResponse:
        channel = context.activity.conversation_id.partition("/")[0]
        await self._call("chat.update", {"channel": channel, "ts": activity.id, "text": activity.text or ""})
        return ResourceResponse(id=activity.id)

    async def delete_activity(self, context: TurnContext, activity_id: str) -> None:
        channel = context.activity.conversation_id.partition("/")[0]
        await self._call("chat.delete", {"channel": channel, "ts": activity_id})

    async def create_conversation(
        self, service_url: str, parameters: ConversationParameters, identity: ClaimsIdentity
    ) -> ConversationResourceResponse:
        users = ",".join(member.id or "" for member in parameters.members)
        opened = await self._call("conversations.open", {"users": users})
        return ConversationResourceResponse(id=opened["channel"]["id"])

    async def _call(self, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call the Web API; Slack says in the body whether it did what it was asked."""
        try:
            answer = await self._http.request(
                "POST", self._api + quote(method), headers=self._headers, content=json.dumps(arguments).encode()
            )
        except NotSent as error:
            raise ChannelError(f"Slack was not reached: {error}", decision="unsent") from error
        except NoAnswer as error:
            raise ChannelError(f"Slack did not answer: {error}", decision="ambiguous") from error
        if answer.status == 429:
            raise ChannelError("Slack throttles", decision="throttled", status=429)
        if answer.status >= 500:
            raise ChannelError(f"Slack answered {answer.status}", decision="ambiguous", status=answer.status)
        said: dict[str, Any] = json.loads(answer.body)
        if not said.get("ok"):
            code = str(said.get("error"))
            gone = code in ("channel_not_found", "message_not_found", "is_archived")
            raise ChannelError(f"Slack refused {method} ({code})", decision="gone" if gone else "rejected", code=code)
        return said

    def _check_signature(self, headers: Mapping[str, str], body: bytes) -> None:
        sent_at, signature = headers.get("x-slack-request-timestamp", ""), headers.get("x-slack-signature", "")
        signed = b"v0:" + sent_at.encode() + b":" + body
        expected = "v0=" + hmac.new(self._signing_secret, signed, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise NotAuthenticated("The request is not signed with the app's signing secret", code="BadSignature")
        if abs(self.now().timestamp() - int(sent_at)) > FRESH:
            raise NotAuthenticated("The request's signature is too old", code="OldSignature")


def _activity(request: dict[str, Any]) -> Activity:
    event = request["event"]
    # A thread is a conversation of its own, so that an answer lands where the question was.
    place = "/".join(part for part in (event["channel"], event.get("thread_ts")) if part)
    return Activity(
        type="message",
        id=event.get("client_msg_id") or request["event_id"],
        channel_id="slack",
        service_url=API,
        conversation=ConversationAccount(id=place, is_group=event.get("channel_type") != "im"),
        from_property=ChannelAccount(id=event["user"]),
        recipient=ChannelAccount(id=request.get("api_app_id", "")),
        text=event.get("text", ""),
        channel_data=request,
    )
