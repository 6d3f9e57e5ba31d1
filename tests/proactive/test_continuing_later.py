"""Internal work: a continuation that a turn leaves for later runs once, on time, and whatever dies in between."""

from datetime import timedelta

import pytest

from agent_core import TurnContext, TurnState
from agent_core.errors import ContinuationNotFound, QueueUnavailable
from agent_core.proactive.queue import QueueMessage
from tests.proactive.setting import Setting

MINUTE = timedelta(minutes=1)


class Reminding(Setting):
    """An agent that reminds after `delay`, and fails `failures` times after it said so to itself."""

    def __init__(self, delay: timedelta = MINUTE) -> None:
        super().__init__("webchat")
        self.failures = 0
        self.ids: list[str] = []

        @self.agent.message("remind")
        async def remind(context: TurnContext, state: TurnState) -> None:
            for name in ("tea", "cake"):
                self.ids.append(await context.continue_later("reminder", name, delay=delay))

        @self.agent.continuation("reminder")
        async def reminder(context: TurnContext, state: TurnState) -> None:
            await context.send_activity(f"Time for {context.activity.value}")

        @self.agent.continuation("begin")
        async def begin(context: TurnContext, state: TurnState) -> None:
            self.ids.append(await context.continue_later("reminder", "milk", delay=delay))
            if self.failures:
                self.failures -= 1
                raise ValueError("told to")

    async def seconds(self, delta: timedelta) -> None:
        """Time passes without a tick of the timer."""
        await self.clock.advance(delta)
        while await self.work():
            await self.clock.advance(timedelta(seconds=2))


async def test_a_continuation_runs_after_its_delay_without_waiting_for_the_timer() -> None:
    setting = Reminding()
    await setting.adapter.say(setting.agent, "remind")
    await setting.seconds(timedelta(seconds=59))
    assert setting.adapter.texts == []
    await setting.seconds(timedelta(seconds=1))
    assert setting.adapter.texts == ["Time for tea", "Time for cake"]
    await setting.later(MINUTE)
    assert setting.adapter.texts == ["Time for tea", "Time for cake"]


async def test_what_the_queue_did_not_take_comes_with_the_timer() -> None:
    setting = Reminding()
    send = setting.queue.send

    async def refuse(message: QueueMessage) -> None:
        raise QueueUnavailable("not reached")

    setting.queue.send = refuse  # type: ignore[method-assign]  # out of reach for this turn
    await setting.adapter.say(setting.agent, "remind")
    setting.queue.send = send  # type: ignore[method-assign]  # and back
    await setting.seconds(MINUTE)
    assert setting.adapter.texts == []
    await setting.later(timedelta(0))
    await setting.later(MINUTE)
    assert sorted(map(str, setting.adapter.texts)) == ["Time for cake", "Time for tea"]


async def test_days_are_left_to_the_timer() -> None:
    setting = Reminding(timedelta(days=3))
    await setting.adapter.say(setting.agent, "remind")
    assert setting.queue.messages == []
    await setting.later(timedelta(days=3))
    await setting.later(MINUTE)
    assert sorted(map(str, setting.adapter.texts)) == ["Time for cake", "Time for tea"]


async def test_a_turn_that_is_run_again_leaves_it_once() -> None:
    setting = Reminding()
    await setting.adapter.say(setting.agent, "remind")
    setting.failures = 2
    await setting.callback({"conversationId": "c1", "continuation": "begin", "id": "7"})
    for _ in range(10):
        await setting.later(timedelta(minutes=2))
    assert setting.failures == 0
    assert len(set(setting.ids)) == 3
    assert len(setting.ids) == 5
    assert sorted(map(str, setting.adapter.texts)) == ["Time for cake", "Time for milk", "Time for tea"]


async def test_it_can_be_cancelled_even_on_the_queue() -> None:
    setting = Reminding()
    await setting.adapter.say(setting.agent, "remind")
    assert await setting.agent.notifications.cancel(setting.ids[0])
    await setting.seconds(MINUTE)
    assert setting.adapter.texts == ["Time for cake"]


async def test_from_outside_of_a_turn_each_call_is_one() -> None:
    setting = Reminding()
    await setting.adapter.say(setting.agent, "hello")
    for _ in range(2):
        assert await setting.agent.proactive.continue_later("c1", "reminder", "tea", delay=timedelta(0))
    await setting.seconds(timedelta(0))
    await setting.seconds(MINUTE)
    assert setting.adapter.texts == ["Time for tea"] * 2


async def test_an_unknown_continuation_and_the_past_are_refused() -> None:
    setting = Reminding()
    await setting.adapter.say(setting.agent, "hello")
    with pytest.raises(ContinuationNotFound):
        await setting.agent.proactive.continue_later("c1", "unknown", delay=MINUTE)
    with pytest.raises(ValueError, match="delay"):
        await setting.agent.proactive.continue_later("c1", "reminder", delay=-MINUTE)
    assert setting.queue.messages == []
