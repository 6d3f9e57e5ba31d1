"""What every test stands on: asyncio, and a clock that only moves when it is told to."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
