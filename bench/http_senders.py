"""The ways to send a POST that `http_transport` compares; each imports its library only when it is opened."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import ssl
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

Post = Callable[[str, bytes], Awaitable[int]]
Open = Callable[[ssl.SSLContext], Awaitable[tuple[Post, Callable[[], Awaitable[None]]]]]
_HEADERS = {"content-type": "application/json", "authorization": "Bearer " + "x" * 1200}


@dataclass(frozen=True)
class Sender:
    """One way to send; `needs` is a package that may be absent, `sniffio` whether that package is to be seen,
    `untimed` what is imported besides and no part of the comparison."""

    open: Open
    imports: tuple[str, ...]
    sniffio: bool = True
    needs: str | None = None
    untimed: str | None = None


def hide_sniffio() -> None:
    """Make `import sniffio` fail as it does where it is not installed: after a search of every path."""

    class Finder:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            if name == "sniffio":
                PathFinder.find_spec("sniffio_not_installed", path, target)
                return None
            return PathFinder.find_spec(name, path, target)

    sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
    sys.modules.pop("sniffio", None)


def _httpx_pools(count: int, *, room: int | None = None) -> Open:
    """`count` httpx clients: in turn, or (with `room`) the first that has fewer than `room` requests under way."""

    async def opened(context: ssl.SSLContext) -> tuple[Post, Callable[[], Awaitable[None]]]:
        import httpx

        limits = httpx.Limits(max_connections=100 // count + 1, max_keepalive_connections=100 // count + 1)
        clients = [httpx.AsyncClient(verify=context, trust_env=False, limits=limits) for _ in range(count)]
        turns = itertools.cycle(range(count))
        active = [0] * count

        async def post(url: str, body: bytes) -> int:
            if room is None:
                chosen = next(turns)
            else:
                chosen = next((i for i in range(count) if active[i] < room), active.index(min(active)))
            active[chosen] += 1
            try:
                return (await clients[chosen].post(url, content=body, headers=_HEADERS)).status_code
            finally:
                active[chosen] -= 1

        async def close() -> None:
            for client in clients:
                await client.aclose()

        return post, close

    return opened


async def _httpx_transport(context: ssl.SSLContext) -> tuple[Post, Callable[[], Awaitable[None]]]:
    """httpx's own transport without its client: no cookies, redirects, auth flow, log line."""
    import httpx

    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    transport = httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits)
    timeouts = {"timeout": {"connect": 3.0, "read": 10.0, "write": 10.0, "pool": 3.0}}

    async def post(url: str, body: bytes) -> int:
        request = httpx.Request("POST", url, headers=_HEADERS, content=body, extensions=timeouts)
        response = await transport.handle_async_request(request)
        try:
            await response.aread()
        finally:
            await response.aclose()
        return response.status_code

    return post, transport.aclose


async def _httpx_aiohttp(context: ssl.SSLContext) -> tuple[Post, Callable[[], Awaitable[None]]]:
    import httpx

    package = importlib.import_module("httpx_aiohttp")
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    transport = package.AiohttpTransport(verify=context, trust_env=False, limits=limits)
    client = httpx.AsyncClient(transport=transport, trust_env=False)

    async def post(url: str, body: bytes) -> int:
        return (await client.post(url, content=body, headers=_HEADERS)).status_code

    return post, client.aclose


async def _own_aiohttp(context: ssl.SSLContext) -> tuple[Post, Callable[[], Awaitable[None]]]:
    """A small transport of httpx over aiohttp, written by hand."""
    import aiohttp
    import httpx

    class Body(httpx.AsyncByteStream):
        def __init__(self, response: aiohttp.ClientResponse) -> None:
            self._response = response

        async def __aiter__(self) -> Any:
            async for chunk in self._response.content.iter_any():
                yield chunk

        async def aclose(self) -> None:
            self._response.release()

    class Transport(httpx.AsyncBaseTransport):
        def __init__(self) -> None:
            connector = aiohttp.TCPConnector(limit=100, ssl=context)
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            )

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await self._session.request(
                request.method,
                str(request.url),
                headers=request.headers,
                data=request.content,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(sock_connect=3, sock_read=10),
            )
            return httpx.Response(response.status, headers=response.raw_headers, stream=Body(response))

        async def aclose(self) -> None:
            await self._session.close()

    client = httpx.AsyncClient(transport=Transport(), trust_env=False)

    async def post(url: str, body: bytes) -> int:
        return (await client.post(url, content=body, headers=_HEADERS)).status_code

    return post, client.aclose


async def _aiohttp(context: ssl.SSLContext) -> tuple[Post, Callable[[], Awaitable[None]]]:
    import aiohttp

    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=100, ssl=context), cookie_jar=aiohttp.DummyCookieJar()
    )

    async def post(url: str, body: bytes) -> int:
        async with session.post(url, data=body, headers=_HEADERS, allow_redirects=False) as response:
            await response.read()
            return response.status

    return post, session.close


async def _http_client(context: ssl.SSLContext) -> tuple[Post, Callable[[], Awaitable[None]]]:
    """What the library uses."""
    from agent_core.channel.http_client import HttpClient

    client = HttpClient(ssl_context=context, allow_address=lambda host, address: True)

    async def post(url: str, body: bytes) -> int:
        return (await client.request("POST", url, headers=_HEADERS, content=body)).status

    return post, client.close


async def _httpcore_stack(context: ssl.SSLContext) -> tuple[Post, Callable[[], Awaitable[None]]]:
    """httpcore's connections (httpx's engine), kept on one stack per origin instead of in its pool."""
    import httpcore

    idle: dict[str, list[httpcore.AsyncHTTPConnection]] = defaultdict(list)
    room = asyncio.Semaphore(100)
    headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
    timeouts = {"timeout": {"connect": 3.0, "read": 10.0, "write": 10.0}}

    async def post(url: str, body: bytes) -> int:
        target = httpcore.URL(url)
        key = str(target.origin)
        async with room:
            connection = None
            while idle[key]:
                connection = idle[key].pop()
                if not connection.has_expired():
                    break
                await connection.aclose()
                connection = None
            if connection is None:
                connection = httpcore.AsyncHTTPConnection(target.origin, ssl_context=context, keepalive_expiry=5)
            host = b"%b:%d" % (target.host, target.port or 0)
            sent = [(b"Host", host), (b"Content-Length", b"%d" % len(body)), *headers]
            request = httpcore.Request("POST", target, headers=sent, content=body, extensions=timeouts)
            response = await connection.handle_async_request(request)
            try:
                await response.aread()
            finally:
                await response.aclose()
            if connection.is_idle():
                idle[key].append(connection)
            return response.status

    async def close() -> None:
        for connection in itertools.chain.from_iterable(idle.values()):
            await connection.aclose()

    return post, close


def _httpx_stack(*, client: bool) -> Open:
    """httpx over httpcore's connections on a stack per origin, with httpx's client on top or without."""

    async def opened(context: ssl.SSLContext) -> tuple[Post, Callable[[], Awaitable[None]]]:
        import httpcore
        import httpx

        class Body(httpx.AsyncByteStream):
            def __init__(self, response: httpcore.Response, done: Callable[[], None]) -> None:
                self._response = response
                self._done = done

            async def __aiter__(self) -> Any:
                async for part in self._response.aiter_stream():
                    yield part

            async def aclose(self) -> None:
                await self._response.aclose()
                self._done()

        class Transport(httpx.AsyncBaseTransport):
            def __init__(self) -> None:
                self._idle: dict[tuple[bytes, bytes, int | None], list[httpcore.AsyncHTTPConnection]] = defaultdict(
                    list
                )

            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                url = request.url
                target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
                key = (url.raw_scheme, url.raw_host, url.port)
                idle = self._idle[key]
                connection = None
                while idle:
                    connection = idle.pop()
                    if not connection.has_expired():
                        break
                    await connection.aclose()
                    connection = None
                if connection is None:
                    connection = httpcore.AsyncHTTPConnection(target.origin, ssl_context=context, keepalive_expiry=5)
                used = connection
                sent = httpcore.Request(
                    request.method,
                    target,
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
                response = await used.handle_async_request(sent)

                def done() -> None:
                    if used.is_idle():
                        idle.append(used)

                return httpx.Response(response.status, headers=response.headers, stream=Body(response, done))

            async def aclose(self) -> None:
                for connection in itertools.chain.from_iterable(self._idle.values()):
                    await connection.aclose()

        transport = Transport()
        timeouts = {"timeout": {"connect": 3.0, "read": 10.0, "write": 10.0, "pool": 3.0}}
        if client:
            over = httpx.AsyncClient(transport=transport, trust_env=False)

        async def post(url: str, body: bytes) -> int:
            if client:
                return (await over.post(url, content=body, headers=_HEADERS)).status_code
            request = httpx.Request("POST", url, headers=_HEADERS, content=body, extensions=timeouts)
            response = await transport.handle_async_request(request)
            try:
                await response.aread()
            finally:
                await response.aclose()
            return response.status_code

        return post, transport.aclose

    return opened


SENDERS = {
    "httpx": Sender(_httpx_pools(1), ("httpx",), sniffio=False),
    "httpx + sniffio": Sender(_httpx_pools(1), ("httpx",)),
    "4 httpx in turn + sniffio": Sender(_httpx_pools(4), ("httpx",)),
    "8 httpx in turn + sniffio": Sender(_httpx_pools(8), ("httpx",)),
    "16 httpx in turn + sniffio": Sender(_httpx_pools(16), ("httpx",)),
    "16 httpx, first with room for 4 + sniffio": Sender(_httpx_pools(16, room=4), ("httpx",)),
    "httpx transport, no client + sniffio": Sender(_httpx_transport, ("httpx",)),
    "HttpClient (chosen)": Sender(_http_client, ("httpx", "httpcore"), sniffio=False, untimed="agent_core"),
    "httpcore connections on a stack": Sender(_httpcore_stack, ("httpcore", "anyio"), sniffio=False),
    "httpcore connections on a stack + sniffio": Sender(_httpcore_stack, ("httpcore", "anyio")),
    "httpx over such a stack": Sender(_httpx_stack(client=True), ("httpx", "httpcore"), sniffio=False),
    "httpx's transport interface over such a stack": Sender(
        _httpx_stack(client=False), ("httpx", "httpcore"), sniffio=False
    ),
    "httpx-aiohttp": Sender(_httpx_aiohttp, ("httpx", "httpx_aiohttp"), needs="httpx_aiohttp"),
    "httpx over aiohttp by hand": Sender(_own_aiohttp, ("httpx", "aiohttp"), needs="aiohttp"),
    "aiohttp alone": Sender(_aiohttp, ("aiohttp",), needs="aiohttp"),
}
