"""HTTP triggers: an ASGI app that answers requests with the app's functions, as the Functions host does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from azure.functions.http import HttpRequest, HttpResponseConverter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agent_core.local.bindings import HttpFunction
from agent_core.local.invoker import Invoker
from agent_core.local.route_template import RouteTemplate

logger = logging.getLogger(__name__)

# https://learn.microsoft.com/azure/azure-functions/functions-bindings-http-webhook-trigger#limits
MAX_BODY = 100 * 1024 * 1024

# These follow from the body that is sent.
_OWN_HEADERS = {"content-length", "transfer-encoding", "connection"}


class HttpTriggers:
    """Tries the functions in the order of their names; a request that none answers gets a 404, whatever its method."""

    def __init__(self, functions: Sequence[HttpFunction], invoker: Invoker, route_prefix: str) -> None:
        self._functions = [(RouteTemplate.parse(f"{route_prefix}/{each.route.text}"), each) for each in functions]
        self._invoker = invoker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = _path(request).removeprefix("/").removesuffix("/")
        for route, each in self._functions:
            values = route.match(path)
            if values is not None and (not each.methods or request.method in each.methods):
                return await self._call(each, request, values)
        return Response(status_code=404)

    async def _call(self, each: HttpFunction, request: Request, route_values: dict[str, str]) -> Response:
        body = await _body(request)
        if body is None:
            return Response(status_code=413)
        try:
            return _response(await self._invoker.call(each.function, _function_request(request, route_values, body)))
        except Exception:
            logger.exception("Function %s failed", each.function.name)
            return Response(status_code=500)
        except asyncio.CancelledError:
            # Only a server that stops cancels a request; letting this through would be logged as a failure.
            logger.warning("Function %s was cut short: the server stops", each.function.name)
            return Response(status_code=503)


def _path(request: Request) -> str:
    raw: bytes = request.scope["raw_path"]
    return raw.partition(b"?")[0].decode("ascii", errors="replace")


async def _body(request: Request) -> bytes | None:
    """The body, None if it is too large; nothing of one that was sent in chunks, which the host does not pass on.

    https://github.com/Azure/azure-functions-host/issues/4926
    """
    announced = request.headers.get("content-length")
    if announced is not None and int(announced) > MAX_BODY:
        return None
    body = bytearray()
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY:
            return None
        if announced is not None:
            body += chunk
    return bytes(body)


def _function_request(request: Request, route_values: dict[str, str], body: bytes) -> HttpRequest:
    url = request.url
    query = f"?{url.query}" if url.query else ""
    return HttpRequest(
        request.method,
        f"{url.scheme}://{url.netloc}{_path(request)}{query}",
        headers=_joined(request.headers.items()),
        params={name: value for name, value in _joined(request.query_params.multi_items()).items() if value},
        route_params=route_values,
        body_type="bytes",
        body=body,
    )


def _joined(items: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Values of one name joined by commas. Names differ in more than case; the first writing of one counts."""
    names: dict[str, str] = {}
    values: dict[str, str] = {}
    for name, value in items:
        known = names.setdefault(name.lower(), name)
        values[known] = f"{values[known]},{value}" if known in values else value
    return values


def _response(returned: object) -> Response:
    if returned is None:
        return Response(status_code=204)
    # What the worker makes of a function's answer; it raises for one that is neither text nor an HttpResponse.
    answer: Any = HttpResponseConverter.encode(returned, expected_type=None)
    if answer.type == "string":
        return Response(answer.value, media_type="text/plain")
    parts = answer.value
    response = Response(
        parts["body"].value,
        int(parts["status_code"].value),
        {name: value.value for name, value in parts["headers"].items() if name.lower() not in _OWN_HEADERS},
    )
    for cookie in (morsel for jar in parts["cookies"] or () for morsel in jar.values()):
        response.headers.append("set-cookie", cookie.OutputString())
    return response
