"""Puts the local run together: the engine on a folder of data, and what is served beside the app's functions."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import azure.functions as func
from starlette.routing import BaseRoute

from agent_core.channel.http_client import HttpClient
from agent_core.hosting.clock import Clock
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.local.bindings import InvalidApp, read_functions
from agent_core.local.channel import LocalChannel
from agent_core.local.engine import Engine

DEFAULTS = {
    "CALLBACK_QUEUE": "agent-callbacks",
    "WORK_QUEUE": "agent-work",
    "NOTIFICATION_SCHEDULE": "*/5 * * * * *",
}


@dataclass(frozen=True)
class Beside:
    """What is served beside the functions.

    Attributes:
        routes: tried before the functions' routes.
        on_shutdown: called as soon as a stop is asked for; ends open streams, which the server would wait for.
        on_close: awaited after the functions have stopped.
    """

    routes: Sequence[BaseRoute] = ()
    on_shutdown: Sequence[Callable[[], None]] = ()
    on_close: Sequence[Callable[[], Awaitable[None]]] = ()


def beside_the_functions(url: str, data: Path, clock: Clock) -> Beside:
    """The local channel and its chat page, for the app that answers at `url` (without a slash at the end).

    The channel reaches the app as a real one does, over HTTP, and keeps its conversations in `data/channel.db`.
    """
    http = HttpClient(allow_address=lambda host, address: True)  # it calls the app's own address only

    async def post(agent_url: str, body: bytes) -> tuple[int, bytes]:
        # The channel has a time limit of its own, so the client's need only be no shorter.
        answer = await http.request(
            "POST", agent_url, headers={"content-type": "application/json"}, content=body, read_timeout=60
        )
        return answer.status, answer.body

    channel = LocalChannel(
        data / "channel.db",
        agent_url=f"{url}/api/messages",
        service_url=f"{url}/channel/",
        now=clock.now,
        post=post,
    )
    return Beside(channel.routes(), on_shutdown=[channel.end_streams], on_close=[channel.close, http.close])


def build(
    app: func.FunctionApp,
    *,
    settings: Mapping[str, str],
    data: Path,
    clock: Clock,
    beside: Beside = Beside(),  # frozen
) -> Engine:
    """The engine for an app, with its queues in `data/queues.db`; `build(…).asgi` is to be served.

    Args:
        settings: the environment; what it lacks comes from `DEFAULTS`.

    Raises:
        InvalidApp, SettingsError: the app cannot run here; the message names the function and the reason.
    """
    settings = DEFAULTS | {name: value for name, value in settings.items() if value}
    with_sessions = read_functions(app, settings).session_queues

    def queue(name: str) -> SqliteQueue:
        return SqliteQueue(data / "queues.db", name, now=clock.now, requires_session=name in with_sessions)

    return Engine(
        app,
        settings=settings,
        queue=queue,
        clock=clock,
        extra_routes=beside.routes,
        on_shutdown=beside.on_shutdown,
        on_close=beside.on_close,
    )


def load_app(path: Path) -> func.FunctionApp:
    """Import an app's file as the module `function_app`, and find its one FunctionApp, whatever it is called.

    What the file raises comes out.

    Raises:
        InvalidApp: there is no such file, or no FunctionApp in it, or several.
    """
    if not path.is_file():
        raise InvalidApp(f"There is no file {path}: run this in the app's folder, or name the file with --app.")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location("function_app", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["function_app"] = module
    spec.loader.exec_module(module)
    found = {id(value): name for name, value in vars(module).items() if isinstance(value, func.FunctionApp)}
    if len(found) != 1:
        names = ", ".join(found.values()) or "none"
        raise InvalidApp(f"{path} must have one func.FunctionApp at its top level; found: {names}.")
    app: func.FunctionApp = getattr(module, *found.values())
    return app
