"""The onion: order before, logic, after and error, nested or not, inbound and outbound."""

from collections.abc import Awaitable, Callable, Sequence

import pytest

from agent_core import Activity, ResourceResponse, TurnContext
from agent_core.testing import ManualClock, TestAdapter
from agent_core.turn.middleware import Logic, MiddlewareSet


class Noted:
    """Notes when it is passed inwards, outwards, and by an exception."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self.notes = notes

    async def on_turn(self, context: TurnContext, logic: Logic) -> None:
        self.notes.append(f"{self.name} before")
        try:
            await logic()
        except RuntimeError:
            self.notes.append(f"{self.name} error")
            raise
        self.notes.append(f"{self.name} after")


def a_context() -> TurnContext:
    clock = ManualClock()
    adapter = TestAdapter(clock)
    return TurnContext(adapter, adapter.activity(text="hi"), now=clock.now())


async def test_the_first_middleware_is_outermost() -> None:
    notes: list[str] = []
    onion = MiddlewareSet(Noted("a", notes), Noted("b", notes))

    async def logic() -> None:
        notes.append("logic")

    await onion.on_turn(a_context(), logic)
    assert notes == ["a before", "b before", "logic", "b after", "a after"]


async def test_an_exception_passes_every_layer_on_its_way_out() -> None:
    notes: list[str] = []
    onion = MiddlewareSet(Noted("a", notes), Noted("b", notes))

    async def logic() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await onion.on_turn(a_context(), logic)
    assert notes == ["a before", "b before", "b error", "a error"]


async def test_a_nested_set_is_an_onion_inside_the_onion() -> None:
    """The inner set must wrap the logic, not finish before it."""
    notes: list[str] = []
    inner = MiddlewareSet(Noted("b", notes), Noted("c", notes))
    onion = MiddlewareSet(Noted("a", notes), inner, Noted("d", notes))

    async def logic() -> None:
        notes.append("logic")

    await onion.on_turn(a_context(), logic)
    assert notes == [
        "a before",
        "b before",
        "c before",
        "d before",
        "logic",
        "d after",
        "c after",
        "b after",
        "a after",
    ]


async def test_a_middleware_that_does_not_go_on_ends_the_turn() -> None:
    class Refuse:
        async def on_turn(self, context: TurnContext, logic: Logic) -> None:
            return

    reached = False

    async def logic() -> None:
        nonlocal reached
        reached = True

    await MiddlewareSet(Refuse()).on_turn(a_context(), logic)
    assert not reached


async def test_outbound_hooks_nest_and_may_change_what_goes_out() -> None:
    notes: list[str] = []
    context = a_context()

    def hook(name: str) -> None:
        async def on_send(
            context: TurnContext,
            activities: Sequence[Activity],
            send: Callable[[Sequence[Activity]], Awaitable[list[ResourceResponse]]],
        ) -> list[ResourceResponse]:
            notes.append(f"{name} before")
            responses = await send([each.replace(text=f"{each.text}{name}") for each in activities])
            notes.append(f"{name} after")
            return responses

        context.on_send_activities(on_send)

    hook("a")
    hook("b")
    response = await context.send_activity("x")
    assert notes == ["a before", "b before", "b after", "a after"]
    assert response.id is not None
    sender = context._sender
    assert isinstance(sender, TestAdapter)
    assert sender.texts == ["xab"]


async def test_update_and_delete_have_their_onions_too() -> None:
    context = a_context()
    sent = await context.send_activity("first")
    notes: list[str] = []

    async def on_update(
        context: TurnContext, activity: Activity, update: Callable[[Activity], Awaitable[ResourceResponse]]
    ) -> ResourceResponse:
        notes.append("update")
        return await update(activity.replace(text="edited by hook"))

    async def on_delete(context: TurnContext, activity_id: str, delete: Callable[[str], Awaitable[None]]) -> None:
        notes.append(f"delete {activity_id}")
        await delete(activity_id)

    context.on_update_activity(on_update)
    context.on_delete_activity(on_delete)
    await context.update_activity(Activity(type="message", id=sent.id, text="edited"))
    sender = context._sender
    assert isinstance(sender, TestAdapter)
    assert sender.texts == ["edited by hook"]
    await context.delete_activity(sent.id or "")
    assert sender.texts == []
    assert notes == ["update", f"delete {sent.id}"]
