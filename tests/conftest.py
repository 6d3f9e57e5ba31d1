"""What every test stands on: asyncio, a Cosmos DB server, and that where every component is there, nothing is skipped
for want of one."""

import os
from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from tests.cosmos_server.running import running_server

# Set where everything is installed: a skip for want of a component then hides a test that should have run.
MAY_NOT_SKIP = os.environ.get("AGENT_TESTS_MAY_NOT_SKIP") == "1"
# The one reason that no installation takes away.
ALWAYS_ALLOWED = "cannot be moved"

# Minutes of real processes and kills, and of requests that hang, whose time is real: run by .ci/run, or with
# AGENT_TESTS_LONG=1.
LONG = [
    "faults/test_cosmos_turns.py",
    "faults/test_kill_matrix.py",
    "faults/test_many_callbacks.py",
    "faults/test_timer_kills.py",
    "stories/test_cosmos_stories.py",
    "stories/test_reminder_story.py",
]
# What sends to the queues of one Service Bus and receives from them.
SERVICE_BUS = [
    "hosting/test_callback_queues.py",
    "hosting/test_service_bus_faults.py",
    "hosting/test_service_bus_queue.py",
    "samples/test_publishers.py",
]
collect_ignore = [] if os.environ.get("AGENT_TESTS_LONG") else LONG

# How long generating takes says how busy the machine is.
settings.register_profile("agent", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("agent")

R = TypeVar("R", pytest.TestReport, pytest.CollectReport)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def cosmos_server() -> Iterator[None]:
    """A server for this session in COSMOS_TEST_CONNECTION, if that names none and Node is here to run ours."""
    if os.environ.get("COSMOS_TEST_CONNECTION"):
        yield
        return
    with running_server() as connection, pytest.MonkeyPatch.context() as environment:
        if connection is not None:
            environment.setenv("COSMOS_TEST_CONNECTION", connection)
        yield


def _together(nodeid: str) -> str:
    """What runs in one process, one after the other: the tests of a file, and all that share the queues."""
    file = nodeid.partition("::")[0].removeprefix("tests/")
    return "service bus" if file in SERVICE_BUS else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The largest files first, and before them what mostly waits for Service Bus: no process is left with it alone."""
    sizes = Counter(_together(item.nodeid) for item in items)
    items.sort(key=lambda item: (_together(item.nodeid) != "service bus", -sizes[_together(item.nodeid)]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`, what runs together goes to one process. (`--dist loadgroup` does nothing under pytest 9.)"""
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]  # it has no types

    class Together(LoadFileScheduling):  # type: ignore[misc]  # of no type, see above
        def _split_scope(self, nodeid: str) -> str:
            return _together(nodeid)

    config.option.loadscopereorder = False
    return Together(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _unless_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _unless_skipped((yield))


def _unless_skipped(report: R) -> R:
    if MAY_NOT_SKIP and report.skipped and ALWAYS_ALLOWED not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"Skipped where AGENT_TESTS_MAY_NOT_SKIP=1 says that nothing may be: {report.longrepr}"
    return report
