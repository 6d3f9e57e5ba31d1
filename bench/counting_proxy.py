"""A proxy before a Cosmos DB server that counts what a client asks of it; standard library and aiohttp only.

It runs in the interpreter of whoever is measured, beside the packages of the SDK too, so it imports nothing of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession, web
from yarl import URL

# So long each request is held up, so that those which a client sends at once also overlap here.
_DELAY_SECONDS = 0.005
_OF_ONE_CONNECTION = {"connection", "content-length", "transfer-encoding"}


@dataclass
class Traffic:
    """What went through since `start`.

    Attributes:
        url: the proxy's address, in place of the server's.
        requests: how many there were.
        round_trips: the longest chain of requests of which each began after the one before was answered.
        sent, received: bytes of HTTP, start lines, headers and bodies.
    """

    url: str = ""
    requests: int = 0
    round_trips: int = 0
    sent: int = 0
    received: int = 0
    _answered: int = field(default=0, repr=False)

    def start(self) -> None:
        """Count from nothing."""
        self.requests = self.round_trips = self.sent = self.received = self._answered = 0

    def begin(self) -> int:
        """A request begins; returns its place in the longest chain that it continues."""
        self.requests += 1
        place = self._answered + 1
        self.round_trips = max(self.round_trips, place)
        return place

    def end(self, place: int) -> None:
        """The request with that place is answered."""
        self._answered = max(self._answered, place)

    def figures(self) -> dict[str, int]:
        """The counts by name."""
        return {
            "round trips": self.round_trips,
            "requests": self.requests,
            "bytes sent": self.sent,
            "bytes received": self.received,
        }


@asynccontextmanager
async def counting_proxy(server: str) -> AsyncIterator[Traffic]:
    """Stand before the server, given as `http://host:port/`, on a free port of this machine."""
    traffic = Traffic()
    session = ClientSession(auto_decompress=False)

    async def forward(request: web.Request) -> web.Response:
        place = traffic.begin()
        body = await request.read()
        traffic.sent += (
            len(f"{request.method} {request.raw_path} HTTP/1.1\r\n") + _size(request.raw_headers) + len(body)
        )
        await asyncio.sleep(_DELAY_SECONDS)
        target = URL(server.rstrip("/") + request.raw_path, encoded=True)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _OF_ONE_CONNECTION]
        async with session.request(request.method, target, headers=headers, data=body or None) as answer:
            received = await answer.read()
            traffic.received += len(f"HTTP/1.1 {answer.status} \r\n") + _size(answer.raw_headers) + len(received)
            kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in _OF_ONE_CONNECTION]
        if request.raw_path == "/":
            # The account tells where to go; that is here.
            received = received.replace(server.encode(), traffic.url.encode())
        traffic.end(place)
        response = web.Response(status=answer.status, body=received)
        response.headers.clear()
        for name, value in kept:
            response.headers.add(name, value)
        return response

    app = web.Application(client_max_size=4 * 1024 * 1024)
    app.router.add_route("*", "/{rest:.*}", forward)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address: Any = runner.addresses[0]
    traffic.url = f"http://127.0.0.1:{address[1]}/"
    try:
        yield traffic
    finally:
        await runner.cleanup()
        await session.close()


def _size(headers: Iterable[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers) + 2
