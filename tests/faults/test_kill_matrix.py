"""kill -9 at every fault point of a delivery, once and twice, with redelivery: what is promised holds (issue's matrix).

The fault points are found, not listed: a life without a kill notes each one it reaches, and then every one of them is
the end of another. After the first death a life is watched the same way, for the points of the second.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent_core.activity.json_text import dump
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.proactive.queue import QueueMessage
from tests.faults.kill_worker import CONVERSATION, Life
from tests.serving import serve
from tests.stories.running import ROOT

START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
# All pairs of points take minutes: AGENT_TESTS_EXAMPLES=100000 pytest tests/faults/test_kill_matrix.py
PAIRS = int(os.environ.get("AGENT_TESTS_EXAMPLES", "6"))
WORKERS = 2
# How the channel answers the first call of a delivery; the rest it takes.
ANSWERS = {
    "throttled": Response(b"{}", 429, {"retry-after": "60"}, "application/json"),
    "refused": Response(b"{}", 400, media_type="application/json"),
    "broken": Response(b"{}", 500, media_type="application/json"),
}
SCENARIOS = {
    "update": ["plain", "slow", "throttled", "refused", "broken"],
    "park": ["plain", "slow", "two", "throttled", "refused", "broken"],
    "resend": ["plain", "slow", "two", "throttled", "refused", "broken"],
}


class Channel:
    """Notes what every case's lives send, and kills the one that is to die while its request is here."""

    def __init__(self) -> None:
        self.calls: dict[str, list[tuple[str, str, str]]] = {}
        self.scenarios: dict[str, str] = {}

    def app(self) -> Starlette:
        """The service."""

        async def take(request: Request) -> Response:
            body, case = await request.json(), request.headers["x-case"]
            calls = self.calls.setdefault(case, [])
            answer = ANSWERS.get(self.scenarios.get(case, ""))
            refuses = answer is not None and (not calls or answer.status_code == 400)
            # A 500 says nothing about whether it was done; here it was.
            done = "" if refuses and answer is not None and answer.status_code != 500 else body["text"]
            calls.append((request.method, request.path_params["rest"], done))
            if request.headers["x-dies"]:
                os.kill(int(request.headers["x-dies"]), signal.SIGKILL)
            if refuses and answer is not None:
                return answer
            return Response(json.dumps({"id": f"sent{len(calls)}"}), 201, media_type="application/json")

        return Starlette(routes=[Route("/{rest:path}", take, methods=["POST", "PUT"])])


class Workers:
    """Processes that fork a life each time they are asked for one."""

    def __init__(self) -> None:
        self._free: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()
        self._all: list[asyncio.subprocess.Process] = []

    async def start(self) -> None:
        """Start them."""
        for _ in range(WORKERS):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.faults.kill_worker",
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            self._all.append(process)
            self._free.put_nowait(process)

    async def live(self, life: Life) -> bool:
        """Live this life; whether it ended by itself and not at its fault point."""
        process = await self._free.get()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(asdict(life)).encode() + b"\n")
            ended = int(await process.stdout.readline())
        finally:
            self._free.put_nowait(process)
        assert ended in (0, -signal.SIGKILL), f"a life failed by itself: {life}"
        return ended == 0

    async def close(self) -> None:
        """End them."""
        for process in self._all:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()


@dataclass
class Setting:
    """The channel, the workers, and the files of an agent that was asked to order something."""

    channel: Channel
    workers: Workers
    template: Path
    numbers: itertools.count[int] = field(default_factory=itertools.count)


@dataclass
class Case:
    """One delivery and its deaths.

    Attributes:
        kills: the fault points to die at, one life after the other; then a life that ends by itself.
        copies: of the message on the callback queue.
    """

    setting: Setting
    mode: str
    scenario: str
    kills: tuple[str, ...]
    copies: int
    name: str = ""
    traces: list[list[str]] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)

    async def run(self) -> Case:
        """Publish it, and work on it life after life."""
        setting, self.name = self.setting, f"case{next(self.setting.numbers)}"
        setting.channel.scenarios[self.name] = self.scenario
        data = setting.template.parent / self.name
        shutil.copytree(setting.template, data)
        await self._publish(data)
        start = START
        for kill_at in (*self.kills, ""):
            life = Life(str(data), self.name, start.isoformat(), kill_at, self.scenario)
            over = await setting.workers.live(life)
            lines = _taken(data / "trace")
            self.traces.append([line.split(" ", 1)[1] for line in lines if " end " not in line])
            start = datetime.fromisoformat(lines[-1].split(" ", 1)[0])
            if over:
                self.end = json.loads(lines[-1].split(" end ", 1)[1])
                break
            assert kill_at in self.traces[-1]  # a request on the wire is not the only thing under way
        shutil.rmtree(data)
        return self

    async def _publish(self, data: Path) -> None:
        queue = SqliteQueue(data / "queues.db", "callbacks", now=lambda: START)
        body = {"id": "k1", "conversationId": CONVERSATION, "continuation": self.mode}
        for number in range(self.copies):
            await queue.send(QueueMessage(dump(body), f"copy{number}"))
        await queue.close()

    @property
    def calls(self) -> list[tuple[str, str, str]]:
        """What the channel was told: method, path, and the text if it was shown."""
        return self.setting.channel.calls.get(self.name, [])

    def check(self) -> None:
        """What the mode promises."""
        shown, letters = Counter(text for _, _, text in self.calls if text), self.end["letters"]
        story = f"{self} {self.calls} {self.end}"
        assert self.end["undeliverable"] == 0, story
        assert len(letters) <= 1, story
        # Nothing is silently lost: what the user does not see is reported.
        texts = ["done", "done too"] if self.scenario == "two" else ["done"]
        assert letters or all(shown[text] for text in texts), story
        if not letters:
            # What the turn changed is kept with its last message, once.
            assert self.end["count"] == 1, story
        if self.mode == "update":
            # Every call is an edit of the placeholder: of all of them there is one final message.
            assert {(method, path) for method, path, _ in self.calls} <= {("PUT", self.calls[0][1])}, story
            assert letters == (["Rejected"] if self.scenario == "refused" else []), story
        if self.mode == "park":
            assert all(shown[text] <= 1 for text in texts), story
            assert set(letters) <= {"Unsure", "Rejected"}, story
        if self.mode == "resend":
            assert letters == (["Rejected"] if self.scenario == "refused" else []), story
            # Doubled only by those who died, or were not answered, when it had left.
            unsure = len(self.kills) + (self.scenario == "broken")
            assert all(shown[text] <= 1 + unsure for text in texts), story

    def __str__(self) -> str:
        return f"{self.mode}, {self.scenario}, killed {' and '.join(self.kills) or 'never'}, {self.copies} copies:"


def _taken(trace: Path) -> list[str]:
    lines = trace.read_text().splitlines()
    trace.unlink()
    return lines


@pytest.fixture(scope="module")
async def setting(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Setting]:
    channel, workers = Channel(), Workers()
    template = tmp_path_factory.mktemp("kills") / "template"
    template.mkdir()
    await workers.start()
    async with serve(channel.app()) as url:
        assert await workers.live(Life(str(template), "before", START.isoformat(), service_url=url))
        (template / "trace").unlink()
        yield Setting(channel, workers, template)
        await workers.close()


async def _all(cases: list[Case]) -> list[Case]:
    done = await asyncio.gather(*(case.run() for case in cases))
    for case in done:
        case.check()
    return list(done)


async def test_the_fault_points_are_before_and_after_every_write_every_call_and_every_settlement(
    setting: Setting,
) -> None:
    scenarios = [("update", "plain"), *(("park", each) for each in SCENARIOS["park"])]
    whole = await _all([Case(setting, mode, scenario, (), 1) for mode, scenario in scenarios])
    steps = [
        "claim 1",
        "fulfilment 1",
        "step 1",
        "step 2",
        "renewal 1",
        "sent 1",
        "dead letter 1",
        "dead 1",
        "parked 1",
        "release 1",
    ]
    steps += ["copy 1", "complete 1", "claim 2", "complete 2", "POST 1", "POST 2", "PUT 1"]
    expected = {f"{when} {step}" for step in steps for when in ("before", "after")}
    expected |= {f"on the wire {call}" for call in ("POST 1", "POST 2", "PUT 1")} | {
        "after receive 1",
        "after receive 2",
    }
    assert {point for case in whole for point in case.traces[0]} == expected
    assert len(expected) >= 25


@pytest.mark.parametrize(("mode", "scenario"), [(mode, each) for mode in SCENARIOS for each in SCENARIOS[mode]])
async def test_whatever_moment_a_worker_is_killed_at_once_or_twice_the_promise_of_the_mode_holds(
    setting: Setting, mode: str, scenario: str
) -> None:
    case = partial(Case, setting, mode, scenario)
    (whole,) = await _all([case((), 1)])
    # It comes again when its lock is over, or a copy of it is there at once.
    copies = itertools.cycle([1, 2])
    once = await _all([case((point,), next(copies)) for point in whole.traces[0]])
    assert all(len(each.traces) == 2 for each in once)
    pairs = [(each, point) for each in once for point in each.traces[1]]
    # Evenly over all of them, so that each point is first and each is second.
    chosen = pairs[:: max(1, len(pairs) // PAIRS)]
    twice = await _all([case((*each.kills, point), each.copies) for each, point in chosen])
    assert all(len(each.traces) >= 2 for each in twice)
