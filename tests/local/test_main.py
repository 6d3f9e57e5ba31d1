"""`python -m agent_core.local` as a process: it starts, serves, stops, and survives being killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.proactive.queue import QueueMessage
from tests.local.running import until

ROOT = Path(__file__).parents[2]
APP = """
import asyncio, os, pathlib, time
import azure.functions as func
import beside

my_app = also_my_app = func.FunctionApp()

@my_app.route("health")
async def health(req: func.HttpRequest) -> func.HttpResponse:
    names = ("AZURE_FUNCTIONS_ENVIRONMENT", "PORT", "AGENT_LOCAL_URL")
    return func.HttpResponse(" ".join([beside.WORD, *(os.environ[name] for name in names)]))

@my_app.route("endless")
async def endless(req: func.HttpRequest) -> func.HttpResponse:
    await asyncio.Event().wait()

@my_app.route("stuck")
def stuck(req: func.HttpRequest) -> func.HttpResponse:
    time.sleep(60)

@my_app.service_bus_queue_trigger("message", connection="ServiceBusConnection", queue_name="%WORK_QUEUE%")
async def work(message: func.ServiceBusMessage) -> None:
    with open("done.txt", "a") as done:
        print(message.message_id, file=done)

@my_app.timer_trigger("timer", schedule="%NOTIFICATION_SCHEDULE%")
async def tick(timer: func.TimerRequest) -> None:
    pathlib.Path("ticked.txt").touch()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "function_app.py").write_text(APP)
    (tmp_path / "beside.py").write_text("WORD = 'hello'\n")
    return tmp_path


async def start(folder: Path, *arguments: str, **environment: str) -> Process:
    inherited = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "agent_core.local", *arguments]
    return await asyncio.create_subprocess_exec(*command, stderr=PIPE, cwd=folder, env={**inherited, **environment})


async def url_of(process: Process) -> str:
    """Read its log until it says where it listens."""
    assert process.stderr is not None
    async with asyncio.timeout(20):
        while line := (await process.stderr.readline()).decode():
            if "Listening on " in line:
                return line.partition("Listening on ")[2].split()[0]
    raise AssertionError("it ended before it listened")


@asynccontextmanager
async def running(folder: Path, *arguments: str, **environment: str) -> AsyncIterator[tuple[Process, str]]:
    process = await start(folder, *arguments, **environment)
    try:
        yield process, await url_of(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def refused(folder: Path, *arguments: str, **environment: str) -> str:
    """What it says when it does not start."""
    process = await start(folder, *arguments, **environment)
    async with asyncio.timeout(20):
        _, errors = await process.communicate()
    assert process.returncode == 1
    return errors.decode()


async def stop(process: Process, by: signal.Signals) -> tuple[int, float, str]:
    """The exit code, the seconds it took, and what it logged on the way."""
    began = time.monotonic()
    process.send_signal(by)
    async with asyncio.timeout(20):
        _, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, time.monotonic() - began, errors.decode()


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
async def test_it_serves_the_app_and_stops_when_it_is_told_to(folder: Path, by: signal.Signals) -> None:
    async with running(folder, "--port", "0") as (process, url), httpx.AsyncClient() as client:
        answer = await client.get(f"{url}/api/health")
        port = url.rpartition(":")[2]
        assert answer.text == f"hello Development {port} {url}"
        # The client keeps its connection open.
        code, seconds, log = await stop(process, by)
    assert code == 0
    assert seconds < 2
    assert "Traceback" not in log
    assert log.rstrip().endswith("Stopped")


async def test_an_answer_that_does_not_end_does_not_hold_up_the_stop(folder: Path) -> None:
    async with running(folder, "--port", "0") as (process, url), httpx.AsyncClient() as client:
        endless = asyncio.create_task(client.get(f"{url}/api/endless", timeout=30))
        await client.get(f"{url}/api/health")
        code, seconds, log = await stop(process, signal.SIGINT)
        assert (await endless).status_code == 503
    assert code == 0
    assert "Function endless was cut short" in log
    assert "Traceback" not in log
    assert seconds < 3


async def test_a_function_stuck_in_a_thread_does_not_hold_up_the_stop(folder: Path) -> None:
    async with running(folder, "--port", "0") as (process, url), httpx.AsyncClient() as client:
        stuck = asyncio.create_task(client.get(f"{url}/api/stuck", timeout=30))
        await client.get(f"{url}/api/health")
        code, seconds, _ = await stop(process, signal.SIGINT)
        with pytest.raises(httpx.HTTPError):
            (await stuck).raise_for_status()
    assert code == 0
    assert seconds < 4


async def test_a_killed_run_keeps_what_is_queued_for_the_next(folder: Path) -> None:
    queue = SqliteQueue(folder / ".local" / "queues.db", "agent-work", now=lambda: datetime.now(UTC))
    async with running(folder, "--port", "0") as (process, _):
        due = datetime.now(UTC) + timedelta(seconds=1.5)
        await queue.send(QueueMessage(b"{}", "later", scheduled_enqueue_time=due))
        await queue.send(QueueMessage(b"{}", "now"))
        await counted(queue, 1)
        process.kill()
    async with running(folder, "--port", "0"):
        await counted(queue, 0)
    assert text(folder / "done.txt") == "now\nlater\n"
    await queue.close()


async def counted(queue: SqliteQueue, number: int) -> None:
    """Return when so many messages are left."""
    async with asyncio.timeout(20):
        while await queue.count() != number:  # noqa: ASYNC110  # another process takes them
            await asyncio.sleep(0.01)


def text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


async def test_the_environment_names_the_port_the_queues_the_schedule_and_the_folder(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    queue = SqliteQueue(folder / "elsewhere" / "queues.db", "mine", now=lambda: datetime.now(UTC))
    await queue.send(QueueMessage(b"{}", "a"))
    await queue.close()
    chosen = {"PORT": port, "WORK_QUEUE": "mine", "AGENT_LOCAL_DATA": "elsewhere"}
    async with running(folder, NOTIFICATION_SCHEDULE="* * * * * *", **chosen) as (_, url):
        assert url == f"http://127.0.0.1:{port}"
        await until(lambda: text(folder / "done.txt") == "a\n")
        await until(lambda: text(folder / "ticked.txt") == "")
    assert not (folder / ".local").exists()


async def test_a_port_in_use_is_said_in_one_line(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = await refused(folder, "--port", str(port))
    assert said.startswith(f"Not started: Port {port} on 127.0.0.1 cannot be taken")
    assert said.count("\n") == 1


async def test_it_serves_no_other_machine(folder: Path) -> None:
    assert "--host 0.0.0.0 is no loopback address" in await refused(folder, "--host", "0.0.0.0")


@pytest.mark.parametrize("name", ["ServiceBusConnection", "ServiceBusConnection__fullyQualifiedNamespace"])
async def test_it_does_not_run_beside_a_service_bus(folder: Path, name: str) -> None:
    said = await refused(folder, "--port", "0", **{name: "Endpoint=sb://x"})
    assert "ServiceBusConnection is set" in said


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("", "none"),
        ("import azure.functions as func\none, two = func.FunctionApp(), func.FunctionApp()", "one, two"),
    ],
)
async def test_a_file_must_have_one_app(folder: Path, source: str, found: str) -> None:
    (folder / "other.py").write_text(source)
    said = await refused(folder, "--port", "0", "--app", "other.py")
    assert f"other.py must have one func.FunctionApp at its top level; found: {found}." in said


async def test_a_missing_file_is_named(folder: Path) -> None:
    assert "There is no file nowhere.py" in await refused(folder, "--port", "0", "--app", "nowhere.py")
