"""The laptop-order agent: what it says, and what wakes it."""

import asyncio
import logging
import re
from datetime import timedelta

import azure.functions as func

from agent_core import AgentApplication, AzureServices, FunctionsHost, Settings, TurnContext, TurnState, http_api

logger = logging.getLogger(__name__)

services = AzureServices(Settings.from_environment())  # connects on first use
agent = AgentApplication(services.adapter, services.store, services.queue, tickets=services.tickets)
host = FunctionsHost(agent, services)
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)  # the adapter checks the channel's token
app.register_functions(http_api(host))


@agent.members_added  # never for the agent itself
async def welcome(context: TurnContext, state: TurnState) -> None:
    await context.send_activity("Hello and welcome! Say *order laptop* and I will get you one.")


@agent.message("order laptop")  # text, or a compiled regex: the match is context.match
async def order_laptop(context: TurnContext, state: TurnState) -> None:
    placeholder = await context.send_activity("Thank you for ordering a laptop. I will keep you posted.")
    ticket = await context.expect_callback("order_placed", replaces=placeholder)  # what the supplier must send back
    # Here you hand ticket.to_dict() to the system that does the work. You can play its part from another terminal:
    logger.info("python -m agent_core publish order_placed --conversation %s", ticket.to_dict()["conversationId"])
    state.conversation["orders"] = state.conversation.get("orders", 0) + 1


@agent.continuation("order_placed")  # the supplier's Service Bus message names it, minutes or days later
async def order_placed(context: TurnContext, state: TurnState) -> None:
    await context.send_activity(f"Great! Your laptop is order #{context.activity.value['number']}.")


@agent.message(re.compile(r"remind me in (?P<minutes>\d{1,5}) minutes?", re.IGNORECASE))
async def remind(context: TurnContext, state: TurnState) -> None:
    minutes = int(context.match["minutes"])
    due = context.now + timedelta(minutes=minutes)
    await agent.notifications.schedule(context, at=due, activity="Time to check your order.")
    await context.send_activity(f"I will remind you in {minutes} minutes.")


@agent.message("report", long_running=True)  # acknowledged at once, run from the queue: the channel waits 15 s at most
async def report(context: TurnContext, state: TurnState) -> None:
    await asyncio.sleep(2)  # the work that takes long
    await context.send_activity(f"You have ordered {state.conversation.get('orders', 0)} laptops in this conversation.")


@agent.message("/mute")  # and every notification is dropped, until "/unmute"
async def mute(context: TurnContext, state: TurnState) -> None:
    await agent.notifications.mute(context.conversation)
    await context.send_activity("You will get no notifications. Say */unmute* to get them again.")


@agent.message("/unmute")
async def unmute(context: TurnContext, state: TurnState) -> None:
    await agent.notifications.unmute(context.conversation)
    await context.send_activity("You will get notifications again.")


@agent.message()  # whatever nothing above answered
async def help_out(context: TurnContext, state: TurnState) -> None:
    await context.send_activity("You can say *order laptop*, *remind me in 1 minutes* or *report*.")


@agent.error
async def apologise(context: TurnContext, error: Exception) -> None:
    await context.send_activity("Sorry, that went wrong. Please try again.")


@app.route("messages")
async def messages(req: func.HttpRequest) -> func.HttpResponse:
    """An activity comes in: run a turn, and reply."""
    return await host.process_activity(req)


# BINARY, or else the keys of a JSON body overwrite the message's own.
@app.service_bus_queue_trigger(
    "message",
    connection="ServiceBusConnection",
    queue_name="%CALLBACK_QUEUE%",
    data_type=func.DataType.BINARY,
    is_sessions_enabled=services.settings.callback_sessions,
)
async def callbacks(message: func.ServiceBusMessage) -> None:
    """An external system is done: continue the conversation. Raising means: deliver it again."""
    await host.continue_conversation(message)


@app.service_bus_queue_trigger(
    "message", connection="ServiceBusConnection", queue_name="%WORK_QUEUE%", data_type=func.DataType.BINARY
)
async def work(message: func.ServiceBusMessage) -> None:
    """What the agent sent itself: long-running turns, due notifications, work to try again."""
    await host.do_work(message)


@app.timer_trigger("timer", schedule="%NOTIFICATION_SCHEDULE%")
async def notifications(timer: func.TimerRequest) -> None:
    """Time has passed: send every notification that is due."""
    await host.send_due_notifications()
