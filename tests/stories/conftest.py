"""What the stories are told with: the app in a process of its own, and a channel on a socket."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.serving import FakeChannel, serve
from tests.stories.running import RunningApp


@pytest.fixture
def channel() -> FakeChannel:
    return FakeChannel()


@pytest.fixture
async def service_url(channel: FakeChannel) -> AsyncIterator[str]:
    async with serve(channel.app()) as url:
        yield url


@pytest.fixture
async def app(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[RunningApp]:
    """With a callback queue that has sessions, where a test says so."""
    running = RunningApp(tmp_path / "data", CALLBACK_SESSIONS=getattr(request, "param", "false"))
    await running.start()
    yield running
    await running.close()
