"""A server that every name leads to, and that notes who came: what goes where it should not is seen there."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent_core.channel.http_client import HttpClient
from tests.serving import anywhere

TOKEN = "canary-token-of-the-agent"
NAMES = (
    "*.botframework.com",
    "smba.trafficmanager.net",
    "contoso.sharepoint.com",
    "files.slack.com",
    "*.parent.example",
    "evil.example",
)
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 7\r\n\r\ncontent"


@dataclass
class Visit:
    """A request as it arrived, and the name that TLS was asked for."""

    server_name: str | None
    line: str
    headers: dict[str, str]


@dataclass
class Canary:
    """What was seen.

    Attributes:
        asked: every host that somebody wanted to connect to, literal addresses included.
        connections: how many came, whatever they then said.
        visits: the requests.
        answers: what to answer first, raw.
        answer: what to answer after those.
    """

    asked: list[str] = field(default_factory=list)
    connections: int = 0
    visits: list[Visit] = field(default_factory=list)
    answer: bytes = OK
    answers: list[bytes] = field(default_factory=list)
    port: int = 0

    async def resolve(self, host: str, port: int) -> Sequence[tuple[str, int]]:
        """Every name leads here, whatever the port."""
        self.asked.append(host)
        return [("127.0.0.1", self.port)]

    @property
    def bearers(self) -> list[str]:
        """What somebody showed."""
        return [visit.headers["authorization"] for visit in self.visits if "authorization" in visit.headers]


def self_signed(folder: Path) -> Path:
    """A file with a key and a certificate for NAMES."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "canary")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in NAMES]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "canary.pem"
    encoding = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(encoding)
    )
    return path


@asynccontextmanager
async def canary(certificate: Path) -> AsyncIterator[tuple[Canary, HttpClient]]:
    """A canary, and a client that every name leads to it: only a guard keeps it off."""
    found = Canary()
    names: dict[ssl.SSLObject, str | None] = {}

    def note(connection: ssl.SSLObject, server_name: str | None, _: ssl.SSLContext) -> None:
        names[connection] = server_name

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    tls.sni_callback = note
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connections += 1
        writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            await writer.start_tls(tls)
            while True:
                line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
                headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in lines)}
                await reader.readexactly(int(headers.get("content-length", "0")))
                name = names.get(writer.get_extra_info("ssl_object"))
                found.visits.append(Visit(name, line, headers))
                writer.write(found.answers.pop(0) if found.answers else found.answer)
                await writer.drain()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    found.port = listener.sockets[0].getsockname()[1]
    client = HttpClient(
        connect_timeout=2,
        read_timeout=2,
        ssl_context=ssl.create_default_context(cafile=str(certificate)),
        allow_address=anywhere,
        resolve=found.resolve,
    )
    try:
        yield found, client
    finally:
        await client.close()
        listener.close()
        for writer in writers:
            writer.transport.abort()
        await listener.wait_closed()
        await asyncio.sleep(0)
