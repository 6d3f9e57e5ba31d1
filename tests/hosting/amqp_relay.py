"""Stands between an AMQP client and its service, and does to links and connections what a service does in bad moments.

It reads the frames that pass, so it works before any service, but not through TLS.
https://docs.oasis-open.org/amqp/core/v1.0/os/amqp-core-transport-v1.0-os.html
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH = range(0x12, 0x17)
REJECTED, ERROR = 0x25, 0x1D
DETACH_FORCED = "amqp:link:detach-forced"
SERVER_BUSY = "com.microsoft:server-busy"

# What becomes of the next message that a client sends: the service refuses it as busy, the link is detached before or
# after the service has taken it, the connection ends in the middle of its frame.
Fault = Literal["busy", "detach", "taken and detach", "cut"]


@dataclass
class _Link:
    """A link of the client's to an entity; those to `$cbs` and `$management` are left alone.

    Attributes:
        theirs: the client's handle of it, and `channel` and `ours` the service's.
        gone: it was detached here, and of the service nothing is passed on about it.
    """

    name: str
    sends: bool
    theirs: int
    writer: asyncio.StreamWriter
    channel: int = 0
    ours: int | None = None
    gone: bool = False


@dataclass
class _Connection:
    client: asyncio.StreamWriter
    service: asyncio.StreamWriter
    links: list[_Link] = field(default_factory=list)
    # The number of the delivery whose outcome is not passed on.
    unheard: int | None = None


class Relay:
    """Passes everything on to the service, until it is told otherwise."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._connections: list[_Connection] = []
        self._serving: list[asyncio.Task[None] | None] = []
        self._swallows = False
        self._next: list[Fault] = []
        self.swallowed = asyncio.Event()

    @property
    def accepted(self) -> int:
        """How many connections there were."""
        return len(self._serving)

    # -- what happens

    def swallow_answers(self) -> None:
        """From now on, until the next cut, the service hears everything and nobody hears the service."""
        self._swallows = True

    def cut(self) -> None:
        """Every connection ends, without a good-bye."""
        self._swallows = False
        for connection in self._connections:
            connection.client.transport.abort()
            connection.service.transport.abort()
        self._connections.clear()

    def detach(self) -> int:
        """Every link to an entity is detached, as in a service that moves or idles it; returns how many."""
        links = [(each, link) for each in self._connections for link in each.links if not link.gone]
        for connection, link in links:
            self._detach(connection, link)
        return len(links)

    def fail_next_send(self, *faults: Fault) -> None:
        """What happens to the next messages that are sent, in their order."""
        self._next += faults

    # -- passing on

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.append(asyncio.current_task())
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        connection = _Connection(writer, there_writer)
        self._connections.append(connection)
        await asyncio.gather(
            self._pass(reader, connection, from_client=True), self._pass(there_reader, connection, from_client=False)
        )

    async def _pass(self, reader: asyncio.StreamReader, connection: _Connection, *, from_client: bool) -> None:
        writer = connection.service if from_client else connection.client
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(8)
                size = 8 if head.startswith(b"AMQP") else struct.unpack(">I", head[:4])[0]
                frame = head + await reader.readexactly(size - 8)
                if not from_client and self._swallows:
                    self.swallowed.set()
                    continue
                passes = self._asks(connection, frame) if from_client else self._answers(connection, frame)
                if passes:
                    writer.write(frame)
                    await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    def _asks(self, connection: _Connection, frame: bytes) -> bool:
        """A frame of the client's: whether the service gets it."""
        code, fields = _performative(frame)
        if code == ATTACH:
            name, handle, receives = fields[:3]
            address = str((fields[5] if receives else fields[6])[0])
            if not address.endswith(("$cbs", "$management")):
                connection.links.append(_Link(name, not receives, handle, connection.client))
            return True
        if code == TRANSFER and self._next and _link(connection, fields[0], sends=True):
            return self._on_send(connection, _link(connection, fields[0], sends=True), fields[1], frame)
        return True

    def _on_send(self, connection: _Connection, link: _Link | None, delivery: int, frame: bytes) -> bool:
        assert link is not None
        match self._next.pop(0):
            case "busy":
                connection.client.write(_rejected(frame, delivery, SERVER_BUSY))
            case "detach":
                self._detach(connection, link)
            case "taken and detach":
                connection.unheard = delivery
                return True
            case "cut":
                connection.service.write(frame[: len(frame) // 2])
                connection.client.transport.abort()
                connection.service.close()
        return False

    def _answers(self, connection: _Connection, frame: bytes) -> bool:
        """A frame of the service's: whether the client gets it."""
        code, fields = _performative(frame)
        if code == ATTACH:
            for link in connection.links:
                if link.name == fields[0] and link.sends == bool(fields[2]):
                    link.channel, link.ours = struct.unpack(">H", frame[6:8])[0], fields[1]
        if code == DISPOSITION and fields[0] and fields[1] == connection.unheard:
            connection.unheard = None
            for link in [link for link in connection.links if link.sends and not link.gone]:
                self._detach(connection, link)
            return False
        about = {FLOW: 4, TRANSFER: 0, DETACH: 0}.get(code)
        if about is None or about >= len(fields):
            return True
        return not any(link.gone and link.ours == fields[about] for link in connection.links)

    def _detach(self, connection: _Connection, link: _Link) -> None:
        """The client answers with a detach of its own, which ends the link on the other side too."""
        assert link.ours is not None
        link.gone = True
        connection.client.write(_frame(link.channel, DETACH, _uint(link.ours), _TRUE, _error(DETACH_FORCED)))

    async def close(self) -> None:
        self.cut()
        await asyncio.gather(*(task for task in self._serving if task))


def _link(connection: _Connection, handle: int, *, sends: bool) -> _Link | None:
    return next((each for each in connection.links if (each.theirs, each.sends) == (handle, sends)), None)


@asynccontextmanager
async def relaying(connection: str) -> AsyncIterator[tuple[Relay, str]]:
    """A relay before the service of this connection string, and the connection string that leads through it."""
    endpoint = next(part for part in connection.split(";") if part.startswith("Endpoint=sb://"))
    address = endpoint.removeprefix("Endpoint=sb://").strip("/")
    host, _, port = address.partition(":")
    relay = Relay(host, int(port or 5672))
    listener = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    try:
        yield relay, connection.replace(address, f"127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    finally:
        listener.close()
        await relay.close()


# -- the frames, as far as they are looked at

_TRUE, _NONE = b"\x41", b"\x40"


def _performative(frame: bytes) -> tuple[int, list[Any]]:
    """What a frame says, and its fields; 0 for what is none: a header, a heartbeat, SASL."""
    body = frame[frame[4] * 4 :]
    if frame.startswith(b"AMQP") or frame[5] != 0 or not body:
        return 0, []
    code, position = _value(body, 1)
    fields, _ = _value(body, position)
    return code, fields


def _value(data: bytes, position: int) -> tuple[Any, int]:
    """A value and where the next begins: numbers, booleans, texts and lists; of others the bytes."""
    code, position = data[position], position + 1
    if code == 0:
        _, position = _value(data, position)
        return _value(data, position)
    if code >> 4 == 4:
        return {0x41: True, 0x43: 0, 0x44: 0, 0x45: []}.get(code), position
    if code < 0xA0:
        end = position + (1 << ((code >> 4) - 5))
        number = int.from_bytes(data[position:end], "big")
        return (bool(number) if code == 0x56 else number), end
    width = 4 if code & 0x10 else 1
    start = position + width
    end = start + int.from_bytes(data[position:start], "big")
    if code in (0xA1, 0xA3, 0xB1, 0xB3):
        return data[start:end].decode(), end
    if code not in (0xC0, 0xD0):
        return data[start:end], end
    items, position = [], start + width
    for _ in range(int.from_bytes(data[start:position], "big")):
        item, position = _value(data, position)
        items.append(item)
    return items, end


def _uint(number: int) -> bytes:
    return b"\x70" + struct.pack(">I", number)


def _described(code: int, *fields: bytes) -> bytes:
    items = b"".join(fields)
    return bytes([0, 0x53, code, 0xD0]) + struct.pack(">II", len(items) + 4, len(fields)) + items


def _error(condition: str) -> bytes:
    return _described(ERROR, bytes([0xA3, len(condition)]) + condition.encode(), b"\xa1\x00", b"\xc1\x01\x00")


def _frame(channel: int, code: int, *fields: bytes) -> bytes:
    body = _described(code, *fields)
    return struct.pack(">IBBH", len(body) + 8, 2, 0, channel) + body


def _rejected(asked: bytes, delivery: int, condition: str) -> bytes:
    """The service's answer to a message that it does not take."""
    channel = struct.unpack(">H", asked[6:8])[0]
    outcome = _described(REJECTED, _error(condition))
    return _frame(channel, DISPOSITION, _TRUE, _uint(delivery), _uint(delivery), _TRUE, outcome, _NONE)
