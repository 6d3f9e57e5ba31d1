"""Signing in over real sockets and real files: the invokes of many clients, several instances, and a kill."""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from agent_core.proactive.awaiting_sign_in import LOOKS
from agent_core.testing import ManualClock
from tests.channel.sign_in_app import AGENT_SECRET, SignInApp
from tests.serving import FakeChannel, serve
from tests.token_service import FakeTokenService, TokenCall, reply

USER = ("29:user", "graph-connection", "msteams")
ROOT = Path(__file__).parent.parent.parent


@dataclass
class Scene:
    """Two instances of one app, the channel that they answer to, and the token service."""

    folder: Path
    channel: FakeChannel
    service: FakeTokenService
    urls: tuple[str, str]
    clock: ManualClock
    instances: tuple[SignInApp, SignInApp]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    channel, service, clock = FakeChannel(), FakeTokenService(), ManualClock()
    async with serve(channel.app()) as channel_url, serve(service.app()) as token_url:
        instances = (
            SignInApp(tmp_path, channel_url, token_url, clock),
            SignInApp(tmp_path, channel_url, token_url, clock),
        )
        yield Scene(tmp_path, channel, service, (channel_url, token_url), clock, instances)
        for instance in instances:
            await instance.close()


async def test_p5_3_the_card_goes_to_the_channel_and_the_message_is_answered_202(scene: Scene) -> None:
    first, _ = scene.instances
    assert (await first.post("message", text="profile")).status == 202
    (call,) = scene.channel.calls
    (card,) = call.body["attachments"]
    assert card["contentType"] == "application/vnd.microsoft.card.oauth"
    assert card["content"]["connectionName"] == "graph-connection"
    assert card["content"]["buttons"][0]["value"] == "https://token.example/sign-in"
    assert card["content"]["tokenExchangeResource"] == {"id": "exchange-1", "uri": "api://agent", "providerId": "entra"}
    assert card["content"]["tokenPostResource"] == {"sasUrl": "https://token.example/post"}
    assert "authorization" not in call.headers


@pytest.mark.parametrize("clients", [2, 20])
async def test_p5_4_however_many_clients_answer_one_exchange_is_made(scene: Scene, clients: int) -> None:
    """Each with a token of its own, at once, half of them to another instance of the app."""
    await scene.instances[0].post("message", text="profile")
    for number in range(clients):
        scene.service.exchangeable[f"client token {number}"] = "a token"

    async def slowly(call: TokenCall) -> None:
        await asyncio.sleep(0.3)

    scene.service.before_answer = slowly
    answers = await asyncio.gather(
        *(scene.instances[number % 2].exchange(f"client token {number}") for number in range(clients))
    )
    assert [answer.status for answer in answers] == [200] * clients
    assert {answer.body for answer in answers} == {b'{"id":"exchange-1","connectionName":"graph-connection"}'}
    assert len(scene.service.called("/exchange")) == 1
    await asyncio.gather(*(instance.work() for instance in scene.instances))
    assert [token for instance in scene.instances for token in instance.tokens] == ["a token"]
    assert scene.channel.texts == ["Hello, you"]


async def test_p5_4_all_clients_are_told_that_consent_is_required(scene: Scene) -> None:
    await scene.instances[0].post("message", text="profile")
    answers = await asyncio.gather(*(scene.instances[number % 2].exchange("unknown") for number in range(6)))
    assert [answer.status for answer in answers] == [412] * 6
    assert set(json.loads(answers[0].body)) == {"id", "connectionName", "failureDetail"}
    assert len(scene.service.called("/exchange")) == 1


async def test_p5_4_an_exchange_whose_owner_died_is_taken_over(scene: Scene) -> None:
    first, second = scene.instances
    await first.post("message", text="profile")
    scene.service.exchangeable["client token"] = "a token"
    arrived = asyncio.Event()

    async def never(call: TokenCall) -> None:
        arrived.set()
        await asyncio.Event().wait()

    scene.service.before_answer = never
    dying = asyncio.create_task(first.exchange("client token"))
    await arrived.wait()
    dying.cancel()
    scene.service.before_answer = None
    second.adapter.sleep = scene.clock.advance
    assert (await second.exchange("client token")).status == 500, "the client is to ask again"
    await scene.clock.advance(timedelta(seconds=20))
    assert (await second.exchange("client token")).status == 200


@pytest.mark.parametrize(
    ("status", "expected"),
    [(500, 400), (404, 412), (503, 400), (401, 400)],
)
async def test_p5_4_what_the_service_answers_decides_what_the_client_does(
    scene: Scene, status: int, expected: int
) -> None:
    first, _ = scene.instances
    await first.post("message", text="profile")
    scene.service.answers = [lambda: reply({"error": {"message": "canary"}}, status)] * 2
    answer = await first.exchange("canary")
    assert answer.status == expected
    assert b"canary" not in answer.body


async def test_p5_4_a_kill_between_exchange_and_resume_leaves_what_can_be_resumed(scene: Scene) -> None:
    """The process dies with the exchange on the wire: the service has the token, and nobody was told."""
    scene.service.exchangeable["client token"] = "a token"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.channel.sign_in_app",
        str(scene.folder),
        *scene.urls,
        cwd=ROOT,
    )

    async def kill_at_exchange(call: TokenCall) -> None:
        if call.path.endswith("/exchange"):
            process.kill()

    scene.service.before_answer = kill_at_exchange
    assert await process.wait() < 0
    assert scene.service.tokens == {USER: "a token"}
    first, second = scene.instances
    await asyncio.gather(first.work(), second.work())
    assert first.tokens + second.tokens == []
    await scene.clock.advance(LOOKS[0])
    await asyncio.gather(first.work(), second.work())
    await scene.clock.advance(timedelta(days=1))
    await asyncio.gather(first.work(), second.work())
    assert first.tokens + second.tokens == ["a token"]
    assert scene.channel.texts == ["Hello, you"]


async def test_no_token_and_no_code_is_in_a_log_a_file_or_an_answer(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = scene.instances
    with caplog.at_level(logging.DEBUG):
        await first.post("message", text="profile")
        scene.service.codes["918273"] = (USER, "canary-user-token")
        answers = [
            await first.exchange("canary-client-token"),
            await first.post("invoke", name="signin/verifyState", value={"state": "918273"}),
            await first.post("event", name="tokens/response", value={"token": "canary", "connectionName": "graph"}),
        ]
        scene.service.answers = [lambda: reply({"error": {"code": "X", "message": "canary"}}, 500)]
        answers.append(await first.post("message", text="profile"))
        await first.work()
    assert [answer.status for answer in answers] == [412, 200, 202, 202]
    assert first.tokens == ["canary-user-token"]
    for secret in ("canary", AGENT_SECRET, "918273"):
        assert secret not in caplog.text
        assert not any(secret.encode() in answer.body for answer in answers)
        for file in scene.folder.iterdir():
            assert secret.encode() not in file.read_bytes(), file
        assert secret not in str([(call.path, call.headers, call.body) for call in scene.channel.calls])
