"""A process of its own that works on an embedded queue, for the tests that kill it: `send` or `receive`, FILE."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.proactive.queue import QueueMessage


def queue(path: Path) -> SqliteQueue:
    return SqliteQueue(path, "work", now=lambda: datetime.now(UTC), lock_duration=timedelta(seconds=1))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def send(path: Path) -> None:
    """Send for ever, and print each id once the queue has taken it."""
    work = queue(path)
    number = 0
    while True:
        await work.send(QueueMessage(b"{}", str(number)))
        say(str(number))
        number += 1


async def receive(path: Path) -> None:
    """Once told to, receive and complete until the queue is empty, and print the ids."""
    work = queue(path)
    await work.count()
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    while received := await work.receive(limit=4):
        for each in received:
            say(each.message.message_id)
            await work.complete(each)
    await work.close()


async def hold(path: Path) -> None:
    """Receive one message, print its id, and work on it for ever."""
    [received] = await queue(path).receive()
    say(received.message.message_id)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run({"send": send, "receive": receive, "hold": hold}[sys.argv[1]](Path(sys.argv[2])))
