"""`python -m bench [name...]`: runs the benchmarks, all of them or those named."""

from __future__ import annotations

import argparse
import importlib

# Each is a module here with `def run() -> None`, which prints a small table and exits non-zero if a limit is passed.
BENCHMARKS = (
    "import_time",
    "activity",
    "http_transport",
    "conversation_cost",
    "token_validation",
    "callbacks",
    "timer",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"one or more of: {', '.join(BENCHMARKS)}")
    names = parser.parse_args().names
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        print(f"== {name}")
        importlib.import_module(f"bench.{name}").run()


if __name__ == "__main__":
    main()
