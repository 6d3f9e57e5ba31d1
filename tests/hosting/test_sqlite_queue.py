"""The embedded queue between processes, and through their deaths."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent_core.errors import QueueUnavailable
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.proactive.queue import QueueMessage
from agent_core.testing import ManualClock

SCRIPT = Path(__file__).parent / "queue_process.py"
ROOT = Path(__file__).parents[2]


async def start(work: str, path: Path) -> Process:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), work, str(path), stdin=PIPE, stdout=PIPE, env=environment
    )


async def line(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        return (await process.stdout.readline()).decode().strip()


async def kill(process: Process) -> list[str]:
    """SIGKILL; returns what it had printed until then."""
    process.kill()
    output, _ = await process.communicate()
    return output.decode().splitlines()


async def test_two_processes_receive_each_message_exactly_once(tmp_path: Path) -> None:
    path = tmp_path / "queues.db"
    queue = SqliteQueue(path, "work", now=lambda: datetime.now(UTC))
    for number in range(1000):
        await queue.send(QueueMessage(b"{}", str(number)))
    processes = [await start("receive", path) for _ in range(2)]
    assert [await line(each) for each in processes] == ["ready", "ready"]
    told = [asyncio.create_task(each.communicate(b"go\n")) for each in processes]
    outputs = [output.decode().split() for output, _ in await asyncio.gather(*told)]
    assert [each.returncode for each in processes] == [0, 0]
    assert sorted(map(int, outputs[0] + outputs[1])) == list(range(1000))
    assert all(outputs), "one of them did everything"
    assert await queue.count() == 0
    await queue.close()


async def test_the_message_of_a_killed_receiver_comes_back_after_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "queues.db"
    clock = ManualClock(datetime.now(UTC))
    queue = SqliteQueue(path, "work", now=clock.now)
    await queue.send(QueueMessage(b"{}", "a"))
    holder = await start("hold", path)
    assert await line(holder) == "a"
    await kill(holder)
    assert await queue.receive() == []
    due = await queue.next_due()
    assert due is not None
    await clock.advance(due - clock.now())
    [received] = await queue.receive()
    assert received.delivery_count == 2
    await queue.close()


async def test_a_killed_sender_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "queues.db"
    sender = await start("send", path)
    acknowledged = [await line(sender) for _ in range(50)]
    acknowledged += await kill(sender)
    queue = SqliteQueue(path, "work", now=lambda: datetime.now(UTC))
    kept = {each.message.message_id for each in await queue.peek(limit=1_000_000)}
    assert set(acknowledged) <= kept
    # At most the one it was just sending is there without its acknowledgement.
    assert len(kept) - len(acknowledged) in (0, 1)
    await queue.close()


async def test_a_send_wakes_a_watcher_in_the_same_process(tmp_path: Path) -> None:
    """The app's own queue object and the engine's are two objects on one file."""
    sender = SqliteQueue(tmp_path / "queues.db", "work", now=lambda: datetime.now(UTC))
    other = SqliteQueue(tmp_path / "queues.db", "other", now=lambda: datetime.now(UTC))
    receiver = SqliteQueue(tmp_path / "queues.db", "work", now=lambda: datetime.now(UTC))
    with receiver.watch() as changed, other.watch() as unchanged:
        await sender.send(QueueMessage(b"{}", "a"))
        async with asyncio.timeout(5):
            await changed.wait()
        assert not unchanged.is_set()
    for each in (sender, other, receiver):
        await each.close()


async def test_a_file_that_cannot_be_used_is_an_unavailable_queue(tmp_path: Path) -> None:
    path = tmp_path / "queues.db"
    path.write_bytes(b"this is no database, and long enough to be seen as none" * 100)
    queue = SqliteQueue(path, "work", now=lambda: datetime.now(UTC))
    with pytest.raises(QueueUnavailable, match="work"):
        await queue.send(QueueMessage(b"{}", "a"))
    await queue.close()
