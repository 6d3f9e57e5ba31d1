"""A real server on a real socket for the length of a test, and a channel service that notes what it is told."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from agent_core.channel.addresses import IPAddress


def anywhere(host: str, address: IPAddress) -> bool:
    """Lets an HttpClient connect to this machine, where the tests' servers are."""
    return True


@asynccontextmanager
async def serve(app: ASGIApp, **tls: str) -> AsyncIterator[str]:
    """Serve the app on a free port of this machine; gives its URL, without a slash at the end.

    Over TLS with `ssl_certfile` and `ssl_keyfile`.
    """
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # else asyncio leaves Nagle on
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        # Idle connections stay open for longer than our client keeps them, as with the services that it stands for: one
        # that closes as a request leaves on it makes that request's outcome unknown.
        config = uvicorn.Config(
            app,
            log_level="warning",
            lifespan="on",
            timeout_keep_alive=60,
            timeout_graceful_shutdown=1,
            **tls,  # type: ignore[arg-type]  # two of its many settings
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started:
            if serving.done():
                await serving
            await asyncio.sleep(0.005)
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            await serving


@dataclass
class ChannelCall:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    query: str = ""


@dataclass
class FakeChannel:
    """A connector service: notes every call, and answers as it is told, or as the Bot Service does."""

    calls: list[ChannelCall] = field(default_factory=list)
    answers: list[Callable[[], Response]] = field(default_factory=list)
    _called: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def texts(self) -> list[str]:
        """The texts of the messages that arrived, in order."""
        return [call.body["text"] for call in self.calls if isinstance(call.body, dict) and "text" in call.body]

    def app(self) -> Starlette:
        """The service as an ASGI app."""

        async def anything(request: Request) -> Response:
            body = await request.body()
            # The raw path: what counts is how ids were quoted.
            path, _, query = request.scope["raw_path"].decode().partition("?")
            query = query or request.scope["query_string"].decode()
            call = ChannelCall(request.method, path, dict(request.headers), json.loads(body) if body else None, query)
            async with self._called:
                self.calls.append(call)
                self._called.notify_all()
            if self.answers:
                return self.answers.pop(0)()
            return Response(json.dumps({"id": f"sent{len(self.calls)}"}), 201, media_type="application/json")

        methods = ["GET", "POST", "PUT", "DELETE"]
        return Starlette(routes=[Route("/{rest:path}", anything, methods=methods)])

    async def wait_for(self, count: int) -> None:
        """Return when that many calls have arrived."""
        async with self._called:
            await self._called.wait_for(lambda: len(self.calls) >= count)
