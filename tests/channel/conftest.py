"""A server that should see nothing, for the tests of where the agent may go."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent_core.channel.http_client import HttpClient
from tests.canary import Canary, canary, self_signed


@pytest.fixture(scope="session")
def canary_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("canary"))


@pytest.fixture
async def watched(canary_certificate: Path) -> AsyncIterator[tuple[Canary, HttpClient]]:
    async with canary(canary_certificate) as found:
        yield found
