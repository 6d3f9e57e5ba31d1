"""What a name resolves to decides, and the connection goes to the address that was checked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest

from agent_core.channel.addresses import IPAddress, is_private, is_public
from agent_core.channel.http_client import HttpClient
from agent_core.channel.url_guard import UrlGuard
from agent_core.errors import NotSent
from tests.canary import OK, Canary
from tests.serving import anywhere

PUBLIC = ["52.113.194.132", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.32.0.1", "2603:1030::1", "2001:4860::8"]
FORBIDDEN = {
    "unspecified": "0.0.0.0",
    "this network": "0.1.2.3",
    "private 10": "10.0.0.1",
    "private 172": "172.31.255.255",
    "private 192": "192.168.0.1",
    "carrier-grade NAT begins": "100.64.0.0",
    "carrier-grade NAT ends": "100.127.255.255",
    "loopback": "127.0.0.1",
    "all of loopback": "127.255.255.254",
    "link-local": "169.254.1.1",
    "metadata": "169.254.169.254",
    "Azure's platform": "168.63.129.16",
    "protocol assignments": "192.0.0.8",
    "documentation": "192.0.2.1",
    "documentation 2": "198.51.100.1",
    "documentation 3": "203.0.113.1",
    "relay of 6to4": "192.88.99.1",
    "benchmarks": "198.19.0.1",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "IPv6 unspecified": "::",
    "IPv6 loopback": "::1",
    "mapped loopback": "::ffff:127.0.0.1",
    "mapped public": "::ffff:52.113.194.132",
    "compatible": "::127.0.0.1",
    "translated": "::ffff:0:127.0.0.1",
    "NAT64": "64:ff9b::a9fe:a9fe",
    "NAT64 of its own": "64:ff9b:1::1",
    "discard": "100::1",
    "Teredo": "2001:0:1::1",
    "ORCHID": "2001:20::1",
    "IPv6 documentation": "2001:db8::1",
    "IPv6 documentation 2": "3fff::1",
    "6to4": "2002:7f00:1::",
    "IPv6 metadata": "fd00:ec2::254",
    "unique local": "fd12:3456::1",
    "IPv6 link-local": "fe80::1",
    "IPv6 link-local with a zone": "fe80::1%1",
    "public with a zone": "2603:1030::1%1",
    "site-local": "fec0::1",
    "IPv6 multicast": "ff02::1",
}


class Resolver:
    """Gives one answer after the other, and the last one for good."""

    def __init__(self, *answers: Sequence[str], port: int) -> None:
        self._answers = [[(address, port) for address in answer] for answer in answers]
        self.calls = 0

    async def __call__(self, host: str, port: int) -> Sequence[tuple[str, int]]:
        self.calls += 1
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class Servers:
    """One server on each of some addresses of this machine, all at one port; counts connections by address."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections: list[str] = []
        self.heads: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer.get_extra_info("sockname")[0])
        self.writers.append(writer)
        while head := await reader.read(65536):
            self.heads.append(head)
            writer.write(OK)
        writer.close()


@asynccontextmanager
async def servers(*addresses: str) -> AsyncIterator[Servers]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = Servers(free.getsockname()[1])
    listeners = [await asyncio.start_server(found.serve, address, found.port) for address in addresses]
    try:
        yield found
    finally:
        for listener in listeners:
            listener.close()
        for writer in found.writers:
            writer.transport.abort()
        await asyncio.sleep(0)


def not_1(host: str, address: IPAddress) -> bool:
    """127.0.0.1 plays the forbidden address, its neighbours public ones."""
    return str(address) != "127.0.0.1"


@pytest.mark.parametrize("address", PUBLIC)
def test_p9_2_the_internets_addresses_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", FORBIDDEN.values(), ids=FORBIDDEN.keys())
async def test_p9_2_a_name_of_a_forbidden_address_is_not_connected_to(address: str) -> None:
    """By the client's own default, with nothing set."""
    assert not is_public(ip_address(address))
    async with servers("127.0.0.1") as found:
        for answer in ([address], ["52.113.194.132", address]):
            client = HttpClient(resolve=Resolver(answer, port=found.port))
            with pytest.raises(NotSent, match="resolves to"):
                await client.request("GET", "http://smba.trafficmanager.net/", headers={"authorization": "Bearer x"})
            await client.close()
        assert found.connections == []


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost", "[::1]"])
async def test_p9_2_no_way_to_write_this_machines_address_gets_a_connection(host: str) -> None:
    """The system's resolver understands all of these; its answer is what is checked."""
    async with servers("127.0.0.1") as found:
        client = HttpClient()
        with pytest.raises((NotSent, ValueError)):
            await client.request("GET", f"http://{host}:{found.port}/")
        await client.close()
        assert found.connections == []


async def test_p9_2_a_name_that_changes_its_answer_gets_what_was_checked_or_nothing() -> None:
    """DNS rebinding: asked once for each connection and never for a kept one, so there is no second answer to use."""
    async with servers("127.0.0.1", "127.0.0.2") as found:
        resolver = Resolver(["127.0.0.2"], ["127.0.0.1"], port=found.port)
        client = HttpClient(resolve=resolver, allow_address=not_1)
        for _ in range(3):
            assert (await client.request("GET", "http://rebound.example/")).status == 200
        assert (resolver.calls, found.connections) == (1, ["127.0.0.2"])
        await client.close()
        with pytest.raises(NotSent, match=r"127\.0\.0\.1"):
            await client.request("GET", "http://rebound.example/")
        assert (resolver.calls, found.connections) == (2, ["127.0.0.2"])
        await client.close()


async def test_p9_2_one_forbidden_address_among_allowed_ones_refuses_the_name() -> None:
    async with servers("127.0.0.1", "127.0.0.2") as found:
        client = HttpClient(resolve=Resolver(["127.0.0.2", "127.0.0.1"], port=found.port), allow_address=not_1)
        with pytest.raises(NotSent):
            await client.request("GET", "http://two-faced.example/")
        assert found.connections == []
        await client.close()


async def test_an_address_that_refuses_or_is_silent_leaves_time_for_the_next() -> None:
    async with servers("127.0.0.2") as found:
        with socket.socket() as listener:
            listener.bind(("127.0.0.3", found.port))
            listener.listen(0)
            waiting = [socket.socket() for _ in range(4)]
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(listener.getsockname())
            resolver = Resolver(["127.0.0.1", "127.0.0.3", "127.0.0.2"], port=found.port)
            client = HttpClient(resolve=resolver, allow_address=anywhere, connect_timeout=0.6)
            assert (await client.request("GET", "http://many.example/")).status == 200
            await client.close()
            for each in waiting:
                each.close()
        assert found.connections == ["127.0.0.2"]


@pytest.mark.parametrize("answer", [OSError("no such name"), UnicodeError("label too long"), None, "slow"])
async def test_a_name_without_an_address_was_surely_not_sent_to(answer: Exception | str | None) -> None:
    async def resolve(host: str, port: int) -> list[tuple[str, int]]:
        if isinstance(answer, Exception):
            raise answer
        if answer == "slow":
            await asyncio.Event().wait()
        return []

    client = HttpClient(resolve=resolve, connect_timeout=0.05)
    with pytest.raises(NotSent, match=r"nowhere\.example"):
        await client.request("GET", "http://nowhere.example/")
    await client.close()


async def test_p9_2_tls_and_the_host_header_are_about_the_name(watched: tuple[Canary, HttpClient]) -> None:
    seen, client = watched
    assert (await client.request("GET", "https://media.botframework.com/a")).status == 200
    (visit,) = seen.visits
    assert (visit.server_name, visit.headers["host"]) == ("media.botframework.com", "media.botframework.com")
    with pytest.raises(NotSent, match="certificate"):
        await client.request("GET", "https://another.example/")
    assert len(seen.visits) == 1


def test_a_development_process_may_connect_to_this_machine_by_its_usual_names_only() -> None:
    loopback = ip_address("127.0.0.1")
    guard = UrlGuard(development=True)
    assert guard.allows_address("localhost", loopback)
    assert guard.allows_address("::1", ip_address("::1"))
    assert not guard.allows_address("rebound.example", loopback)
    assert not guard.allows_address("localhost", ip_address("10.0.0.1"))
    assert not UrlGuard(development=False).allows_address("localhost", loopback)


def test_a_private_network_is_open_to_the_hosts_that_are_set_for_it_and_metadata_to_none() -> None:
    guard = UrlGuard(development=False, private_hosts=("parent.example",))
    for address in ("10.1.2.3", "172.16.0.1", "192.168.1.1", "fd12::1"):
        assert guard.allows_address("api.parent.example", ip_address(address))
        assert not guard.allows_address("notparent.example", ip_address(address))
    for address in ("127.0.0.1", "169.254.169.254", "168.63.129.16", "fd00:ec2::254", "100.64.0.1", "::ffff:10.0.0.1"):
        assert not is_private(ip_address(address))
        assert not guard.allows_address("parent.example", ip_address(address))
