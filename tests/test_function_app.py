"""The app as the Functions host indexes it: names, triggers and bindings are part of the contract."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest

ROOT = Path(__file__).parent.parent


def indexed() -> dict[str, list[dict[str, Any]]]:
    spec = importlib.util.spec_from_file_location("function_app_under_test", ROOT / "function_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert isinstance(module.app, func.FunctionApp)
    return {
        str(function.get_function_name()): [json.loads(binding) for binding in function.get_raw_bindings()]
        for function in module.app.get_functions()
    }


def test_the_host_finds_the_triggers_with_their_settings() -> None:
    functions = indexed()
    of_schedules = {name: functions.pop(name)[0] for name in sorted(functions) if name.startswith("schedule")}
    assert sorted(functions) == ["callbacks", "live", "messages", "notifications", "ready", "work"]
    assert {each["route"]: each["authLevel"] for each in of_schedules.values()} == dict.fromkeys(
        [
            "schedules/{id}",
            "schedules/{id}/occurrences",
            "schedules/{id}/pause",
            "schedules/preview",
            "schedules/{id}/resume",
            "schedules",
        ],
        "FUNCTION",
    )
    http = functions["messages"][0]
    # Every method comes in, because the host would answer a wrong one with 404 instead of 405.
    assert (http["type"], http["route"], http["authLevel"], http.get("methods")) == (
        "httpTrigger",
        "messages",
        "ANONYMOUS",
        None,
    )
    for name, queue in (("callbacks", "%CALLBACK_QUEUE%"), ("work", "%WORK_QUEUE%")):
        (binding,) = functions[name]
        assert binding["type"] == "serviceBusTrigger"
        assert binding["queueName"] == queue
        assert binding["connection"] == "ServiceBusConnection"
        # Without BINARY the keys of a JSON body overwrite the message's own id, session and so on.
        assert binding["dataType"] == "BINARY"
    (timer,) = functions["notifications"]
    assert (timer["type"], timer["schedule"]) == ("timerTrigger", "%NOTIFICATION_SCHEDULE%")


@pytest.mark.parametrize(("said", "sessions"), [("true", True), ("False", False), ("", False)])
def test_one_setting_lets_the_callbacks_come_in_sessions(
    said: str, sessions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLBACK_SESSIONS", said)
    functions = indexed()
    assert bool(functions["callbacks"][0].get("isSessionsEnabled")) is sessions
    assert not functions["work"][0].get("isSessionsEnabled")


def test_every_setting_that_a_binding_names_is_in_the_sample_settings() -> None:
    sample = json.loads((ROOT / "local.settings.sample.json").read_text())
    assert sample["IsEncrypted"] is False
    values = sample["Values"]
    assert all(isinstance(value, str) for value in values.values())
    for bindings in indexed().values():
        for binding in bindings:
            for value in binding.values():
                if isinstance(value, str) and value.startswith("%"):
                    assert value.strip("%") in values
            if "connection" in binding:
                assert binding["connection"] in values


def test_a_function_ends_before_its_messages_lock_does_and_renews_its_claim_in_time() -> None:
    from datetime import timedelta

    from agent_core.proactive.ledger import LEASE, RENEWED_EVERY

    def span(text: str) -> timedelta:
        hours, minutes, seconds = (int(part) for part in text.split(":"))
        return timedelta(hours=hours, minutes=minutes, seconds=seconds)

    host = json.loads((ROOT / "host.json").read_text())
    service_bus = host["extensions"]["serviceBus"]
    assert span(host["functionTimeout"]) < span(service_bus["maxAutoLockRenewalDuration"])
    assert 2 * RENEWED_EVERY < LEASE, "one renewal may fail"
    assert service_bus["prefetchCount"] == 0, "a message that waits in memory burns its lock"
