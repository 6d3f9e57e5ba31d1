"""Tells the agent that the work is done: python publish.py ticket.json '{"number": 1292}'

`ticket.json` is what the agent handed over, from `context.expect_callback(...).to_dict()`.
Needs: pip install azure-servicebus azure-identity. It connects with SERVICE_BUS_CONNECTION (a connection string), or to
SERVICE_BUS_NAMESPACE (name.servicebus.windows.net) as whoever runs it, with the role Azure Service Bus Data Sender.
"""

import json
import os
import sys
import uuid
from pathlib import Path

from azure.servicebus import ServiceBusClient, ServiceBusMessage


def connect() -> ServiceBusClient:
    connection = os.environ.get("SERVICE_BUS_CONNECTION")
    if connection:
        return ServiceBusClient.from_connection_string(connection)
    from azure.identity import DefaultAzureCredential

    return ServiceBusClient(os.environ["SERVICE_BUS_NAMESPACE"], DefaultAzureCredential())


ticket = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
event = {
    "specversion": "1.0",
    "id": str(uuid.uuid4()),  # the same source and id again has no second effect: keep it for a retry
    "source": "/samples/python",
    "type": "agent.callback.result.v1",
    "data": {**ticket, "value": json.loads(sys.argv[2])},
}
message = ServiceBusMessage(
    json.dumps(event),
    content_type="application/cloudevents+json",
    message_id=event["id"],  # lets the queue drop a duplicate before the agent sees it
    session_id=ticket["conversationId"][:128],  # what a queue with sessions keeps in order
    subject=event["type"],
)
with connect() as client, client.get_queue_sender(os.environ.get("CALLBACK_QUEUE", "agent-callbacks")) as sender:
    sender.send_messages(message)
