"""Many callbacks, each delivered up to five times, in any order, to four processes: each is seen once (R2).

`AGENT_TESTS_LONG=1 AGENT_TESTS_CALLBACKS=10000 pytest tests/faults/test_many_callbacks.py` does it with ten thousand.
"""

import asyncio
import itertools
import json
import os
import random
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent_core import ConversationReference
from agent_core.activity.conversation_reference import ConversationAccount
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.queue import QueueMessage
from agent_core.turn.claims_identity import ClaimsIdentity
from tests.faults.callback_worker import CONTINUATION, Worker
from tests.serving import FakeChannel, serve

CALLBACKS = int(os.environ.get("AGENT_TESTS_CALLBACKS", "80"))
PER_CONVERSATION = 10
CONSUMERS = 4
ROOT = Path(__file__).parent.parent.parent


def conversation_of(text: str) -> str:
    return text.partition(" ")[0]


def deliveries(order: random.Random, *, in_order: bool) -> list[tuple[str, str]]:
    """Each callback's text one to five times, with ids of their own, shuffled.

    In order means that the first copies in a conversation are in the order of their numbers; the others may be anywhere
    behind.
    """
    copies = [
        f"c{number // PER_CONVERSATION} {number % PER_CONVERSATION}"
        for number in range(CALLBACKS)
        for _ in range(order.randint(1, 5))
    ]
    order.shuffle(copies)
    if in_order:
        names: dict[str, dict[str, str]] = defaultdict(dict)
        for text in copies:
            known = names[conversation_of(text)]
            known.setdefault(text, f"{conversation_of(text)} {len(known)}")
        copies = [names[conversation_of(text)][text] for text in copies]
    return [(text, f"m{number}") for number, text in enumerate(copies)]


async def publish(worker: Worker, service_url: str, published: list[tuple[str, str]]) -> None:
    for conversation in dict.fromkeys(conversation_of(text) for text, _ in published):
        reference = ConversationReference(
            channel_id="emulator", service_url=service_url, conversation=ConversationAccount(id=conversation)
        )
        await worker.agent.proactive.store_conversation(Conversation(reference, ClaimsIdentity(), datetime.now(UTC)))
    for text, message_id in published:
        body = {"id": text, "conversationId": conversation_of(text), "continuation": CONTINUATION, "value": text}
        await worker.callbacks.send(
            QueueMessage(json.dumps(body).encode(), message_id, session_id=conversation_of(text))
        )


async def consumed(folder: Path, mode: str) -> list[tuple[str, int, int]]:
    """Four processes work until nothing is left; returns which handlers ran, from when to when."""
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.faults.callback_worker", str(folder), mode, cwd=ROOT, stdout=-1
        )
        for _ in range(CONSUMERS)
    ]
    said = await asyncio.gather(*(process.communicate() for process in processes))
    assert [process.returncode for process in processes] == [0] * CONSUMERS
    turns = [line.split() for out, _ in said for line in out.decode().splitlines()]
    return [(conversation, int(began), int(ended)) for conversation, began, ended in turns]


@pytest.mark.parametrize("mode", ["sessions", "no sessions"])
async def test_r2_each_callback_is_seen_once_however_often_and_to_whom_it_is_delivered(
    tmp_path: Path, mode: str
) -> None:
    """Turns of one conversation never overlap; from a queue with sessions they keep the order of publishing too."""
    sessions = mode == "sessions"
    published = deliveries(random.Random(6), in_order=sessions)
    channel, worker = FakeChannel(), Worker(tmp_path, sessions=sessions)
    async with serve(channel.app()) as url:
        await publish(worker, url, published)
        turns = await consumed(tmp_path, mode)
        letters = [letter async for letter in worker.agent.dead_letters.list()]
        await worker.close()
    assert sorted(channel.texts) == sorted({text for text, _ in published})
    assert len(channel.texts) == CALLBACKS
    assert letters == []

    by_conversation: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for conversation, began, ended in turns:
        by_conversation[conversation].append((began, ended))
    for spans in by_conversation.values():
        spans.sort()
        assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(spans))
    if sessions:
        seen: dict[str, list[int]] = defaultdict(list)
        for text in channel.texts:
            seen[conversation_of(text)].append(int(text.split()[1]))
        assert all(numbers == sorted(numbers) for numbers in seen.values())
