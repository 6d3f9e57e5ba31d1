"""HTTP triggers on real sockets: what a function gets and gives is what it would be in Azure."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import azure.functions as func
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agent_core.hosting import clock as app_clock
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.local.engine import Engine
from agent_core.testing import ManualClock
from tests.local.running import running
from tests.serving import serve


class Seen:
    """An app with one function that takes anything, and what that function was given."""

    def __init__(self, route: str = "{*path}") -> None:
        self.app = func.FunctionApp()
        self.requests: list[func.HttpRequest] = []

        @self.app.route(route)
        async def anything(req: func.HttpRequest) -> func.HttpResponse:
            self.requests.append(req)
            return func.HttpResponse()

    @property
    def request(self) -> func.HttpRequest:
        [request] = self.requests
        return request


def answering(response: object) -> func.FunctionApp:
    app = func.FunctionApp()

    @app.route("answer")
    async def answer(req: func.HttpRequest) -> object:
        return response

    return app


async def test_a_function_gets_the_request_as_the_host_sends_it(tmp_path: Path) -> None:
    seen = Seen("orders/{number}/{*rest}")
    async with running(seen.app, tmp_path) as served:
        response = await served.http.post(
            "/api/Orders/a%20b%2Fc/x/y%C3%A9?A=1&empty=&a=2&b=%C3%BC",
            content=b'{"n": 1}',
            headers=[("X-Two", "1"), ("x-two", "2"), ("Content-Type", "application/json")],
        )
        assert response.status_code == 200
        request = seen.request
        assert isinstance(request, func.HttpRequest)
        assert request.method == "POST"
        assert request.url == f"{served.url}/api/Orders/a%20b%2Fc/x/y%C3%A9?A=1&empty=&a=2&b=%C3%BC"
        assert dict(request.params) == {"A": "1,2", "b": "ü"}
        assert dict(request.route_params) == {"number": "a b%2Fc", "rest": "x/yé"}
        assert request.headers["x-two"] == "1,2"
        assert "content-type" in list(request.headers)
        assert request.get_body() == b'{"n": 1}'
        assert request.get_json() == {"n": 1}


async def test_a_body_sent_in_chunks_does_not_arrive(tmp_path: Path) -> None:
    """As in the host, https://github.com/Azure/azure-functions-host/issues/4926."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"n": '
        yield b"1}"

    seen = Seen()
    async with running(seen.app, tmp_path) as served:
        assert (await served.http.post("/api/x", content=chunks())).status_code == 200
    assert seen.request.get_body() == b""


async def test_a_body_over_100_mib_is_refused_before_it_is_read(tmp_path: Path) -> None:
    seen = Seen()
    async with running(seen.app, tmp_path) as served:
        head = f"POST /api/x HTTP/1.1\r\nHost: x\r\nContent-Length: {100 * 1024 * 1024 + 1}\r\n\r\n"
        assert (await served.raw(head.encode())).startswith(b"HTTP/1.1 413")
    assert seen.requests == []


async def test_an_answer_has_the_functions_status_headers_and_body(tmp_path: Path) -> None:
    response = func.HttpResponse(
        "größe", status_code=HTTPStatus.CREATED, headers={"X-Id": "7", "Content-Length": "1"}, mimetype="text/html"
    )
    response.headers.add("Set-Cookie", "a=1; Path=/")
    response.headers.add("Set-Cookie", "b=2; HttpOnly")
    async with running(answering(response), tmp_path) as served:
        answer = await served.http.get("/api/answer")
    assert answer.status_code == 201
    assert answer.headers["x-id"] == "7"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.content == "größe".encode()
    assert answer.headers.get_list("set-cookie") == ["a=1; Path=/", "b=2; HttpOnly"]


@pytest.mark.parametrize(
    ("response", "status", "content_type", "body"),
    [
        (func.HttpResponse(b"{}", mimetype="application/json"), 200, "application/json", b"{}"),
        (func.HttpResponse("ü", charset="latin-1"), 200, "text/plain; charset=latin-1", b"\xfc"),
        (func.HttpResponse(status_code=202), 202, "text/plain; charset=utf-8", b""),
        ("text", 200, "text/plain; charset=utf-8", b"text"),
        (None, 204, None, b""),
    ],
)
async def test_every_kind_of_answer_comes_out(
    tmp_path: Path, response: object, status: int, content_type: str | None, body: bytes
) -> None:
    async with running(answering(response), tmp_path) as served:
        answer = await served.http.get("/api/answer")
    assert (answer.status_code, answer.headers.get("content-type"), answer.content) == (status, content_type, body)


async def test_an_answer_that_is_none_is_a_500(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(answering({"a": "dictionary"}), tmp_path) as served:
        answer = await served.http.get("/api/answer")
    assert (answer.status_code, answer.content) == (500, b"")
    assert "Function answer failed" in caplog.text


async def test_a_function_that_raises_is_a_500_without_a_body_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = func.FunctionApp()

    @app.route("broken")
    async def broken(req: func.HttpRequest) -> func.HttpResponse:
        raise LookupError("nobody must see this")

    async with running(app, tmp_path) as served:
        answer = await served.http.get("/api/broken")
    assert (answer.status_code, answer.content) == (500, b"")
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in failures] == ["Function broken failed"]
    assert failures[0].exc_info is not None
    assert failures[0].exc_info[0] is LookupError


async def test_functions_are_tried_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Not by how specific their routes are: the host's router knows no such thing."""
    app = func.FunctionApp()

    @app.route("items/literal")
    async def zzz(req: func.HttpRequest) -> str:
        return "zzz"

    @app.route("items/{*rest}")
    async def aaa(req: func.HttpRequest) -> str:
        return "aaa"

    async with running(app, tmp_path) as served:
        assert (await served.http.get("/api/items/literal")).text == "aaa"


async def test_a_wrong_method_is_a_404_and_another_function_may_have_it(tmp_path: Path) -> None:
    app = func.FunctionApp()

    @app.route("items", methods=["POST"])
    async def add(req: func.HttpRequest) -> str:
        return "added"

    @app.route("items", methods=["GET"])
    async def read(req: func.HttpRequest) -> str:
        return "read"

    async with running(app, tmp_path) as served:
        assert (await served.http.post("/api/items")).text == "added"
        assert (await served.http.get("/api/items")).text == "read"
        assert (await served.http.put("/api/items")).status_code == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/items/1", 200),
        ("/API/ITEMS/1", 200),
        ("/api/items/1/", 200),
        ("/api/items", 404),
        ("/api/items//", 404),
        ("/api/items/1/2", 404),
        ("/items/1", 404),
        ("/", 404),
    ],
)
async def test_a_path_is_matched_as_a_whole(tmp_path: Path, path: str, status: int) -> None:
    async with running(Seen("items/{id}").app, tmp_path) as served:
        assert (await served.http.get(path)).status_code == status


async def test_a_function_without_a_route_answers_to_its_name(tmp_path: Path) -> None:
    app = func.FunctionApp()

    @app.route()
    async def hello(req: func.HttpRequest) -> str:
        return "hello"

    async with running(app, tmp_path, route_prefix="") as served:
        assert (await served.http.get("/hello")).text == "hello"


async def test_keys_are_not_asked_for(tmp_path: Path) -> None:
    app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)

    @app.route("guarded")
    async def guarded(req: func.HttpRequest) -> str:
        return "in"

    async with running(app, tmp_path) as served:
        assert (await served.http.get("/api/guarded")).text == "in"


async def test_a_plain_function_runs_in_a_thread_on_the_engines_clock(tmp_path: Path) -> None:
    app = func.FunctionApp()
    threads: list[int] = []

    @app.route("plain")
    def plain(req: func.HttpRequest) -> str:
        threads.append(threading.get_ident())
        return app_clock.now().isoformat()

    clock = ManualClock(datetime(2030, 1, 1, tzinfo=UTC))
    async with running(app, tmp_path, clock=clock) as served:
        assert (await served.http.get("/api/plain")).text == "2030-01-01T00:00:00+00:00"
    assert threads != [threading.get_ident()]


async def test_a_coroutine_asks_the_engines_clock(tmp_path: Path) -> None:
    app = func.FunctionApp()

    @app.route("time")
    async def time(req: func.HttpRequest) -> str:
        async with asyncio.TaskGroup() as tasks:
            started = tasks.create_task(asyncio.to_thread(app_clock.now))
        assert started.result() == app_clock.now()
        return app_clock.now().isoformat()

    clock = ManualClock(datetime(2030, 1, 1, tzinfo=UTC))
    async with running(app, tmp_path, clock=clock) as served:
        assert (await served.http.get("/api/time")).text == "2030-01-01T00:00:00+00:00"


async def test_extra_routes_come_before_the_functions(tmp_path: Path) -> None:
    async def page(request: Request) -> Response:
        return PlainTextResponse("page")

    seen = Seen()
    async with running(seen.app, tmp_path, route_prefix="", extra_routes=[Route("/page", page)]) as served:
        assert (await served.http.get("/page")).text == "page"
        assert (await served.http.get("/other")).status_code == 200
    assert len(seen.requests) == 1


async def test_what_belongs_to_the_engine_is_closed_in_order(tmp_path: Path) -> None:
    happened: list[str] = []
    app = func.FunctionApp()

    @app.route("work")
    async def work(req: func.HttpRequest) -> None:
        pass

    async def close() -> None:
        happened.append("closed")

    engine = Engine(
        app,
        settings={},
        queue=lambda name: SqliteQueue(tmp_path / "queues.db", name, now=ManualClock().now),
        clock=ManualClock(),
        on_shutdown=[lambda: happened.append("shutting down")],
        on_close=[close],
    )
    async with serve(engine.asgi):
        assert happened == []
        engine.begin_shutdown()
        assert happened == ["shutting down"]
    assert happened == ["shutting down", "closed"]
