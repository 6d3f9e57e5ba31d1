"""What an app's functions are triggered by, read from the app itself and checked before anything starts."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import azure.functions as func

from agent_core.errors import AgentError, SettingsError
from agent_core.local.route_template import RouteTemplate

_INSTEAD = "Use Azure Functions Core Tools for it."
_SETTING = re.compile(r"%([^%]+)%")


class InvalidApp(AgentError):
    """The functions of the app contradict each other, or need what the local engine does not have."""


@dataclass(frozen=True)
class Function:
    """A function of the app, and the name of the parameter that takes what triggers it."""

    name: str
    call: Callable[..., Any]
    parameter: str

    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function; a plain one runs in a thread."""
        return inspect.iscoroutinefunction(self.call)


@dataclass(frozen=True)
class HttpFunction:
    """A function that answers requests; `methods` in upper case, none standing for every method."""

    function: Function
    route: RouteTemplate
    methods: frozenset[str]

    @property
    def requests(self) -> str:
        """Its methods for a reader."""
        return ", ".join(sorted(self.methods)) or "any method"


@dataclass(frozen=True)
class QueueFunction:
    """A function that takes the messages of a queue.

    Attributes:
        binary: whether the body comes as bytes; if not, as text, and its keys overwrite the message's properties.
        sessions: whether it takes the messages of a session one after the other.
    """

    function: Function
    queue_name: str
    binary: bool
    sessions: bool


@dataclass(frozen=True)
class TimerFunction:
    """A function that runs at certain times.

    Attributes:
        schedule: an NCRONTAB expression.
        use_monitor: whether the function is told when it ran last.
    """

    function: Function
    schedule: str
    run_on_startup: bool
    use_monitor: bool


@dataclass(frozen=True)
class AppFunctions:
    """All functions of an app, each group in the order in which the host takes them: by name."""

    http: list[HttpFunction]
    queues: list[QueueFunction]
    timers: list[TimerFunction]

    @property
    def session_queues(self) -> frozenset[str]:
        """The names of the queues whose messages must have sessions."""
        return frozenset(each.queue_name for each in self.queues if each.sessions)

    def descriptions(self, route_prefix: str) -> list[str]:
        """One line about each function: what triggers it."""
        return [
            *(f"{each.function.name}: {each.requests} /{route_prefix}/{each.route.text}" for each in self.http),
            *(f"{each.function.name}: queue {each.queue_name}" for each in self.queues),
            *(f"{each.function.name}: timer {each.schedule}" for each in self.timers),
        ]


def read_functions(app: func.FunctionApp, settings: Mapping[str, str]) -> AppFunctions:
    """Read the app's functions, with every `%SETTING%` in queue names and schedules put in its place.

    Raises:
        InvalidApp: two functions have one name or one route, or one needs what the engine does not have.
        SettingsError: a setting that a function names is missing.
    """
    # azure-functions lets an app be read once; a second reading finds every name taken by the first.
    app.functions_bindings = None
    try:
        found = app.get_functions()
    except ValueError as error:
        raise InvalidApp(str(error)) from error
    functions = AppFunctions([], [], [])
    for each in sorted(found, key=lambda each: str(each.get_function_name()).lower()):
        name = str(each.get_function_name())
        bindings = [json.loads(binding) for binding in each.get_raw_bindings()]
        _add(functions, name, each.get_user_function(), bindings, settings)
    _check_routes(functions.http)
    return functions


def _add(
    functions: AppFunctions,
    name: str,
    call: Callable[..., Any],
    bindings: list[dict[str, Any]],
    settings: Mapping[str, str],
) -> None:
    trigger = next(each for each in bindings if str(each["type"]).lower().endswith("trigger"))
    kind = str(trigger["type"]).lower()
    for binding in bindings:
        output_of_http = kind == "httptrigger" and binding["type"] == "http" and binding["name"] == "$return"
        if binding is not trigger and not output_of_http:
            raise InvalidApp(
                f"Function {name!r} has a binding of type {binding['type']!r} ({binding['name']!r}), which the local "
                f"engine does not have. {_INSTEAD}"
            )
    function = Function(name, call, str(trigger["name"]))
    _check_parameters(function)
    if kind == "httptrigger":
        functions.http.append(_http_function(function, trigger))
    elif kind == "servicebustrigger":
        functions.queues.append(_queue_function(function, trigger, settings))
    elif kind == "timertrigger":
        functions.timers.append(
            TimerFunction(
                function,
                _resolved(name, trigger["schedule"], settings),
                run_on_startup=bool(trigger.get("runOnStartup")),
                use_monitor=trigger.get("useMonitor") is not False,
            )
        )
    else:
        raise InvalidApp(
            f"Function {name!r} has a trigger of type {trigger['type']!r}, which the local engine does not have: it "
            f"runs HTTP, Service Bus queue and timer triggers. {_INSTEAD}"
        )


def _check_parameters(function: Function) -> None:
    parameters = list(inspect.signature(function.call).parameters)
    if parameters != [function.parameter]:
        raise InvalidApp(
            f"Function {function.name!r} takes the parameters {parameters}, and its trigger gives "
            f"{function.parameter!r} alone. Name the one parameter so."
        )


def _http_function(function: Function, trigger: dict[str, Any]) -> HttpFunction:
    try:
        # As for the host, a function without a route has its name for one.
        route = RouteTemplate.parse(str(trigger["route"] or function.name))
    except ValueError as error:
        raise InvalidApp(f"Function {function.name!r}: {error} {_INSTEAD}") from error
    return HttpFunction(function, route, frozenset(str(method).upper() for method in trigger.get("methods") or ()))


def _queue_function(function: Function, trigger: dict[str, Any], settings: Mapping[str, str]) -> QueueFunction:
    name = function.name
    if "queueName" not in trigger:
        raise InvalidApp(f"Function {name!r} listens to a topic; the local engine has queues. {_INSTEAD}")
    if str(trigger.get("cardinality") or "one").lower() == "many":
        raise InvalidApp(
            f"Function {name!r} takes messages in batches; the local engine gives one at a time. {_INSTEAD}"
        )
    return QueueFunction(
        function,
        _resolved(name, trigger["queueName"], settings),
        binary=str(trigger.get("dataType")).upper() == "BINARY",
        sessions=bool(trigger.get("isSessionsEnabled")),
    )


def _resolved(name: str, text: str, settings: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if not settings.get(match[1]):
            raise SettingsError(f"The setting {match[1]} is missing; function {name!r} needs it for {text!r}.")
        return settings[match[1]]

    return _SETTING.sub(value, text)


def _check_routes(functions: list[HttpFunction]) -> None:
    """No two functions may answer the same requests: the second would never be called."""
    for one, other in combinations(functions, 2):
        same_methods = one.methods & other.methods or one.methods == other.methods
        if one.route.shape == other.route.shape and same_methods:
            raise InvalidApp(
                f"The functions {one.function.name!r} and {other.function.name!r} have the same route "
                f"{one.route.text!r}: give them different ones, or different methods."
            )
