"""The Cosmos DB server of this folder as a process, so that the tests need no account, no emulator and no Docker."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
# The emulator's, which is no secret.
KEY = "C2y6yDjf5/R+ob0N8A7Cgv30VRDJIWEHLM+4QDU5DE2nQ9nDuVTqobD4b8mGGyPMbIZnqyMsEcaGQy67XIw/Jw=="
ABSENT = (
    "No Cosmos DB: `npm ci --prefix tests/cosmos_server --ignore-scripts` brings a server (it needs Node 18 or later), "
    "or COSMOS_TEST_CONNECTION names an emulator or account"
)


@contextmanager
def running_server() -> Iterator[str | None]:
    """Run it on a free port; gives its connection string, or None where Node or the server's package is missing."""
    node = shutil.which("node")
    if node is None or not (HERE / "node_modules").is_dir():
        yield None
        return
    # It ends with its standard input, should we be killed.
    with subprocess.Popen([node, HERE / "server.cjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        ready = run.stdout.readline().split()
        if ready[:1] != ["ready"]:
            raise RuntimeError("tests/cosmos_server/server.cjs does not start; what it said is above")
        yield f"AccountEndpoint={ready[1]};AccountKey={KEY};"
        run.stdin.close()
