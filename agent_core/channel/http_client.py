"""The one place that sends HTTP requests, so that how they are sent can change without the rest noticing.

httpx composes a request and its engine, httpcore, carries it; only the connection pool is our own, a stack of idle
connections per origin. By `bench/README.md` this takes a sixth of the CPU of httpx with its pool at 32 and more
requests at once (that pool looks at every connection, twice a request) and needs no `sniffio` to be fast; aiohttp,
cheaper still per request, takes nearly twice as long to load and to send its first.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import httpcore
import httpx

from agent_core.channel.addresses import AddressCheck, public_only
from agent_core.channel.checked_network import CheckedNetwork, Resolver, resolve_name
from agent_core.errors import NoAnswer, NotSent

# Idle connections are used again for this long. It lies under the idle time-outs on the way to the Bot Connector
# (Azure's load balancer drops silently after 4 minutes, Front Door closes after 90 s), so that we leave first.
# https://learn.microsoft.com/azure/load-balancer/load-balancer-tcp-idle-timeout
_KEEP_ALIVE_SECONDS = 30.0

# What frames the message on the wire is decided here; a second opinion would corrupt the connection.
_FRAMING = frozenset({"connection", "content-length", "host", "transfer-encoding"})

_Origin = tuple[bytes, bytes, int | None]


def _shows_no_headers(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("receive_response_headers.complete")


# At DEBUG the engine logs the headers of answers: cookies, and addresses that hold the permission to fetch a file.
logging.getLogger("httpcore.http11").addFilter(_shows_no_headers)


class Origin(NamedTuple):
    """The server that a URL leads to; the host in lower case, ASCII, an IPv6 address without brackets."""

    scheme: str
    host: str
    port: int


def origin_of(url: str) -> Origin:
    """Where a request for this URL would be sent; ValueError if it can be sent nowhere."""
    return _origin_of(_parsed(url))


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A complete answer. Header names are in lower case; a header sent twice is joined with a comma."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HttpStream:
    """An answer whose body is still to come. Header names as in `HttpAnswer`; `chunks` raises NoAnswer."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes] = field(repr=False)


class HttpClient:
    """Sends requests over HTTP/1.1 connections that stay open: one instance per process, for any number of tasks.

    It opens on first use in the running event loop, and anew in another one; `close` in the loop that used it.
    It follows no redirect, keeps no cookie, asks the environment for no proxy, and repeats nothing by itself.

    Args:
        connect_timeout: seconds for the name and TCP, and again for TLS.
        read_timeout: seconds of silence while waiting for the answer. The whole exchange is bounded too, by this and
            twice `connect_timeout`, so a server that trickles cannot hold a caller.
        pool_timeout: seconds to wait for one of `max_connections` to come free.
        ssl_context: for servers with certificates of a private authority; by default the public ones are trusted.
        max_body: the longest body of an answer, in bytes.
        allow_address: asked for every address that a URL's host resolves to, whenever a connection is opened; one that
            is not allowed, and nothing is sent. By default only public ones are.
        resolve: finds the addresses of a name.
    """

    def __init__(
        self,
        *,
        connect_timeout: float = 3.0,
        read_timeout: float = 10.0,
        pool_timeout: float = 3.0,
        max_connections: int = 100,
        ssl_context: ssl.SSLContext | None = None,
        user_agent: str = "agent-core",
        max_body: int = 1024 * 1024,
        allow_address: AddressCheck = public_only,
        resolve: Resolver = resolve_name,
    ) -> None:
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._pool_timeout = pool_timeout
        self._max_connections = max_connections
        self._ssl_context = ssl_context
        # Answers are read as they are: a short compressed body could unpack to one that fills the memory.
        self._headers = {"user-agent": user_agent, "accept": "*/*", "accept-encoding": "identity"}
        self._max_body = max_body
        self._network = CheckedNetwork(allow_address, resolve)
        self._pool: _Pool | None = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        content: bytes | None = None,
        read_timeout: float | None = None,
        max_body: int | None = None,
    ) -> HttpAnswer:
        """Send a request and read the whole answer, whatever its status.

        Raises:
            NotSent: it surely never left.
            NoAnswer: it left or may have, and no complete answer of at most `max_body` bytes came in time.
            ValueError: the URL or a header can never be sent.
        """
        read_timeout = self._read_timeout if read_timeout is None else read_timeout
        max_body = self._max_body if max_body is None else max_body
        request = self._compose(method, url, headers, content)
        pool = self._pool_here()
        await self._enter(pool, request.url.host)
        try:
            with _failures(request.url.host):
                async with (
                    asyncio.timeout(2 * self._connect_timeout + read_timeout),
                    self._exchange(pool, request, content, read_timeout) as response,
                ):
                    return HttpAnswer(response.status, _headers(response), await _read(response, max_body))
        finally:
            pool.room.release()

    @asynccontextmanager
    async def stream(
        self, url: str, *, headers: Mapping[str, str] = MappingProxyType({}), max_seconds: float
    ) -> AsyncGenerator[HttpStream, None]:
        """GET something long: the body is read as it is asked for, and whatever is left of it at the end is dropped.

        Args:
            max_seconds: for all of it, the time that the caller takes between two chunks included.

        Raises:
            NotSent, NoAnswer, ValueError: like `request`.
        """
        request = self._compose("GET", url, headers, None)
        host = request.url.host
        pool = self._pool_here()
        deadline = pool.loop.time() + max_seconds
        await self._enter(pool, host)
        try:
            async with AsyncExitStack() as stack:
                with _failures(host):
                    async with asyncio.timeout_at(deadline):
                        exchange = self._exchange(pool, request, None, self._read_timeout)
                        response = await stack.enter_async_context(exchange)
                chunks = await stack.enter_async_context(aclosing(_chunks(response, host, deadline)))
                yield HttpStream(response.status, _headers(response), chunks)
        finally:
            pool.room.release()

    async def close(self) -> None:
        """Close the connections, those under way at the end of their request. Used again, the client opens again."""
        pool, self._pool = self._pool, None
        if pool and pool.loop is asyncio.get_running_loop():
            await pool.close()

    def _compose(self, method: str, url: str, headers: Mapping[str, str], content: bytes | None) -> httpx.Request:
        if framing := _FRAMING & {name.lower() for name in headers}:
            raise ValueError(f"The client sets {', '.join(sorted(framing))} itself: leave it out of the headers")
        return httpx.Request(method, _parsed(url), headers={**self._headers, **headers}, content=content)

    async def _enter(self, pool: _Pool, host: str) -> None:
        """Wait for room in the pool; whoever entered releases it."""
        try:
            async with asyncio.timeout(self._pool_timeout):
                await pool.room.acquire()
        except TimeoutError:
            raise NotSent(
                f"All {self._max_connections} connections were busy for {self._pool_timeout:g} s, "
                f"so nothing was sent to {host}. Send less at once, or raise max_connections."
            ) from None

    def _pool_here(self) -> _Pool:
        if self._pool is None or self._pool.loop is not asyncio.get_running_loop():
            self._pool = _Pool(self._tls, self._max_connections, self._network)
        return self._pool

    def _tls(self) -> ssl.SSLContext:
        # Reading the authorities takes about 20 ms of CPU: once, and only if there is something to encrypt.
        if self._ssl_context is None:
            self._ssl_context = httpx.create_ssl_context(trust_env=False)
        return self._ssl_context

    @asynccontextmanager
    async def _exchange(
        self, pool: _Pool, request: httpx.Request, content: bytes | None, read_timeout: float
    ) -> AsyncGenerator[httpcore.Response, None]:
        url = request.url
        origin = (url.raw_scheme, url.raw_host, url.port)
        wire_request = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=content,
            extensions={
                "timeout": {"connect": self._connect_timeout, "write": read_timeout, "read": read_timeout},
            },
        )
        connection = pool.take(origin)
        try:
            await pool.close_discarded()
            response = await connection.handle_async_request(wire_request)
            try:
                yield response
            finally:
                await response.aclose()
        finally:
            pool.give_back(origin, connection)
            await pool.close_discarded()


class _Pool:
    """The connections of one event loop: at most `limit` open, the idle ones on a stack per origin.

    The newest is used first, so a quiet app keeps one connection warm and those of a busy hour run out. Whatever
    changes the stacks does so without awaiting, so two tasks never get one connection.
    """

    def __init__(self, tls: Callable[[], ssl.SSLContext], limit: int, network: httpcore.AsyncNetworkBackend) -> None:
        self.loop = asyncio.get_running_loop()
        self.room = asyncio.Semaphore(limit)  # held during a request, so never more than `limit` are active
        self._tls = tls
        self._limit = limit
        self._open = 0
        self._closed = False
        self._idle: defaultdict[_Origin, deque[httpcore.AsyncHTTPConnection]] = defaultdict(deque)
        self._gone: list[httpcore.AsyncHTTPConnection] = []
        self._network = network

    def take(self, origin: _Origin) -> httpcore.AsyncHTTPConnection:
        """An idle connection to that origin which the server has not closed, or a new one that connects when used."""
        idle = self._idle[origin]
        while idle:
            connection = idle.pop()
            # True also if the socket is readable: on an idle connection that is the server's good-bye.
            if not connection.has_expired():
                return connection
            self._discard(connection)
        self._make_room()
        scheme, host, port = origin
        secure = scheme == b"https"
        connection = httpcore.AsyncHTTPConnection(
            httpcore.Origin(scheme, host, port or (443 if secure else 80)),
            ssl_context=self._tls() if secure else None,
            keepalive_expiry=_KEEP_ALIVE_SECONDS,
            network_backend=self._network,
        )
        self._open += 1
        return connection

    def give_back(self, origin: _Origin, connection: httpcore.AsyncHTTPConnection) -> None:
        """Keep the connection if it can carry another request."""
        # One that never came about calls itself idle, and closed.
        if self._closed or not connection.is_idle() or connection.is_closed():
            self._discard(connection)
            return
        idle = self._idle[origin]
        idle.append(connection)
        while idle and idle[0].has_expired():
            self._discard(idle.popleft())

    async def close_discarded(self) -> None:
        """Close what is no longer kept."""
        while self._gone:
            await self._gone.pop().aclose()

    async def close(self) -> None:
        """Close the idle connections, and each of the others at the end of its request."""
        self._closed = True
        for idle in self._idle.values():
            while idle:
                self._discard(idle.pop())
        await self.close_discarded()

    def _make_room(self) -> None:
        """Discard what has expired at any origin, and one idle connection more where the limit is reached."""
        for idle in self._idle.values():
            while idle and idle[0].has_expired():
                self._discard(idle.popleft())
        if self._open >= self._limit:
            self._discard(next(idle for idle in self._idle.values() if idle).popleft())

    def _discard(self, connection: httpcore.AsyncHTTPConnection) -> None:
        self._open -= 1
        self._gone.append(connection)


def _parsed(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"Not a URL to send to: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.port == 0:
        raise ValueError("A URL to send to begins with https:// or http:// and names a host, and no port 0")
    return parsed


def _origin_of(url: httpx.URL) -> Origin:
    return Origin(url.scheme, url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80))


@contextmanager
def _failures(host: str) -> Iterator[None]:
    """What went wrong underneath, in our words."""
    try:
        yield
    except TimeoutError:
        raise NoAnswer(f"{host} did not finish its answer in time: the request may have been done") from None
    except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
        raise NotSent(f"No connection to {host} ({_cause(error)}): nothing was sent") from error
    except httpcore.LocalProtocolError as error:
        raise ValueError(f"A request to {host} cannot be written: {error}") from error
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise NoAnswer(f"No answer from {host} ({_cause(error)}): the request may have been done") from error


def _headers(response: httpcore.Response) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


async def _chunks(response: httpcore.Response, host: str, deadline: float) -> AsyncGenerator[bytes, None]:
    parts = aiter(response.aiter_stream())
    while True:
        with _failures(host):
            async with asyncio.timeout_at(deadline):
                part = await anext(parts, None)
        if part is None:
            return
        yield part


async def _read(response: httpcore.Response, max_body: int) -> bytes:
    parts: list[bytes] = []
    length = 0
    async for part in response.aiter_stream():
        length += len(part)
        if length > max_body:
            raise NoAnswer(f"The answer (status {response.status}) is longer than {max_body} bytes; it was dropped")
        parts.append(part)
    return b"".join(parts)


def _cause(error: Exception) -> str:
    return str(error) or type(error).__name__
