"""Lives of one worker, each a process of its own that kills itself with SIGKILL at the fault point it is given.

`python -m tests.faults.kill_worker` reads a life per line, as JSON, forks for it, and writes how it ended: the number
of the signal, or 0. The imports are paid once; the process that dies, its files and its connections are real.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx

from agent_core import AgentApplication, TurnContext, TurnState
from agent_core.activity.json_text import dump
from agent_core.channel.cloud_adapter import AgentIdentity, CloudAdapter, HttpRequest
from agent_core.channel.connector_client import ConnectorClient
from agent_core.channel.http_client import HttpAnswer, HttpClient
from agent_core.channel.url_guard import UrlGuard
from agent_core.hosting.queued_message import LockLost
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.proactive.queue import QueueMessage
from agent_core.store.document_store import Create, Delete, DocumentStore, Operation, Replace
from agent_core.store.sqlite_store import SqliteStore
from agent_core.testing import ManualClock
from tests.serving import anywhere

CONVERSATION = "c1"
SSL_CONTEXT = httpx.create_ssl_context(trust_env=False)


@dataclass(frozen=True)
class Life:
    """What one process is to do.

    Attributes:
        data: the folder of its store and queues.
        service_url: of the channel for a life that takes an incoming message; None for one that works on the queues.
        case: tells the channel for which case it is called.
        start: the time on its clock, in ISO 8601.
        kill_at: the fault point to die at; empty for none.
        scenario: `slow` handlers work longer than until the lease is renewed, `two` send two messages; `tick` is a
            timer's tick before it works on the queues.
    """

    data: str
    case: str
    start: str
    kill_at: str = ""
    scenario: str = "plain"
    service_url: str | None = None


class FaultPoints:
    """Notes every point that is reached, with the time, and ends the process at the one that is asked for."""

    def __init__(self, life: Life, clock: ManualClock) -> None:
        self._kill_at = life.kill_at
        self._clock = clock
        self._trace = os.open(Path(life.data, "trace"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._counts: dict[str, int] = {}

    def numbered(self, what: str) -> str:
        """The name of this step among those of its life."""
        self._counts[what] = self._counts.get(what, 0) + 1
        return f"{what} {self._counts[what]}"

    def note(self, point: str) -> None:
        """This point is reached."""
        os.write(self._trace, f"{self._clock.now().isoformat()} {point}\n".encode())

    def reach(self, point: str) -> None:
        """This point is reached, and may be the end."""
        self.note(point)
        if point == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    async def around(self, what: str | None, work: Awaitable[Any]) -> Any:
        """Do this step with a point before and after it."""
        if what is None:
            return await work
        name = self.numbered(what)
        self.reach(f"before {name}")
        answer = await work
        self.reach(f"after {name}")
        return answer

    def dies_on_the_wire(self, name: str) -> bool:
        """Whether the channel is to end this process when it has the request."""
        self.note(f"on the wire {name}")
        return self._kill_at == f"on the wire {name}"


class KillingStore:
    """The store with fault points around each write of a delivery."""

    def __init__(self, store: DocumentStore, points: FaultPoints) -> None:
        self._store = store
        self._points = points
        self._tokens: set[str] = set()

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            what = None
            if name == "batch":
                what = self._named(args[2])
            elif name in ("create", "replace", "upsert"):
                what = str(args[1]["kind"]).replace("_", " ")
            return await self._points.around(what, method(*args, **kwargs))

        return call

    def _named(self, operations: list[Operation]) -> str:
        """What a batch is to the delivery."""
        bodies = [each.body for each in operations if isinstance(each, (Create, Replace))]
        if bodies[0]["kind"] == "schedule":
            return "claim of a schedule" if bodies[0]["claim"] else "advance"
        delivery = next((body for body in bodies if body["kind"] == "delivery"), None)
        if delivery is None:
            return "place in line"
        if delivery["token"] == "":
            return "release"
        if delivery["token"] not in self._tokens:
            self._tokens.add(delivery["token"])
            return "claim"
        if delivery["status"] == "claimed" and any(isinstance(each, Delete) for each in operations):
            return "fulfilment"
        if delivery["status"] == "sending" and len(bodies) == 1:
            return "step"
        return "renewal" if delivery["status"] in ("claimed", "sending") else delivery["status"]


class KillingQueue:
    """The work queue with fault points around each copy that is put on it."""

    def __init__(self, queue: SqliteQueue, points: FaultPoints) -> None:
        self._queue = queue
        self._points = points

    async def send(self, message: QueueMessage) -> None:
        await self._points.around("copy", self._queue.send(message))

    async def send_many(self, messages: Sequence[QueueMessage]) -> None:
        for message in messages:
            await self.send(message)

    async def close(self) -> None:
        await self._queue.close()


class KillingHttp(HttpClient):
    """The HTTP client with fault points around each request, and one while the channel has it."""

    case = ""
    points: FaultPoints

    async def request(self, method: str, url: str, **options: Any) -> HttpAnswer:
        name = self.points.numbered(method)
        self.points.reach(f"before {name}")
        dies = str(os.getpid()) if self.points.dies_on_the_wire(name) else ""
        headers = {**options.pop("headers"), "x-case": self.case, "x-dies": dies}
        answer = await super().request(method, url, headers=headers, **options)
        self.points.reach(f"after {name}")
        return answer


class Worker:
    """One life: the real agent over the files that the lives before it left."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.clock = ManualClock(datetime.fromisoformat(life.start))
        self.points = FaultPoints(life, self.clock)
        data, now = Path(life.data), self.clock.now
        self._store = SqliteStore(data / "store.db", now)
        self._queues = [SqliteQueue(data / "queues.db", name, now=now) for name in ("callbacks", "work")]
        self._http = KillingHttp(allow_address=anywhere, ssl_context=SSL_CONTEXT)
        self._http.case, self._http.points = life.case, self.points
        client = ConnectorClient(self._http, None, now, sleep=self.clock.advance, random=lambda: 0.5)
        self._adapter = CloudAdapter(
            identity=lambda: AgentIdentity(None, None),
            connector=lambda: client,
            guard=lambda: UrlGuard(development=True),
            now=now,
            sleep=self._sleep,
        )
        self.agent = AgentApplication(
            self._adapter,
            cast(DocumentStore, KillingStore(self._store, self.points)),
            KillingQueue(self._queues[1], self.points),
        )
        self._register()

    def _register(self) -> None:
        @self.agent.message("order")
        async def order(context: TurnContext, state: TurnState) -> None:
            placeholder = await context.send_activity("ordered")
            await context.expect_callback("update", replaces=placeholder)

        async def finish(context: TurnContext, state: TurnState) -> None:
            state.conversation["count"] = state.conversation.get("count", 0) + 1
            if self._life.scenario == "slow":
                await asyncio.sleep(0)  # let the renewal of the claim look at the clock first
                await self.clock.advance(timedelta(seconds=12))
            await context.send_activity("done")
            if self._life.scenario == "two":
                await context.send_activity("done too")

        self.agent.continuation("update")(finish)
        self.agent.continuation("park")(finish)
        self.agent.continuation("resend", when_unsure="resend")(finish)

        @self.agent.continuation("tell")
        async def tell(context: TurnContext, state: TurnState) -> None:
            await context.send_activity(f"{context.work_key}")

    async def _sleep(self, delay: timedelta) -> None:
        # Who waits in place for its turn in a conversation: nobody else moves this clock meanwhile.
        await (self.clock.advance(delay) if delay < timedelta(seconds=1) else self.clock.sleep(delay))

    async def live(self) -> None:
        """Take the incoming message, or work until the queues are empty."""
        if self._life.service_url is not None:
            await self._take_message(self._life.service_url)
        else:
            if self._life.scenario == "tick":
                await self.agent.notifications.send_due(self.clock.now())
            while await self._work():
                pass
        await self._note_the_end()
        await asyncio.gather(self._store.close(), self._http.close(), *(queue.close() for queue in self._queues))

    async def _take_message(self, service_url: str) -> None:
        body = {
            "type": "message",
            "id": "m1",
            "text": "order",
            "channelId": "emulator",
            "serviceUrl": service_url,
            "conversation": {"id": CONVERSATION},
            "from": {"id": "user"},
            "recipient": {"id": "agent"},
        }
        headers = {"content-type": "application/json"}
        request = HttpRequest("POST", f"{service_url}/api/messages", headers, dump(body))
        response = await self._adapter.process_activity(request, self.agent)
        assert response.status == 202, response

    async def _work(self) -> bool:
        """Work on the next message, when it is due; False if there is none."""
        due = [each for each in [await queue.next_due() for queue in self._queues] if each is not None]
        if not due:
            return False
        await self.clock.advance(max(timedelta(0), min(due) - self.clock.now()))
        for queue, take in zip(self._queues, (self.agent.receive_callback, self.agent.do_work), strict=True):
            for received in await queue.receive():
                self.points.reach(f"after {self.points.numbered('receive')}")
                await take(received.message)
                # Lost to a process whose clock is ahead, which delivers it again.
                with suppress(LockLost):
                    await self.points.around("complete", queue.complete(received))
        return True

    async def _note_the_end(self) -> None:
        conversation = await self.agent.proactive.get_conversation(CONVERSATION)
        end = {
            "letters": [letter.reason async for letter in self.agent.dead_letters.list()],
            "count": conversation.state.get("count", 0) if conversation else 0,
            "undeliverable": sum([len(await queue.dead_letters()) for queue in self._queues]),
        }
        self.points.note(f"end {json.dumps(end)}")


def main() -> None:
    """Fork for each life that is read, and say how it ended."""
    logging.disable()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(Worker(Life(**json.loads(line))).live())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
