"""How long `import function_app` takes beside what it cannot do without: the part of a cold start that is ours."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROUNDS = 15
LIMIT = 1.5
UNAVOIDABLE = "import azure.functions, httpx"
OURS = "import function_app"
ONLY_ON_USE = ("azure.cosmos", "azure.servicebus", "msal")
WATCHED = (*ONLY_ON_USE, "jwt", "aiohttp")


def run() -> None:
    """Print the ratio; exit non-zero if it reaches the limit, or what should be imported on use already is."""
    if not (ROOT / "function_app.py").exists():
        print("skipped: there is no function_app.py yet")
        return
    ratios: list[float] = []
    times: dict[str, list[float]] = {UNAVOIDABLE: [], OURS: []}
    _measure(UNAVOIDABLE), _measure(OURS)  # writes the .pyc files
    for _ in range(ROUNDS):
        for statement, found in times.items():
            found.append(_measure(statement))
        # Of one moment of the machine each, so that its slow minutes do not count.
        ratios.append(times[OURS][-1] / times[UNAVOIDABLE][-1])
    ratio = statistics.median(ratios)
    low, _, high = statistics.quantiles(ratios, n=4)
    for statement, found in times.items():
        print(f"{statement:32} {statistics.median(found):6.0f} ms of CPU, median of {ROUNDS}")
    print(f"ratio {ratio:.2f} (middle half {low:.2f} to {high:.2f}), limit {LIMIT}")

    loaded = _loaded()
    print("imported with it:", ", ".join(f"{name} {'yes' if name in loaded else 'no'}" for name in WATCHED))
    if ratio >= LIMIT:
        sys.exit(f"import function_app takes {ratio:.2f} times what it cannot do without; the limit is {LIMIT}")
    if early := loaded.intersection(ONLY_ON_USE):
        sys.exit(f"import function_app also imports {', '.join(sorted(early))}: import them where they are first used")


def _measure(statement: str) -> float:
    """Milliseconds of CPU that the statement takes in a fresh process, the interpreter's own start not counted."""
    return float(
        _output(f"import time; start = time.process_time(); {statement}; print((time.process_time() - start) * 1000)")
    )


def _loaded() -> set[str]:
    return set(_output(f"import sys; {OURS}; print(*[name for name in {WATCHED} if name in sys.modules])").split())


def _output(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"failed in a fresh process: {program}\n{done.stderr}")
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
