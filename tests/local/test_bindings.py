"""What an app says about its functions, and what is said about apps that cannot run here."""

from __future__ import annotations

from collections.abc import Callable

import azure.functions as func
import pytest

from agent_core.errors import SettingsError
from agent_core.local.bindings import InvalidApp, read_functions


def full_app() -> func.FunctionApp:
    app = func.FunctionApp()

    @app.route("orders/{id}", methods=["get", "POST"])
    async def orders(req: func.HttpRequest) -> str:
        return ""

    @app.route("any")
    def anything(req: func.HttpRequest) -> str:
        return ""

    @app.service_bus_queue_trigger(
        "m", connection="C", queue_name="%Q%", data_type=func.DataType.BINARY, is_sessions_enabled=True
    )
    async def jobs(m: func.ServiceBusMessage) -> None: ...

    @app.timer_trigger("t", "%S%", run_on_startup=True, use_monitor=False)
    async def tick(t: func.TimerRequest) -> None: ...

    return app


def test_an_app_can_be_read_as_often_as_one_likes() -> None:
    """azure-functions itself fails the second time."""
    app = full_app()
    settings = {"Q": "jobs-queue", "S": "0 * * * * *"}
    first, second = read_functions(app, settings), read_functions(app, settings)
    assert first == second
    assert [each.function.name for each in first.http] == ["anything", "orders"]
    assert [each.methods for each in first.http] == [frozenset(), {"GET", "POST"}]
    [queue] = first.queues
    assert (queue.queue_name, queue.binary, queue.sessions) == ("jobs-queue", True, True)
    assert first.session_queues == {"jobs-queue"}
    [timer] = first.timers
    assert (timer.schedule, timer.run_on_startup, timer.use_monitor) == ("0 * * * * *", True, False)


def test_each_function_is_described_in_a_line() -> None:
    functions = read_functions(full_app(), {"Q": "jobs-queue", "S": "0 * * * * *"})
    assert functions.descriptions("api") == [
        "anything: any method /api/any",
        "orders: GET, POST /api/orders/{id}",
        "jobs: queue jobs-queue",
        "tick: timer 0 * * * * *",
    ]


@pytest.mark.parametrize("settings", [{"S": "0 * * * * *"}, {"S": "0 * * * * *", "Q": ""}])
def test_a_missing_setting_is_named_with_the_function_that_needs_it(settings: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="setting Q is missing; function 'jobs'"):
        read_functions(full_app(), settings)


def two_of_one_name(app: func.FunctionApp) -> None:
    for route in ("a", "b"):

        @app.route(route)
        def same(req: func.HttpRequest) -> str:
            return ""


def two_of_one_route(app: func.FunctionApp) -> None:
    @app.route("orders/{id}", methods=["GET", "POST"])
    def one(req: func.HttpRequest) -> str:
        return ""

    @app.route("Orders/{number}", methods=["POST"])
    def other(req: func.HttpRequest) -> str:
        return ""


def a_constraint(app: func.FunctionApp) -> None:
    @app.route("orders/{id:int}")
    def one(req: func.HttpRequest) -> str:
        return ""


def a_rest_in_the_middle(app: func.FunctionApp) -> None:
    @app.route("files/{*path}/info")
    def one(req: func.HttpRequest) -> str:
        return ""


def one_parameter_twice(app: func.FunctionApp) -> None:
    @app.route("{id}/{id}")
    def one(req: func.HttpRequest) -> str:
        return ""


def another_trigger(app: func.FunctionApp) -> None:
    @app.blob_trigger("blob", path="x", connection="C")
    def one(blob: func.InputStream) -> None: ...


def another_binding(app: func.FunctionApp) -> None:
    @app.route("x")
    @app.blob_output("out", path="x", connection="C")
    def one(req: func.HttpRequest, out: func.Out[str]) -> str:
        return ""


def a_topic(app: func.FunctionApp) -> None:
    @app.service_bus_topic_trigger("m", connection="C", topic_name="t", subscription_name="s")
    def one(m: func.ServiceBusMessage) -> None: ...


def a_batch(app: func.FunctionApp) -> None:
    @app.service_bus_queue_trigger("m", connection="C", queue_name="q", cardinality="many")
    def one(m: func.ServiceBusMessage) -> None: ...


def another_parameter(app: func.FunctionApp) -> None:
    @app.route("x")
    def one(request: func.HttpRequest) -> str:
        return ""


@pytest.mark.parametrize(
    ("add", "reason"),
    [
        (two_of_one_name, "Function same does not have a unique function name"),
        (two_of_one_route, "functions 'one' and 'other' have the same route"),
        (a_constraint, "'one': the route 'orders/{id:int}' is not supported"),
        (a_rest_in_the_middle, "'one': the route 'files/{\\*path}/info' is not supported"),
        (one_parameter_twice, "'one': the route '{id}/{id}' has two parameters of one name"),
        (another_trigger, "'one' has a trigger of type 'blobTrigger'"),
        (another_binding, "'one' has a binding of type 'blob' \\('out'\\)"),
        (a_topic, "'one' listens to a topic"),
        (a_batch, "'one' takes messages in batches"),
        (another_parameter, "'one' takes the parameters \\['request'\\], and its trigger gives 'req' alone"),
    ],
)
def test_an_app_that_cannot_run_here_is_refused_by_name(add: Callable[[func.FunctionApp], None], reason: str) -> None:
    app = func.FunctionApp()
    add(app)
    with pytest.raises(InvalidApp, match=reason):
        read_functions(app, {})
