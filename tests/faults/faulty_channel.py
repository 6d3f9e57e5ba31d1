"""A connector service on a real socket that fails now and then, by a seeded schedule, in every way seen of one."""

from __future__ import annotations

import asyncio
import json
import random
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

THROTTLED = ("429", "429 with seconds", "429 with decimals", "429 with a date")
# Of these nobody knows whether the request was done; here it was, in half of the cases.
AMBIGUOUS = ("500", "502 in HTML", "503", "504", "silence", "reset after reading", "half a body")
NOT_READ = "reset before reading"  # and of this one neither
STRANGE = ("200 without an id", "200 in HTML", "200 and nothing")  # done, and what was sent has no id
FAULTS = (*THROTTLED, *AMBIGUOUS, NOT_READ, *STRANGE)


@dataclass(frozen=True, slots=True)
class Request:
    """What arrived.

    Attributes:
        about: what the test says that is being done.
        at: by the clock of the test, and `not_before` until when the answer asks to wait.
        fault: None for none.
        body: None where it was not read.
    """

    about: str
    at: datetime
    method: str | None
    path: str
    body: Any
    fault: str | None
    not_before: datetime | None


@dataclass
class FaultyChannel:
    """Notes every request, and what users see; fails at the rate that `rate` says.

    Attributes:
        next_fault: the one for the next request, in place of what the schedule says.
        messages: what users see, by id.
    """

    now: Callable[[], datetime]
    seed: int = 0
    rate: float = 0.0
    about: str = ""
    next_fault: str | None = None
    requests: list[Request] = field(default_factory=list)
    messages: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._serving: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Serve on a free port; gives the service URL."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        finally:
            server.close()
            await asyncio.gather(*self._serving)  # the client is closed by now

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        try:
            while first := await reader.read(1):
                if not await self._answer(first, reader, writer):
                    break
        except ConnectionError:
            pass  # the client has gone, as clients do
        finally:
            writer.close()

    async def _answer(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; returns whether the connection stays open."""
        fault = self._fault()
        if fault == NOT_READ:
            self.requests.append(Request(self.about, self.now(), None, "", None, fault, None))
            _reset(writer)
            return False
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        length = next(int(line[15:]) for line in head.lower().split("\r\n") if line.startswith("content-length:"))
        body = json.loads(await reader.readexactly(length))
        wait, header = self._retry_after(fault)
        self.requests.append(Request(self.about, self.now(), method, path, body, fault, wait))
        # Every other of those that fail in the middle was done.
        done = fault not in THROTTLED and (fault not in AMBIGUOUS or self._random.random() < 0.5)
        message_id = self._show(method, path, body) if done else ""
        if fault == "silence":
            await reader.read()  # until the client gives up
            return False
        if fault == "reset after reading":
            _reset(writer)
            return False
        status = int(fault[:3]) if fault and fault[0].isdigit() else 201
        content = json.dumps({"id": message_id}) if fault in (None, "half a body") else "{}"
        content = "<html>" if fault and fault.endswith("HTML") else "" if fault == "200 and nothing" else content
        answer = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-length: {len(content)}\r\n{header}\r\n"
        writer.write((answer + (content[:5] if fault == "half a body" else content)).encode())
        await writer.drain()
        return fault != "half a body"

    def _fault(self) -> str | None:
        told, self.next_fault = self.next_fault, None
        if told is None and self._random.random() < self.rate:
            return self._random.choice(FAULTS)
        return told

    def _retry_after(self, fault: str | None) -> tuple[datetime | None, str]:
        now = self.now()
        if fault == "429 with seconds":
            seconds = self._random.randint(1, 90)
            return now + timedelta(seconds=seconds), f"retry-after: {seconds}\r\n"
        if fault == "429 with decimals":
            text = f"{self._random.uniform(0.1, 5):.2f}"
            return now + timedelta(seconds=float(text)), f"Retry-After: {text}\r\n"
        if fault == "429 with a date":
            date = (now + timedelta(seconds=self._random.randint(1, 60))).replace(microsecond=0)
            return date, f"Retry-After: {format_datetime(date, usegmt=True)}\r\n"
        return None, ""

    def _show(self, method: str, path: str, body: Any) -> str:
        message_id = path.rpartition("/")[2] if method == "PUT" else f"sent{len(self.requests)}"
        self.messages[message_id] = body["text"]
        return message_id


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST rather than FIN."""
    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
