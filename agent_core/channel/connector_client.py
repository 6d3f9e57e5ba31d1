"""The Bot Connector's REST API: how what the agent says reaches the channel.

https://learn.microsoft.com/azure/bot-service/rest-api/bot-framework-rest-connector-api-reference
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from agent_core.activity.activity import Activity
from agent_core.activity.conversation_reference import (
    ChannelAccount,
    ConversationParameters,
    ConversationResourceResponse,
    ResourceResponse,
)
from agent_core.activity.json_text import dump
from agent_core.channel.http_client import HttpAnswer, HttpClient
from agent_core.channel.token_provider import TokenProvider
from agent_core.errors import ChannelError, Decision, NoAnswer, NotSent

# A conversation that the concurrent work on it makes refuse us (412) is free again soon.
BUSY_FOR = timedelta(seconds=1)
# No channel means more; a date that overflows would fail every delivery instead of putting it off.
LONGEST_WAIT = timedelta(days=1)

# https://learn.microsoft.com/microsoftteams/platform/bots/build-conversational-capability#status-code-retry-guidance
_BLOCKED = {
    "BotDisabledByAdmin",
    "BotNotInConversationRoster",
    "ConversationBlockedByUser",
    "ForbiddenOperationException",
    "MessageWritesBlocked",
}


class ConnectorClient:
    """Calls one connector service after another over one pool of connections.

    Nothing is repeated here: creating an activity takes no idempotency key, so whether a repeat may double a message
    is for the caller to decide, by the error's `decision`.
    """

    def __init__(self, http: HttpClient, tokens: TokenProvider | None, now: Callable[[], datetime]) -> None:
        """`tokens` is None in development without an app id; nothing is then sent that proves who we are."""
        self._http = http
        self._tokens = tokens
        self._now = now

    async def send_to_conversation(
        self, service_url: str, conversation_id: str, activity: Activity
    ) -> ResourceResponse:
        """POST a new activity; its id is None where the channel gives none. Raises ChannelError."""
        return ResourceResponse(
            id=_id(await self._call("POST", service_url, [conversation_id, "activities"], activity))
        )

    async def reply_to_activity(
        self, service_url: str, conversation_id: str, activity_id: str, activity: Activity
    ) -> ResourceResponse:
        """POST an answer to an activity. Raises ChannelError."""
        path = [conversation_id, "activities", activity_id]
        return ResourceResponse(id=_id(await self._call("POST", service_url, path, activity)))

    async def update_activity(
        self, service_url: str, conversation_id: str, activity_id: str, activity: Activity
    ) -> ResourceResponse:
        """PUT another version of an activity; may be repeated without harm. Raises ChannelError."""
        path = [conversation_id, "activities", activity_id]
        answer = await self._call("PUT", service_url, path, activity)
        return ResourceResponse(id=_id(answer) or activity_id)

    async def delete_activity(self, service_url: str, conversation_id: str, activity_id: str) -> None:
        """DELETE an activity; may be repeated without harm. Raises ChannelError."""
        await self._call("DELETE", service_url, [conversation_id, "activities", activity_id])

    async def create_conversation(
        self, service_url: str, parameters: ConversationParameters
    ) -> ConversationResourceResponse:
        """POST a new conversation. Raises ChannelError, also for an answer without the conversation's id."""
        answer = _object(await self._call("POST", service_url, [], parameters))
        if not isinstance(answer.get("id"), str) or not answer["id"]:
            raise ChannelError("The channel created a conversation and did not say its id", decision="ambiguous")
        texts = {key: value for key, value in answer.items() if isinstance(value, str)}
        return ConversationResourceResponse.from_dict(texts)

    async def get_conversation_members(self, service_url: str, conversation_id: str) -> list[ChannelAccount]:
        """GET who is in a conversation. Raises ChannelError."""
        answer = _parsed(await self._call("GET", service_url, [conversation_id, "members"]))
        found = answer if isinstance(answer, list) else []
        return [ChannelAccount.from_dict(each) for each in found if isinstance(each, dict)]

    async def _call(
        self,
        method: str,
        service_url: str,
        path: list[str],
        body: Activity | ConversationParameters | None = None,
    ) -> HttpAnswer:
        # Teams ids hold ':', '@' and ';', others anything: every one is a single, quoted segment of the path.
        url = "/".join([service_url + "v3/conversations", *(quote(part, safe="") for part in path)])
        headers = {"accept": "application/json"}
        if body is not None:
            headers["content-type"] = "application/json; charset=utf-8"
        if self._tokens is not None:
            headers["authorization"] = f"Bearer {await self._tokens.token()}"
        try:
            answer = await self._http.request(
                method, url, headers=headers, content=dump(body.to_dict()) if body is not None else None
            )
        except NotSent as error:
            raise ChannelError(f"The channel was not reached: {error}", decision="unsent") from error
        except NoAnswer as error:
            raise ChannelError(f"The channel did not answer: {error}", decision="ambiguous") from error
        if 200 <= answer.status < 300:
            return answer
        raise self._error(answer)

    def _error(self, answer: HttpAnswer) -> ChannelError:
        code, sub_code, said = _error_of(answer)
        details = f" ({code}{'/' + sub_code if sub_code else ''})" if code else ""
        return ChannelError(
            f"The channel answered {answer.status}{details}{': ' + said if said else ''}",
            decision=_decision(answer.status, code, sub_code),
            status=answer.status,
            code=code,
            sub_code=sub_code,
            said=said,
            retry_after=BUSY_FOR if answer.status == 412 else self._retry_after(answer.headers),
            request_id=answer.headers.get("x-ms-request-id") or answer.headers.get("ms-cv"),
        )

    def _retry_after(self, headers: Mapping[str, str]) -> timedelta | None:
        """Seconds, decimals of seconds, or a date (RFC 9110, section 10.2.3); nonsense counts as absent."""
        text = headers.get("retry-after", "").strip()
        if not text:
            return None
        try:
            if re.fullmatch(r"-?\d+(\.\d+)?", text):
                return min(LONGEST_WAIT, timedelta(seconds=max(0.0, float(text))))
            date = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return min(LONGEST_WAIT, max(timedelta(0), date - self._now()))


def _decision(status: int, code: str | None, sub_code: str | None) -> Decision:
    if status in (412, 429):
        return "throttled"
    if status == 401:
        return "misconfigured"
    if status == 403 and (code in _BLOCKED or sub_code in _BLOCKED):
        return "blocked"
    if status in (404, 410):
        return "gone"
    # It may have been done: the documentation says to repeat these, and users of bots that did got messages twice.
    if status == 408 or status >= 500:
        return "ambiguous"
    return "rejected"


def _parsed(answer: HttpAnswer) -> Any:
    """The JSON of an answer; None for an empty body (Teams is known for it) and for HTML of a gateway."""
    try:
        return json.loads(answer.body) if answer.body else None
    except ValueError:
        return None


def _object(answer: HttpAnswer) -> dict[str, Any]:
    parsed = _parsed(answer)
    return parsed if isinstance(parsed, dict) else {}


def _id(answer: HttpAnswer) -> str | None:
    found = _object(answer).get("id")
    return found if isinstance(found, str) and found else None


def _error_of(answer: HttpAnswer) -> tuple[str | None, str | None, str | None]:
    """Code, sub-code and message, from the shapes seen: `{"error": {…}}`, a bare string, `{"errorCode": 209, "message":
    "<JSON in a string>"}`, HTML, nothing."""
    parsed = _parsed(answer)
    if isinstance(parsed, str):
        return parsed[:100], None, None
    if not isinstance(parsed, dict):
        return None, None, None
    inner = parsed.get("error")
    error = inner if isinstance(inner, dict) else parsed
    message = error.get("message")
    nested: dict[str, Any] = {}
    if isinstance(message, str) and message.lstrip().startswith("{"):
        try:
            loaded = json.loads(message)
            nested = loaded if isinstance(loaded, dict) else {}
        except ValueError:
            pass
    code = error.get("code") or parsed.get("errorCode") or nested.get("errorCode")
    sub_code = error.get("subCode") or nested.get("subCode")
    said = nested.get("message") or (None if nested else message)
    return (
        str(code)[:100] if code else None,
        str(sub_code)[:100] if sub_code else None,
        str(said)[:200] if said else None,
    )
