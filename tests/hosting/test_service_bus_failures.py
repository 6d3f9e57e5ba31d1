"""What Service Bus does in bad moments, held at the SDK's boundary: so it is tested on every machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import pytest
from azure.core.exceptions import AzureError
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import (
    MessageSizeExceededError,
    ServiceBusCommunicationError,
    ServiceBusConnectionError,
    ServiceBusError,
    ServiceBusQuotaExceededError,
    ServiceBusServerBusyError,
)

from agent_core.errors import QueueUnavailable
from agent_core.hosting.service_bus_queue import ServiceBusConnection, ServiceBusQueue
from agent_core.proactive.queue import QueueMessage


class Service:
    """Opens senders like those of the SDK, which take messages unless the next of `answers` says otherwise.

    A sender that is not open yet cannot be used by two at once: the SDK loses their messages.
    """

    def __init__(self, answers: Sequence[Exception | str] = ()) -> None:
        self.answers = list(answers)
        self.taken: list[str] = []
        self.opened = self.closed = 0
        self.opening = False

    def queue(self, seconds: float = 5) -> ServiceBusQueue:
        return ServiceBusQueue(_Connection("Endpoint=sb://x/", service=self), "q", timeout=timedelta(seconds=seconds))


@dataclass(frozen=True)
class _Connection(ServiceBusConnection):
    service: Service | None = None

    def open_client(self) -> ServiceBusClient:
        assert self.service is not None
        return cast(ServiceBusClient, _Client(self.service))


class _Client:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._open = False

    def get_queue_sender(self, name: str) -> _Client:
        return self

    async def send_messages(self, message: ServiceBusMessage) -> None:
        service = self._service
        if not self._open:
            assert not service.opening, "'NoneType' object has no attribute 'client_ready_async'"
            service.opening = True
            await asyncio.sleep(0)
            service.opening, self._open = False, True
            service.opened += 1
        answer = service.answers.pop(0) if service.answers else "taken"
        if answer == "silence":
            await asyncio.Event().wait()
        if isinstance(answer, LostAnswer):
            service.taken.append(str(message.message_id))
            raise answer.error
        if isinstance(answer, Exception):
            raise answer
        service.taken.append(str(message.message_id))

    async def close(self) -> None:
        self._service.closed += 1


class LostAnswer(Exception):
    """The service took it, and the sender hears an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error


DETACHED = ServiceBusConnectionError(message="amqp:link:detach-forced")
DROPPED = ServiceBusCommunicationError(message="the socket was closed")


async def test_one_sender_is_opened_once_and_sends_take_turns() -> None:
    service = Service()
    queue = service.queue()
    await asyncio.gather(*(queue.send(QueueMessage(b"{}", f"m{number}")) for number in range(50)))
    assert sorted(service.taken) == sorted(f"m{number}" for number in range(50))
    assert service.opened == 1
    await queue.close()


@pytest.mark.parametrize("error", [DETACHED, DROPPED])
async def test_after_a_link_was_detached_or_a_connection_dropped_it_is_sent_once_more_on_a_fresh_one(
    error: Exception,
) -> None:
    service = Service(["taken", error])
    queue = service.queue()
    await queue.send(QueueMessage(b"{}", "m1"))
    await asyncio.gather(*(queue.send(QueueMessage(b"{}", f"m{number}")) for number in (2, 3, 4)))
    assert service.taken == ["m1", "m2", "m3", "m4"]
    assert service.opened == 2
    await queue.close()


async def test_an_ambiguous_send_is_repeated_under_its_id_which_the_queue_takes_once() -> None:
    service = Service([LostAnswer(DROPPED)])
    await service.queue().send(QueueMessage(b"{}", "m1"))
    assert service.taken == ["m1", "m1"]


@pytest.mark.parametrize(
    "error",
    [
        ServiceBusServerBusyError(message="com.microsoft:server-busy"),
        ServiceBusQuotaExceededError(message="full"),
        ServiceBusError("com.microsoft:timeout"),
        AzureError("something else"),
    ],
)
async def test_a_busy_or_failing_service_is_not_asked_again_and_the_link_is_not_used_again(error: Exception) -> None:
    service = Service([error])
    queue = service.queue()
    with pytest.raises(QueueUnavailable, match="m1"):
        await queue.send(QueueMessage(b"{}", "m1"))
    assert service.taken == []
    await queue.send(QueueMessage(b"{}", "m1"))
    assert service.taken == ["m1"]
    assert service.opened == 2
    await queue.close()


async def test_a_service_that_fails_twice_is_an_unavailable_queue() -> None:
    service = Service([DETACHED, DETACHED])
    with pytest.raises(QueueUnavailable, match="detach"):
        await service.queue().send(QueueMessage(b"{}", "m1"))
    assert service.opened == service.closed / 2 == 2


async def test_a_service_that_falls_silent_is_an_unavailable_queue_that_says_sending_again_is_safe() -> None:
    service = Service(["taken", "silence"])
    queue = service.queue(seconds=0.05)
    await queue.send(QueueMessage(b"{}", "m1"))
    with pytest.raises(QueueUnavailable, match="same id again is safe"):
        await queue.send(QueueMessage(b"{}", "m2"))
    await queue.send(QueueMessage(b"{}", "m2"))
    assert service.taken == ["m1", "m2"]


@pytest.mark.parametrize(
    ("error", "words"),
    [(MessageSizeExceededError(message="big"), "too large"), (ServiceBusError("amqp:not-allowed"), "session_id")],
)
async def test_what_can_never_be_sent_is_a_value_error(error: Exception, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        await Service([error]).queue().send(QueueMessage(b"{}", "m1"))
