"""What an answer of the Bot Connector means: its body in all the shapes seen, and the decision that an error calls for.

https://learn.microsoft.com/microsoftteams/platform/bots/build-conversational-capability#status-code-retry-guidance
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

from agent_core.channel.http_client import HttpAnswer
from agent_core.channel.retries import retry_after
from agent_core.errors import ChannelError, Decision

# A conversation that the concurrent work on it makes refuse us (412) is free again soon.
BUSY_FOR = timedelta(seconds=1)
# The conversation is in another Microsoft cloud, and the answer names the host to call.
WRONG_HOST = "InvalidBotApiHost"
# One word; the channel has one code of two.
_CODE = re.compile(r"[A-Za-z0-9_.]{1,60}|Bad Argument")

_BLOCKED = {
    "BotDisabledByAdmin",
    "BotNotInConversationRoster",
    "ConversationBlockedByUser",
    "ForbiddenOperationException",
    "MessageWritesBlocked",
}


def channel_error(answer: HttpAnswer, now: datetime, attempt: int = 1) -> ChannelError:
    """The error for an answer that is no success; `attempt` says how often the same was tried by now.

    Its message has the channel's codes and never the channel's words, which may repeat what was sent: messages go into
    logs and dead letters.
    """
    code, sub_code, said = _error_of(answer)
    details = f" ({code}{'/' + sub_code if sub_code else ''})" if code else ""
    asked = retry_after(answer.headers, now)
    if answer.status == 412 and asked is None:
        asked = BUSY_FOR * 2 ** (attempt - 1)
    return ChannelError(
        f"The channel answered {answer.status}{details}{_hint(answer.status, code)}",
        decision=_decision(answer.status, code, sub_code),
        status=answer.status,
        code=code,
        sub_code=sub_code,
        said=said,
        retry_after=asked,
        request_id=answer.headers.get("x-ms-request-id") or answer.headers.get("ms-cv"),
    )


def parsed(answer: HttpAnswer) -> Any:
    """The JSON of an answer; None for an empty body (Teams is known for it) and for HTML of a gateway."""
    try:
        return json.loads(answer.body) if answer.body else None
    except (ValueError, RecursionError):
        return None


def json_object(answer: HttpAnswer) -> dict[str, Any]:
    """The JSON object of an answer; an empty one if it is anything else."""
    found = parsed(answer)
    return found if isinstance(found, dict) else {}


def json_list(answer: HttpAnswer) -> list[Any]:
    """The JSON array of an answer; an empty one if it is anything else."""
    found = parsed(answer)
    return found if isinstance(found, list) else []


def id_of(answer: HttpAnswer) -> str | None:
    """The `id` in an answer; None where there is none."""
    found = json_object(answer).get("id")
    return found if isinstance(found, str) and found else None


def named_host(error: ChannelError) -> str | None:
    """The host that an `InvalidBotApiHost` tells us to call."""
    found = re.search(r"https://([a-z0-9.-]+)", error.said or "", re.IGNORECASE)
    return found[1].rstrip(".") if found else None


def _decision(status: int, code: str | None, sub_code: str | None) -> Decision:
    if status in (412, 429):
        return "throttled"
    # A redirect is not followed: the token would go with it.
    if status == 401 or code == WRONG_HOST or 300 <= status < 400:
        return "misconfigured"
    if status == 403 and (code in _BLOCKED or sub_code in _BLOCKED):
        return "blocked"
    if status in (404, 410):
        return "gone"
    # It may have been done: the documentation says to repeat these, and users of bots that did got messages twice.
    if status == 408 or status >= 500:
        return "ambiguous"
    return "rejected"


def _hint(status: int, code: str | None) -> str:
    """What to do about it, where the channel's own words do not say."""
    if status == 401:
        return ". Check that the app id, its tenant and its credentials are those of the Azure Bot"
    if code == WRONG_HOST:
        return ". The conversation is in another Microsoft cloud: check AGENT_CLOUD"
    if 300 <= status < 400:
        return ". Redirects are not followed, because the agent's token would go along: check the serviceUrl"
    return ""


def _error_of(answer: HttpAnswer) -> tuple[str | None, str | None, str | None]:
    """Code, sub-code and message, from the shapes seen: `{"error": {…}}`, with the true one in its
    `innerHttpError.body` at times, a bare string, `{"errorCode": 209, "message": "<JSON in a string>"}`, HTML, nothing.
    """
    body = parsed(answer)
    if isinstance(body, str):
        return _code(body), None, body[:200]
    if not isinstance(body, dict):
        return None, None, None
    error = body["error"] if isinstance(body.get("error"), dict) else body
    message = error.get("message")
    nested = _nested(message)
    inner = error.get("innerHttpError")
    inner = _nested(inner.get("body")) if isinstance(inner, dict) else {}
    inner = inner["error"] if isinstance(inner.get("error"), dict) else inner
    code = error.get("code") or body.get("errorCode") or nested.get("errorCode") or inner.get("code")
    sub_code = error.get("subCode") or nested.get("subCode") or inner.get("subCode") or inner.get("code")
    said = nested.get("message") or (None if nested else message) or inner.get("message")
    sub_code = None if sub_code == code else sub_code
    return (
        _code(code),
        _code(sub_code),
        str(said)[:200] if said else None,
    )


def _code(value: Any) -> str | None:
    """What is a word or a number; anything else could be a sentence, or worse."""
    return text if value and _CODE.fullmatch(text := str(value)) else None


def _nested(value: Any) -> dict[str, Any]:
    """A JSON object that may be written into a string."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}
