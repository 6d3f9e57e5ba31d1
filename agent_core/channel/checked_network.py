"""Opens connections to addresses that were checked, so that no name leads to where nothing may be sent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_address

import httpcore

from agent_core.channel.addresses import AddressCheck

# From host and port to the addresses and ports to connect to, best first. It is given literal addresses too.
Resolver = Callable[[str, int], Awaitable[Sequence[tuple[str, int]]]]


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked: a name is resolved once, and what that gave is what is connected to.

    A name with one forbidden address among its own is refused whole: no honest name is both near and far. TLS and the
    Host header are about the name all the same, for httpcore adds them to the connection.
    """

    def __init__(self, allow_address: AddressCheck, resolve: Resolver) -> None:
        self._allow_address = allow_address
        self._resolve = resolve
        # Named, so that httpcore does not look for the async library each time.
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore calls it so
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        try:
            async with asyncio.timeout_at(deadline):
                found = list(dict.fromkeys(await self._resolve(host, port)))
        except TimeoutError:
            raise httpcore.ConnectTimeout("its name was not resolved in time") from None
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"its name was not resolved: {error}") from error
        for address, _ in found:
            if not self._allow_address(host, ip_address(address)):
                raise httpcore.ConnectError(f"it resolves to {address}, where nothing may be sent")
        failure: Exception = httpcore.ConnectError("its name has no address")
        for left, (address, address_port) in zip(range(len(found), 0, -1), found, strict=True):
            # An address that is silent leaves time for those after it.
            share = None if deadline is None else (deadline - loop.time()) / left
            try:
                return await self._sockets.connect_tcp(address, address_port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


async def resolve_name(host: str, port: int) -> list[tuple[str, int]]:
    """Ask the system's resolver."""
    try:
        return [(str(ip_address(host)), port)]  # no thread for what needs no looking up
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(str(address[0]), int(address[1])) for *_, address in found]
