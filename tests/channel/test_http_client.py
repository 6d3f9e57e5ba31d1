"""The HTTP client over real sockets: what was surely never sent, what may have been, and which connections it keeps."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent_core.channel.http_client import HttpAnswer, HttpClient
from agent_core.errors import NoAnswer, NotSent
from tests.serving import anywhere

Answer = Callable[["Exchange"], Awaitable[None]]
_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Exchange:
    """One request as it came over the wire, and the connection to answer it on."""

    def __init__(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        self.line, *lines = head.decode("latin-1").split("\r\n")
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines if line)}
        self.body = body
        self.writer = writer

    async def answer(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()


class Server:
    """An HTTP server that keeps every request and lets a test write the raw answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.exchanges: list[Exchange] = []
        self.connections: list[asyncio.StreamWriter] = []
        self.open = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        self.open += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
                exchange = Exchange(head, b"", writer)
                exchange.body = await reader.readexactly(int(exchange.headers.get("content-length", "0")))
                self.exchanges.append(exchange)
                await self._answer(exchange)
        self.open -= 1
        writer.close()


async def ok(exchange: Exchange) -> None:
    await exchange.answer(_OK)


@asynccontextmanager
async def serving(answer: Answer = ok, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(answer)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v3/x"
    try:
        yield server
    finally:
        listener.close()
        for writer in server.connections:
            writer.transport.abort()
        await listener.wait_closed()
        await asyncio.sleep(0.01)  # lets the handlers see their connections go


@asynccontextmanager
async def opened(client: HttpClient) -> AsyncIterator[HttpClient]:
    try:
        yield client
    finally:
        await client.close()


@contextmanager
def unused_port() -> Iterator[int]:
    """A port that nobody listens on and nobody can take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


async def test_a_request_arrives_as_it_was_given_and_its_answer_comes_back_whole() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(
            b"HTTP/1.1 429 Slow\r\nRetry-After: 3\r\nX-Id: 1\r\nx-id: 2\r\ntransfer-encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )

    async with serving(answer) as server, opened(HttpClient(allow_address=anywhere, user_agent="agent/1")) as client:
        got = await client.request("POST", server.url + "/a;b=1?q=%20c#d", headers={"X-A": "1"}, content=b'{"a": 1}')
    assert got == HttpAnswer(429, {"retry-after": "3", "x-id": "1, 2", "transfer-encoding": "chunked"}, b"abcde")
    [exchange] = server.exchanges
    assert exchange.line == "POST /v3/x/a;b=1?q=%20c HTTP/1.1"
    assert exchange.body == b'{"a": 1}'
    assert exchange.headers == {
        "host": server.url.split("/")[2],
        "user-agent": "agent/1",
        "accept": "*/*",
        "accept-encoding": "identity",
        "x-a": "1",
        "content-length": "8",
    }


async def test_requests_one_after_another_share_a_connection() -> None:
    async with serving() as server, opened(HttpClient(allow_address=anywhere)) as client:
        for _ in range(3):
            await client.request("POST", server.url, content=b"x")
    assert len(server.connections) == 1


async def test_tasks_at_once_each_get_the_answer_to_their_own_request() -> None:
    """No two tasks are ever on one connection, although connections come and go while they run."""

    async def answer(exchange: Exchange) -> None:
        await asyncio.sleep(0)
        # Every seventh answer ends its connection, half of those without saying so.
        number = int(exchange.body)
        close = b"connection: close\r\n" if number % 14 == 0 else b""
        await exchange.answer(b"HTTP/1.1 200 OK\r\n%scontent-length: 4\r\n\r\n%04d" % (close, number))
        if number % 7 == 0:
            exchange.writer.close()

    async with serving(answer) as server, opened(HttpClient(allow_address=anywhere, max_connections=8)) as client:
        answers = await asyncio.gather(
            *(client.request("POST", server.url, content=b"%d" % number) for number in range(300)),
            return_exceptions=True,
        )
    wrong = [
        (number, got)
        for number, got in enumerate(answers)
        if not isinstance(got, NoAnswer) and not (isinstance(got, HttpAnswer) and int(got.body) == number)
    ]
    assert wrong == []
    assert sum(isinstance(got, HttpAnswer) for got in answers) > 290


async def test_no_more_connections_are_open_than_allowed_also_over_several_hosts() -> None:
    most = 0

    async def answer(exchange: Exchange) -> None:
        nonlocal most
        most = max(most, one.open + two.open)
        await exchange.answer(_OK)

    async with (
        serving(answer) as one,
        serving(answer) as two,
        opened(HttpClient(allow_address=anywhere, max_connections=4)) as client,
    ):
        for url in (one.url, two.url, one.url, two.url):
            await asyncio.gather(*(client.request("POST", url, content=b"x") for _ in range(20)))
    assert most == 4


async def test_a_connection_the_server_closed_while_idle_is_not_used_again() -> None:
    """Else the first POST after a quiet minute would fail with an outcome that nobody can know."""
    async with serving() as server, opened(HttpClient(allow_address=anywhere)) as client:
        for number in range(1, 6):
            await client.request("POST", server.url, content=b"x")
            assert len(server.connections) == number
            server.connections[-1].close()
            await server.connections[-1].wait_closed()


async def test_a_connection_the_server_reset_while_idle_is_not_used_again() -> None:
    async with serving() as server, opened(HttpClient(allow_address=anywhere)) as client:
        await client.request("POST", server.url, content=b"x")
        held = server.connections[0].transport.get_extra_info("socket")
        # Lingering for no time makes the close a reset.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        server.connections[0].transport.abort()
        await asyncio.sleep(0.01)
        assert (await client.request("POST", server.url, content=b"x")).status == 200
    assert len(server.connections) == 2


async def test_the_connections_of_a_busy_time_are_closed_when_the_server_has_given_them_up() -> None:
    """By the next request, to that host or to another."""
    async with serving() as busy, serving() as other, opened(HttpClient(allow_address=anywhere)) as client:
        await asyncio.gather(*(client.request("POST", busy.url, content=b"x") for _ in range(10)))
        assert busy.open == 10
        await client.request("POST", busy.url, content=b"x")
        newest = busy.exchanges[-1].writer
        for writer in busy.connections:
            if writer is not newest:
                writer.write_eof()
        await asyncio.sleep(0.01)
        await client.request("POST", busy.url, content=b"x")
        await asyncio.sleep(0.01)
        assert busy.open == 1
        newest.write_eof()
        await asyncio.sleep(0.01)
        await client.request("POST", other.url, content=b"x")
        await asyncio.sleep(0.01)
        assert (busy.open, other.open) == (0, 1)


async def test_a_refused_connection_was_surely_not_sent() -> None:
    with unused_port() as port:
        async with opened(HttpClient(allow_address=anywhere)) as client:
            with pytest.raises(NotSent, match=r"127\.0\.0\.1"):
                await client.request("POST", f"http://127.0.0.1:{port}/", content=b"x")


async def test_an_unknown_name_was_surely_not_sent() -> None:
    async with opened(HttpClient(allow_address=anywhere)) as client:
        with pytest.raises(NotSent):
            await client.request("POST", "https://agent.invalid/", content=b"x")


async def test_a_host_that_takes_no_connection_in_time_was_surely_not_sent_to() -> None:
    """A listener whose queue of waiting connections is full lets the next one wait."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        async with opened(HttpClient(allow_address=anywhere, connect_timeout=0.2)) as client:
            with pytest.raises(NotSent):
                await client.request("POST", f"http://127.0.0.1:{listener.getsockname()[1]}/", content=b"x")
        for each in waiting:
            each.close()


async def test_a_host_that_does_not_finish_tls_in_time_was_surely_not_sent_to() -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    connections: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with opened(HttpClient(allow_address=anywhere, connect_timeout=0.2)) as client:
        with pytest.raises(NotSent):
            await client.request("POST", f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}/", content=b"x")
    listener.close()
    connections[0].close()
    await connections[0].wait_closed()


async def test_a_request_that_found_no_free_connection_was_surely_not_sent() -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        begun.set()
        await release.wait()
        await exchange.answer(_OK)

    async with (
        serving(answer) as server,
        opened(HttpClient(allow_address=anywhere, max_connections=1, pool_timeout=0.1)) as client,
    ):
        first = asyncio.create_task(client.request("POST", server.url, content=b"1"))
        await begun.wait()
        with pytest.raises(NotSent, match="max_connections"):
            await client.request("POST", server.url, content=b"2")
        release.set()
        assert (await first).status == 200
        assert (await client.request("POST", server.url, content=b"3")).status == 200
    assert [exchange.body for exchange in server.exchanges] == [b"1", b"3"]


@pytest.mark.parametrize(
    ("what", "raw"),
    [
        ("nothing", b""),
        ("no HTTP", b"220 smtp.example ESMTP\r\n"),
        ("half a head", b"HTTP/1.1 200 OK\r\ncontent-le"),
        ("half a body", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"),
        ("a broken chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
    ],
)
async def test_an_answer_cut_short_may_have_been_done(what: str, raw: bytes) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(raw)
        exchange.writer.close()

    async with serving(answer) as server, opened(HttpClient(allow_address=anywhere)) as client:
        with pytest.raises(NoAnswer, match=r"127\.0\.0\.1"):
            await client.request("POST", server.url, content=b"x")
    assert len(server.exchanges) == 1, "it is not sent a second time"


async def test_a_reset_while_the_answer_is_awaited_may_have_been_done() -> None:
    async def answer(exchange: Exchange) -> None:
        exchange.writer.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
        )
        exchange.writer.transport.abort()

    async with serving(answer) as server, opened(HttpClient(allow_address=anywhere)) as client:
        with pytest.raises(NoAnswer):
            await client.request("POST", server.url, content=b"x")
    assert len(server.exchanges) == 1


async def test_a_reset_while_the_body_is_still_being_sent_may_have_been_done() -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    listener = await asyncio.start_server(rude, "127.0.0.1", 0)
    async with opened(HttpClient(allow_address=anywhere)) as client:
        with pytest.raises(NoAnswer):
            await client.request(
                "POST", f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/", content=b"x" * 20_000_000
            )
    listener.close()
    await listener.wait_closed()


async def test_no_answer_in_time_may_have_been_done_and_the_connection_is_not_used_again() -> None:
    """A late answer on that connection would be taken for the answer to the next request."""

    async def answer(exchange: Exchange) -> None:
        if exchange.body == b"1":
            await asyncio.sleep(0.2)
        await exchange.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n" + exchange.body)

    async with serving(answer) as server, opened(HttpClient(allow_address=anywhere, connect_timeout=0.1)) as client:
        with pytest.raises(NoAnswer):
            await client.request("POST", server.url, content=b"1", read_timeout=0.1)
        assert (await client.request("POST", server.url, content=b"2")).body == b"2"
    assert len(server.connections) == 2


async def test_a_server_that_trickles_its_answer_cannot_hold_a_caller() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n")
        while not exchange.writer.transport.is_closing():
            await exchange.answer(b".")
            await asyncio.sleep(0.02)

    async with serving(answer) as server, opened(HttpClient(allow_address=anywhere, connect_timeout=0.1)) as client:
        with pytest.raises(NoAnswer, match="in time"):
            await asyncio.wait_for(client.request("GET", server.url, read_timeout=0.1), 2)


@pytest.mark.parametrize("framing", [b"content-length: 5000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n1388\r\n"])
async def test_a_body_longer_than_allowed_is_dropped(framing: bytes) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(b"HTTP/1.1 200 OK\r\n" + framing + b"x" * 5000)

    async with serving(answer) as server, opened(HttpClient(allow_address=anywhere, max_body=4999)) as client:
        with pytest.raises(NoAnswer, match="4999 bytes"):
            await client.request("GET", server.url)
        if framing.startswith(b"content"):
            assert len((await client.request("GET", server.url, max_body=5000)).body) == 5000


async def test_a_redirect_is_an_answer_and_a_cookie_is_not_sent_back() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(
            b"HTTP/1.1 307 Gone\r\nlocation: /elsewhere\r\nset-cookie: a=b; Path=/\r\ncontent-length: 0\r\n\r\n"
        )

    async with serving(answer) as server, opened(HttpClient(allow_address=anywhere)) as client:
        for _ in range(2):
            assert (await client.request("GET", server.url)).status == 307
    assert [exchange.line for exchange in server.exchanges] == ["GET /v3/x HTTP/1.1"] * 2
    assert "cookie" not in server.exchanges[1].headers


async def test_the_environments_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with unused_port() as port:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        async with serving() as server, opened(HttpClient(allow_address=anywhere)) as client:
            assert (await client.request("GET", server.url)).status == 200


@pytest.mark.parametrize(
    "url", ["", "/v3/x", "ftp://host/", "file:///etc/passwd", "http://", "http://h:x/", "http://h:0/"]
)
async def test_what_is_no_http_url_is_refused(url: str) -> None:
    async with opened(HttpClient(allow_address=anywhere)) as client:
        with pytest.raises(ValueError):
            await client.request("GET", url)


@pytest.mark.parametrize("header", [("Host", "evil"), ("content-length", "3"), ("x", "a\r\nb: c"), ("x y", "z")])
async def test_a_header_that_would_break_the_message_is_refused_before_it_is_sent(header: tuple[str, str]) -> None:
    async with serving() as server, opened(HttpClient(allow_address=anywhere)) as client:
        with pytest.raises(ValueError):
            await client.request("POST", server.url, headers=dict([header]), content=b"x")
        assert (await client.request("POST", server.url, content=b"x")).status == 200
    assert len(server.exchanges) == 1


async def test_a_cancelled_request_gives_its_place_back() -> None:
    begun = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        begun.set()
        if exchange.body != b"1":
            await exchange.answer(_OK)

    async with serving(answer) as server, opened(HttpClient(allow_address=anywhere, max_connections=1)) as client:
        task = asyncio.create_task(client.request("POST", server.url, content=b"1"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.request("POST", server.url, content=b"2")).status == 200


async def test_a_closed_client_opens_again() -> None:
    async with serving() as server, opened(HttpClient(allow_address=anywhere)) as client:
        await client.request("GET", server.url)
        await client.close()
        assert (await client.request("GET", server.url)).status == 200
    assert len(server.connections) == 2


async def test_a_request_under_way_while_the_client_closes_is_answered_and_leaves_nothing_open() -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        begun.set()
        await release.wait()
        await exchange.answer(_OK)

    async with serving(answer) as server:
        client = HttpClient(allow_address=anywhere)
        task = asyncio.create_task(client.request("GET", server.url))
        await begun.wait()
        await client.close()
        release.set()
        assert (await task).status == 200
        await asyncio.sleep(0.01)
        assert server.open == 0


async def test_a_client_used_in_another_event_loop_opens_anew() -> None:
    client = HttpClient(allow_address=anywhere)
    async with serving() as server:

        async def use() -> int:
            async with opened(client):
                return (await client.request("GET", server.url)).status

        assert await use() == 200
        assert await asyncio.to_thread(asyncio.run, use()) == 200
        assert await use() == 200


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a self-signed certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    encoding = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(encoding)
    )
    return path


async def test_a_server_nobody_vouches_for_is_sent_nothing(certificate: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    async with serving(tls=tls) as server, opened(HttpClient(allow_address=anywhere)) as client:
        with pytest.raises(NotSent, match="certificate"):
            await client.request("POST", server.url, headers={"authorization": "Bearer secret"}, content=b"x")
    assert server.exchanges == []


async def test_tls_connections_are_kept_and_their_end_is_noticed(certificate: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    trust = ssl.create_default_context(cafile=str(certificate))
    async with serving(tls=tls) as server, opened(HttpClient(allow_address=anywhere, ssl_context=trust)) as client:
        for _ in range(3):
            await client.request("POST", server.url, content=b"x")
        assert len(server.connections) == 1
        server.connections[0].close()
        await asyncio.sleep(0.02)
        assert (await client.request("POST", server.url, content=b"x")).status == 200
    assert len(server.connections) == 2
