"""The real app in a real process, as `make run` starts it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from agent_core.channel.http_client import HttpAnswer, HttpClient
from agent_core.errors import NoAnswer, NotSent
from tests.serving import anywhere

ROOT = Path(__file__).parent.parent.parent


class RunningApp:
    """`python -m agent_core.local` with its data in a folder of the test's."""

    def __init__(self, data: Path, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        foreign = ("ServiceBus", "Cosmos", "CONNECTIONS__", "WEBSITE_", "AZURE_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        self.environment = {
            **kept,
            "PORT": str(self.port),
            "AGENT_LOCAL_DATA": str(data),
            "NOTIFICATION_SCHEDULE": "* * * * * *",
            **environment,
        }
        self.data = data
        self.http = HttpClient(allow_address=anywhere, read_timeout=15)
        self.log = data / "app.log"
        data.mkdir(parents=True, exist_ok=True)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and return when it answers."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "agent_core.local", cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        for _ in range(400):
            if self._process.returncode is not None:
                raise AssertionError(f"The app ended:\n{self.log.read_text()}")
            try:
                if (await self.http.request("GET", f"{self.url}/api/health/live")).status == 200:
                    return
            except (NotSent, NoAnswer):
                await asyncio.sleep(0.05)
        raise AssertionError(f"The app does not answer:\n{self.log.read_text()}")

    def kill_now(self) -> None:
        """kill -9, without waiting for the end."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)

    async def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self.kill_now()
        await self._process.wait()

    async def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        return await self._process.wait()

    async def close(self) -> None:
        """End it, whatever it does."""
        await self.http.close()
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    async def post(self, activity: dict[str, Any]) -> HttpAnswer:
        """Post an activity as a channel does."""
        return await self.http.request(
            "POST",
            f"{self.url}/api/messages",
            headers={"content-type": "application/json"},
            content=json.dumps(activity).encode(),
        )

    async def post_or_fail(self, activity: dict[str, Any]) -> int | None:
        """The status of a post; None if the app died over it."""
        try:
            return (await self.post(activity)).status
        except (NotSent, NoAnswer):
            return None

    async def command(self, *arguments: str) -> str:
        """`python -m agent_core …` in another process; returns what it prints."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agent_core",
            *arguments,
            cwd=ROOT,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()
