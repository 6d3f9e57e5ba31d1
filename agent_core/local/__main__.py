"""`python -m agent_core.local`: the app's functions on this machine, with nothing installed but Python."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from agent_core.errors import AgentError, SettingsError
from agent_core.hosting.clock import SystemClock
from agent_core.hosting.settings import SERVICE_BUS, Settings
from agent_core.local.engine import Engine
from agent_core.local.server import beside_the_functions, build, load_app

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code: 0 stopped, 1 not started (the reason is on stderr)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    for noisy in ("azure", "httpx", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        with _listening(options.host, options.port) as listening:
            engine, url = _prepare(options, listening)
            return _serve(engine, listening, url)
    except AgentError as error:
        print(f"Not started: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while the app was being imported
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agent_core.local", description="Runs the functions of an Azure Functions app on this machine."
    )
    parser.add_argument("--port", type=int, default=os.environ.get("PORT") or 7071, help="PORT, or 7071; 0 takes any")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--app", type=Path, default=Path("function_app.py"), metavar="FILE", help="function_app.py")
    return parser


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to a loopback address."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise SettingsError(
            f"--host {host} is no loopback address. The local run asks nobody who they are, so it serves this machine "
            "only: use 127.0.0.1. To be reachable from outside, put a tunnel in front."
        )
    with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET) as listening:
        if os.name == "posix":
            # Else the port stays taken for a minute after a run that had connections.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((str(address), port))
            listening.listen(2048)
        except (OSError, OverflowError) as error:
            raise SettingsError(
                f"Port {port} on {address} cannot be taken ({error}). Stop what listens there, or give another --port."
            ) from error
        yield listening


def _prepare(options: argparse.Namespace, listening: socket.socket) -> tuple[Engine, str]:
    address, port, *_ = listening.getsockname()
    url = f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
    os.environ["PORT"] = str(port)
    os.environ.setdefault("AGENT_LOCAL_URL", url)
    os.environ.setdefault("AZURE_FUNCTIONS_ENVIRONMENT", "Development")
    settings = Settings.from_environment()
    if settings.has_service_bus:
        raise SettingsError(
            f"{SERVICE_BUS} is set, but the local run feeds queue triggers from its own queue, so nothing would be "
            f"received. Unset {SERVICE_BUS} (and {SERVICE_BUS}__fullyQualifiedNamespace), or use Azure Functions Core "
            "Tools."
        )
    clock = SystemClock()
    beside = beside_the_functions(url, settings.local_data, clock)
    app = load_app(options.app)
    return build(app, settings=os.environ, data=settings.local_data, clock=clock, beside=beside), url


def _serve(engine: Engine, listening: socket.socket, url: str) -> int:
    config = uvicorn.Config(
        engine.asgi,
        lifespan="on",
        log_config=None,
        access_log=False,
        # Nobody stands in front whose word about the client would count.
        proxy_headers=False,
        # Keep-alive connections close at once; this is for answers that do not end.
        timeout_graceful_shutdown=1,
    )
    server = _Server(config, engine, url)
    asyncio.run(server.serve(sockets=[listening]))
    code = 0 if server.started else 1
    if engine.threads_busy:
        # A plain function that still runs would hold up the end for as long as it likes.
        logging.shutdown()
        os._exit(code)
    return code


class _Server(uvicorn.Server):
    """Tells the engine of a stop at once, and takes the signal that asked for it as answered."""

    def __init__(self, config: uvicorn.Config, engine: Engine, url: str) -> None:
        super().__init__(config)
        self._engine = engine
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        logger.info("Listening on %s (Ctrl-C stops)", self._url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.begin_shutdown()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {each: signal.signal(each, self.handle_exit) for each in handled}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
