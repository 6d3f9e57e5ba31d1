"""Between Azure Functions and the agent: turns what a trigger brings into what the agent takes, and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import MAXYEAR, UTC, timedelta
from typing import TYPE_CHECKING

import azure.functions as func

from agent_core.agent_application import AgentApplication
from agent_core.channel.cloud_adapter import HttpRequest
from agent_core.errors import QueueUnavailable, SettingsError, StoreError
from agent_core.hosting import clock
from agent_core.hosting.azure_services import AzureServices
from agent_core.hosting.settings import TICKETS
from agent_core.proactive.queue import Property, QueueMessage

if TYPE_CHECKING:  # loaded with the first schedule, so that a cold start is spared it
    from agent_core.proactive.notifications import Notifications

logger = logging.getLogger(__name__)


# The timer ticks once a minute, and what is left is for the next tick.
TICK = timedelta(seconds=55)


class FunctionsHost:
    """What the functions of an app call, one method for each trigger.

    For a queue trigger, returning means that the message is settled and raising that it is to be delivered again.
    """

    def __init__(self, agent: AgentApplication, services: AzureServices) -> None:
        self._agent = agent
        self.services = services

    @property
    def notifications(self) -> Notifications:
        """The agent's."""
        return self._agent.notifications

    async def process_activity(self, request: func.HttpRequest) -> func.HttpResponse:
        """An activity of a channel: run its turn. Never raises for what a request or a handler does."""
        answer = await self.services.adapter.process_activity(_request(request), self._agent)
        return func.HttpResponse(answer.body, status_code=answer.status, headers=dict(answer.headers))

    async def continue_conversation(self, message: func.ServiceBusMessage) -> None:
        """A message of the callback queue: continue the conversation it names."""
        if self._agent.tickets is None and self.services.settings.ticket_mode == "required":
            raise SettingsError(
                f"Callbacks need tickets ({TICKETS}), and this agent looks at none: "
                "AgentApplication(services.adapter, services.store, services.queue, tickets=services.tickets)"
            )
        await self._agent.receive_callback(_message(message))

    async def do_work(self, message: func.ServiceBusMessage) -> None:
        """A message of the work queue, which the agent sent itself."""
        await self._agent.do_work(_message(message))

    async def send_due_notifications(self) -> None:
        """The timer's tick: hand every notification that is due over to the work queue, as far as 55 seconds reach.

        Beside that, what the queues put aside by themselves becomes dead letters of ours, which can be decided about.
        """
        now = clock.now()
        await self._agent.notifications.send_due(now, until=now + TICK)
        try:
            await self.services.drain_dead_letters(self._agent.dead_letters)
        except (QueueUnavailable, StoreError) as error:
            # The tick has done what it is for; the next one tries again.
            logger.warning("What the queues put aside stays there for now: %s", error)


def _request(request: func.HttpRequest) -> HttpRequest:
    headers: Mapping[str, str] = request.headers
    return HttpRequest(
        request.method,
        request.url,
        {str(name).lower(): str(value) for name, value in headers.items()},
        request.get_body(),
    )


def _message(message: func.ServiceBusMessage) -> QueueMessage:
    properties: dict[str, Property] = dict(message.application_properties or {})
    # In UTC, and without saying so. Without an end it is the last moment there is.
    expires = message.expires_at_utc
    if expires is not None and expires.year == MAXYEAR:
        expires = None
    return QueueMessage(
        body=message.get_body(),
        # A publisher need not give an id; the number that the queue gives is unique in it.
        message_id=message.message_id or f"sequence-{message.sequence_number}",
        content_type=message.content_type or "",
        subject=message.subject,
        correlation_id=message.correlation_id,
        session_id=message.session_id,
        application_properties=properties,
        time_to_live=None if expires is None else expires.replace(tzinfo=UTC) - clock.now(),
    )
