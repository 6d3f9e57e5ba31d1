"""What one POST costs under each way to send it: the figures behind the choice in `agent_core/channel/http_client.py`.

Each way runs in a process of its own against a server in another, the ways taking turns, so that a slow minute of the
machine meets all of them. CPU is the process time of the client alone.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.http_senders import SENDERS, hide_sniffio

CONCURRENCY = (1, 8, 32, 64)
TLS_CONCURRENCY = (1, 32)
REQUESTS = 800
ROUNDS = 5
BODY = json.dumps({"type": "message", "text": "x" * 1980}).encode()
_ANSWER = b'HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{"id":"123456"}'

Figures = dict[str, list[float]]


def run() -> None:
    """Measure every way and print two tables: plain HTTP, and TLS for the two ends of the field."""
    _print_table("HTTP", _measure_all(tls=False), CONCURRENCY)
    _print_table("TLS (self-signed)", _measure_all(tls=True), TLS_CONCURRENCY)


def _measure_all(*, tls: bool) -> dict[str, Figures]:
    figures: dict[str, Figures] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder) if tls else None) as (port, certificate):
        for _ in range(ROUNDS):
            for name, sender in SENDERS.items():
                if sender.needs and importlib.util.find_spec(sender.needs) is None:
                    continue
                command = [sys.executable, "-m", "bench.http_transport", "client", name, str(port), certificate]
                answer = subprocess.run(command, check=True, capture_output=True, text=True)
                for key, value in json.loads(answer.stdout).items():
                    figures[name][key].append(value)
    return figures


def _print_table(title: str, figures: dict[str, Figures], levels: tuple[int, ...]) -> None:
    medians = {
        name: {key: statistics.median(values) for key, values in found.items()} for name, found in figures.items()
    }
    base = medians["httpx"]
    print(f"\n{title}: medians of {ROUNDS} rounds of {REQUESTS} POSTs of {len(BODY)} bytes")
    print(
        "CPU and requests/s are relative to `httpx` at the same concurrency (its own row: microseconds, requests/s)\n"
    )
    heads = [f"{what}@{level}" for what in ("cpu", "rps") for level in levels]
    heads += ["import ms", "open ms", "first ms", "RSS MB"]
    print("| " + " | ".join(["way", *heads]) + " |\n|" + "---|" * (len(heads) + 1))
    for name, found in medians.items():
        cells = []
        for head in heads:
            value = found[head]
            if "@" not in head:
                cells.append(f"{value:.0f}" if value >= 10 else f"{value:.1f}")
            elif name == "httpx":
                cells.append(f"{value:.0f}")
            else:
                cells.append(f"{value / base[head]:.2f}")
        print("| " + " | ".join([name, *cells]) + " |")


# --- one way, in its own process


async def _client(name: str, port: int, certificate: str) -> dict[str, float]:
    sender = SENDERS[name]
    if not sender.sniffio:
        hide_sniffio()
    figures: dict[str, float] = {}
    start = time.process_time()
    for module in sender.imports:
        importlib.import_module(module)
    figures["import ms"] = (time.process_time() - start) * 1000
    if sender.untimed:
        importlib.import_module(sender.untimed)

    start = time.process_time()
    # As an app does it: the system's certificates are loaded, and here the test's own on top.
    context = ssl.create_default_context()
    if certificate:
        context.load_verify_locations(certificate)
    post, close = await sender.open(context)
    figures["open ms"] = (time.process_time() - start) * 1000

    url = f"{'https' if certificate else 'http'}://localhost:{port}/v3/conversations/a/activities"
    start = time.process_time()
    await post(url, BODY)
    figures["first ms"] = (time.process_time() - start) * 1000
    for concurrency in TLS_CONCURRENCY if certificate else CONCURRENCY:
        await _post_many(post, url, concurrency, concurrency * 4)  # opens the connections
        cpu, wall = time.process_time(), time.perf_counter()
        await _post_many(post, url, concurrency, REQUESTS)
        figures[f"cpu@{concurrency}"] = (time.process_time() - cpu) / REQUESTS * 1e6
        figures[f"rps@{concurrency}"] = REQUESTS / (time.perf_counter() - wall)
    figures["RSS MB"] = _resident_megabytes()
    await close()
    return figures


async def _post_many(post: Callable[[str, bytes], Awaitable[int]], url: str, concurrency: int, count: int) -> None:
    remaining = iter(range(count))

    async def worker() -> None:
        for _ in remaining:
            status = await post(url, BODY)
            if status != 201:
                raise RuntimeError(f"The server answered {status}")

    await asyncio.gather(*(worker() for _ in range(concurrency)))


def _resident_megabytes() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except FileNotFoundError:
        return 0.0  # no such file outside Linux
    return pages * 4096 / 1e6


# --- the server


class _Server(asyncio.Protocol):
    """Answers every POST with 201, as cheaply as Python can, so that the client is what is measured."""

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = int(self._buffer[:end].lower().split(b"content-length:")[1].split(b"\r\n")[0])
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._transport.write(_ANSWER)


async def _serve(folder: str) -> None:
    context = None
    if folder:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(Path(folder) / "certificate.pem", Path(folder) / "key.pem")
    server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def _server(folder: Path | None) -> Iterator[tuple[int, str]]:
    """A server process; yields its port and the path of its certificate (empty: plain HTTP)."""
    if folder:
        _write_certificate(folder)
    command = [sys.executable, "-m", "bench.http_transport", "serve", str(folder or "")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline()), str(folder / "certificate.pem") if folder else ""
        finally:
            process.terminate()


def _write_certificate(folder: Path) -> None:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _main(role: str, *arguments: str) -> None:
    if role == "serve":
        asyncio.run(_serve(arguments[0]))
    else:
        print(json.dumps(asyncio.run(_client(arguments[0], int(arguments[1]), arguments[2]))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
