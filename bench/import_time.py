"""How long `import function_app` takes beside what it cannot do without: the part of a cold start that is ours."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROUNDS = 15
LIMIT = 1.5
UNAVOIDABLE = "import azure.functions, httpx"
OURS = "import function_app"
# The app's own modules without their .pyc files, as where a package is deployed that cannot be written to.
NOT_COMPILED = "the same, not compiled"
ONLY_ON_USE = ("azure.cosmos", "azure.servicebus", "msal")
WATCHED = (*ONLY_ON_USE, "jwt", "aiohttp")


def run() -> None:
    """Print the ratio; exit non-zero if it reaches the limit, or what should be imported on use already is."""
    if not (ROOT / "function_app.py").exists():
        print("skipped: there is no function_app.py yet")
        return
    times: dict[str, list[float]] = {UNAVOIDABLE: [], OURS: [], NOT_COMPILED: []}
    with tempfile.TemporaryDirectory() as compiled, tempfile.TemporaryDirectory() as libraries:
        # The .pyc files of all modules, and those of the libraries alone.
        _measure(UNAVOIDABLE, compiled, write=True), _measure(OURS, compiled, write=True)
        _measure(UNAVOIDABLE, libraries, write=True)
        for _ in range(ROUNDS):
            # Of one moment of the machine each, so that its slow minutes do not count.
            times[UNAVOIDABLE].append(_measure(UNAVOIDABLE, compiled))
            times[OURS].append(_measure(OURS, compiled))
            times[NOT_COMPILED].append(_measure(OURS, libraries))
        watched = f"import sys; {OURS}; print(*[name for name in {WATCHED} if name in sys.modules])"
        loaded = set(_output(watched, compiled).split())
    ratios = {name: _ratios(found, times[UNAVOIDABLE]) for name, found in times.items()}
    for name, found in times.items():
        low, middle, high = ratios[name]
        print(
            f"{name:32} {statistics.median(found):6.0f} ms of CPU, median of {ROUNDS}; "
            f"ratio {middle:.2f} (middle half {low:.2f} to {high:.2f})"
        )
    ratio = ratios[OURS][1]
    print(f"ratio {ratio:.2f}, limit {LIMIT}")
    print("imported with it:", ", ".join(f"{name} {'yes' if name in loaded else 'no'}" for name in WATCHED))
    if ratio >= LIMIT:
        sys.exit(f"import function_app takes {ratio:.2f} times what it cannot do without; the limit is {LIMIT}")
    if early := loaded.intersection(ONLY_ON_USE):
        sys.exit(f"import function_app also imports {', '.join(sorted(early))}: import them where they are first used")


def _ratios(found: list[float], unavoidable: list[float]) -> tuple[float, float, float]:
    """The quartiles of the ratios, each of two measurements that follow one another."""
    low, middle, high = statistics.quantiles((a / b for a, b in zip(found, unavoidable, strict=True)), n=4)
    return low, middle, high


def _measure(statement: str, cache: str, *, write: bool = False) -> float:
    """Milliseconds of CPU that the statement takes in a fresh process, the interpreter's own start not counted."""
    program = f"import time; start = time.process_time(); {statement}; print((time.process_time() - start) * 1000)"
    return float(_output(program, cache, write=write))


def _output(program: str, cache: str, *, write: bool = False) -> str:
    """What a fresh process prints last; its .pyc files are in `cache`, whatever this process is told about them."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": "" if write else "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"failed in a fresh process: {program}\n{done.stderr}")
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
