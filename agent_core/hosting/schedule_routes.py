"""Schedules over HTTP: read, answered and refused as JSON. The function key of the request lets its caller do all."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import azure.functions as func

from agent_core.activity.json_text import JsonObject, dump, parse_object
from agent_core.channel.cloud_adapter import FORWARDED
from agent_core.channel.url_guard import is_loopback
from agent_core.errors import (
    AgentError,
    BadActivity,
    ContinuationNotFound,
    ConversationAmbiguous,
    ConversationNotFound,
    InvalidSchedule,
    NotAuthenticated,
    QueueUnavailable,
    ScheduleConflict,
    ScheduleNotFound,
    SettingsError,
    StoreError,
)
from agent_core.hosting.functions_host import FunctionsHost

if TYPE_CHECKING:  # loaded with the first request, so that a cold start is spared it
    from agent_core.proactive.schedule_requests import ScheduleRequests

logger = logging.getLogger(__name__)

# More than the largest schedule, and less than what is a burden to read.
MAX_BODY = 256 * 1024
_DEPTH = 60
# Parameters of every request to a function: its key, and whose key it is.
_KEYS = ("code", "clientId")

Handler = Callable[[func.HttpRequest], Awaitable[func.HttpResponse]]


def schedule_routes(blueprint: func.Blueprint, host: FunctionsHost) -> None:
    """Add the routes of schedules. Each needs a function key; in development, where nobody checks keys, this machine's
    own address."""

    def requests() -> ScheduleRequests:
        from agent_core.proactive.schedule_requests import ScheduleRequests

        return ScheduleRequests(host.notifications)

    def guarded(handler: Handler) -> Handler:
        @wraps(handler)
        async def answer(req: func.HttpRequest) -> func.HttpResponse:
            try:
                _check_caller(req, host)
                return await handler(req)
            except AgentError as error:
                return _refusal(error)

        return answer

    level = func.AuthLevel.FUNCTION

    @blueprint.route("schedules", methods=["GET", "POST"], auth_level=level)
    @guarded
    async def schedules(req: func.HttpRequest) -> func.HttpResponse:
        """List those that match, or make one."""
        if req.method == "GET":
            query = {name: value for name, value in req.params.items() if name not in _KEYS}
            return _json(200, await requests().page(query))
        made = await requests().create(_body(req))
        # Without the query, in which the caller's key may be.
        path = urlsplit(req.url).path.rstrip("/")
        return _json(201, made, {"location": f"{path}/{made['id']}"})

    @blueprint.route("schedules/{id}", methods=["GET", "PATCH", "DELETE"], auth_level=level)
    @guarded
    async def schedule(req: func.HttpRequest) -> func.HttpResponse:
        """Show one, change it, or cancel it."""
        known, schedule_id = requests(), _id(req)
        if req.method == "GET":
            return _json(200, await known.get(schedule_id))
        if req.method == "PATCH":
            return _json(200, await known.change(schedule_id, _body(req)))
        return _json(200, await known.cancel(schedule_id))

    @blueprint.route("schedules/preview", methods=["POST"], auth_level=level)
    @guarded
    async def schedule_preview(req: func.HttpRequest) -> func.HttpResponse:
        """The occurrences of one that is not stored."""
        return _json(200, await requests().preview(_body(req)))

    @blueprint.route("schedules/{id}/occurrences", methods=["GET"], auth_level=level)
    @guarded
    async def schedule_occurrences(req: func.HttpRequest) -> func.HttpResponse:
        """The next occurrences of one."""
        return _json(200, await requests().occurrences(_id(req), req.params.get("limit")))

    @blueprint.route("schedules/{id}/pause", methods=["POST"], auth_level=level)
    @guarded
    async def schedule_pause(req: func.HttpRequest) -> func.HttpResponse:
        """Stop one until it is resumed."""
        return _json(200, await requests().pause(_id(req)))

    @blueprint.route("schedules/{id}/resume", methods=["POST"], auth_level=level)
    @guarded
    async def schedule_resume(req: func.HttpRequest) -> func.HttpResponse:
        """Go on with one."""
        return _json(200, await requests().resume(_id(req)))


def _check_caller(request: func.HttpRequest, host: FunctionsHost) -> None:
    if not host.services.settings.development:
        return  # the Functions host has checked the key
    # The name in the URL is checked too, or any web page could come in by a name of its own that resolves to this
    # machine.
    if not is_loopback(request.url) or any(name in request.headers for name in FORWARDED):
        raise NotAuthenticated(
            "A development process checks no function keys, so it answers on this machine's own address only; open it "
            "as localhost",
            code="NotLoopback",
        )


def _body(request: func.HttpRequest) -> JsonObject:
    # A form post is what a web page can send without asking; JSON is not.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise BadActivity("Send Content-Type: application/json", code="NotJson", status=415)
    body = request.get_body()
    if len(body) > MAX_BODY:
        raise BadActivity(f"The body has {len(body):,} bytes; {MAX_BODY:,} are allowed", code="TooLarge", status=413)
    return parse_object(body, _DEPTH)


def _id(request: func.HttpRequest) -> str:
    return str(request.route_params["id"])


def _refusal(error: AgentError) -> func.HttpResponse:
    """What an error means over HTTP; raises those that are no answer."""
    if isinstance(error, InvalidSchedule):
        return _error(400, "InvalidSchedule", error, field=error.field)
    if isinstance(error, BadActivity):
        return _error(error.status, error.code, error)
    if isinstance(error, NotAuthenticated):
        return _error(401, error.code, error)
    if isinstance(error, ScheduleConflict):
        return _error(409, error.code, error)
    if isinstance(error, ConversationAmbiguous):
        return _error(409, "ConversationAmbiguous", error)
    if isinstance(error, ScheduleNotFound | ConversationNotFound | ContinuationNotFound):
        return _error(404, type(error).__name__, error)
    if isinstance(error, StoreError | QueueUnavailable):
        logger.error("A request about schedules could not be done: %s", error)
        said = "The agent cannot work right now; try again. A schedule that has an 'id' is not made twice by that."
        return _error(503, "Unavailable", said, headers={"retry-after": "5"})
    if isinstance(error, SettingsError):
        logger.error("The agent is not set up: %s", error)
        return _error(500, "NotConfigured", error)
    raise error


def _error(
    status: int, code: str, message: object, *, headers: dict[str, str] | None = None, **more: str
) -> func.HttpResponse:
    return _json(status, {"error": {"code": code, **more, "message": str(message)}}, headers)


def _json(status: int, body: Any, headers: dict[str, str] | None = None) -> func.HttpResponse:
    return func.HttpResponse(dump(body), status_code=status, headers=headers, mimetype="application/json")
