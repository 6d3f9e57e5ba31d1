"""An agent that shows what a channel can show: an answer that grows, with its sources, an edit, and cards that answer.

Run it here, with nothing installed but Python: python -m agent_core.local --app samples/streaming_agent/function_app.py
"""

import asyncio
from typing import Any

import azure.functions as func

from agent_core import (
    AgentApplication,
    AzureServices,
    Citation,
    FunctionsHost,
    MessageFactory,
    Settings,
    TurnContext,
    TurnState,
    http_api,
)

services = AzureServices(Settings.from_environment())
agent = AgentApplication(services.adapter, services.store, services.queue, tickets=services.tickets)
host = FunctionsHost(agent, services)
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
app.register_functions(http_api(host))

# What a model would say, token by token, and how long it would think about each.
ANSWER = """A laptop is delivered **within five days** [doc2]. If it has to be set up first, for instance because you
develop software, it takes *two days more* [doc1].

You can follow the order in this chat, and cancel it until it is packed [doc2]."""
SOURCES = [
    Citation("IT handbook", "https://example.com/handbook", "Who gets which device, and what is installed on it."),
    Citation("Terms of delivery", "https://example.com/delivery", "How long a delivery takes, and how to cancel it."),
    Citation("Canteen menu", "https://example.com/menu", "Never cited, so never shown."),
]
PAUSE = 0.1


# From the queue: a stream outlives the seconds that a channel waits for its answer.
@agent.message("stream", long_running=True)
async def stream(context: TurnContext, state: TurnState) -> None:
    async with context.streaming_response as stream:
        stream.queue_informative_update("Looking into the handbook…")
        await asyncio.sleep(10 * PAUSE)
        stream.set_generated_by_ai_label()
        stream.set_feedback_loop()
        stream.queue_text_chunk("", citations=SOURCES)
        for token in ANSWER.split(" "):
            stream.queue_text_chunk(f"{token} ")
            await asyncio.sleep(PAUSE)


@agent.message("edit", long_running=True)
async def edit(context: TurnContext, state: TurnState) -> None:
    message = await context.send_activity("Packing your laptop…")
    await asyncio.sleep(20 * PAUSE)
    if context.channel.supports_update:
        await context.update_activity(MessageFactory.text("Your laptop is packed.").replace(id=message.id))
    else:
        await context.send_activity("Your laptop is packed.")


@agent.message("card")
async def card(context: TurnContext, state: TurnState) -> None:
    await context.send_activity(MessageFactory.adaptive_card(order_card(ordered=0)))


@agent.invoke("adaptiveCard/action")  # Action.Execute: the answer is the card that takes this one's place
async def order_one_more(context: TurnContext, state: TurnState) -> dict[str, Any]:
    ordered = context.activity.value["action"].get("data", {}).get("ordered", 0) + 1
    return {
        "statusCode": 200,
        "type": "application/vnd.microsoft.card.adaptive",
        "value": order_card(ordered=ordered),
    }


@agent.message()
async def anything_else(context: TurnContext, state: TurnState) -> None:
    if isinstance(context.activity.value, dict):  # Action.Submit: what the user put into the card
        await context.send_activity(f"Noted: {context.activity.value.get('note') or 'nothing'}.")
        return
    help_text = "Say *stream*, *edit* or *card*."
    await context.send_activity(MessageFactory.suggested_actions(["stream", "edit", "card"], help_text))


def order_card(*, ordered: int) -> dict[str, Any]:
    """The card; `ordered` is kept in it, so that the agent need not remember."""
    return {
        "type": "AdaptiveCard",
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": "1.5",
        "body": [
            {"type": "TextBlock", "text": f"Laptops ordered: {ordered}", "weight": "Bolder"},
            {"type": "Input.Text", "id": "note", "placeholder": "A note for the supplier"},
        ],
        "actions": [
            {"type": "Action.Execute", "title": "One more", "verb": "order", "data": {"ordered": ordered}},
            {"type": "Action.Submit", "title": "Send the note"},
        ],
    }


@app.route("messages")
async def messages(req: func.HttpRequest) -> func.HttpResponse:
    """An activity comes in: run a turn, and reply."""
    return await host.process_activity(req)


@app.service_bus_queue_trigger(
    "message", connection="ServiceBusConnection", queue_name="%WORK_QUEUE%", data_type=func.DataType.BINARY
)
async def work(message: func.ServiceBusMessage) -> None:
    """What the agent sent itself: its long-running turns."""
    await host.do_work(message)
