"""`python -m benchmarks [NAME...] [--rounds N] [--json]`: all, or those named (`push`: each `push-...`)."""

from __future__ import annotations

import argparse
import importlib
import sys

from benchmarks import harness

#: Name -> module with `run(rounds) -> list of results` and a docstring that says what it shows.
BENCHMARKS = {
    "engine": "benchmarks.bench_engine",
    "persist": "benchmarks.bench_persist",
    "push-cpu": "benchmarks.bench_push",
    "push-memory": "benchmarks.bench_push_memory",
    "push-connect": "benchmarks.bench_push_connect",
    "push-path": "benchmarks.bench_push_path",
    "slow": "benchmarks.bench_slow",
    "webhook": "benchmarks.bench_webhook",
}


def main() -> int:
    """Parse the arguments, run, print; 1 when a ratio is not reached."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--rounds", type=int, default=5, help="how often each variant runs (5)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    chosen = []
    for asked in options.names:
        found = [name for name in BENCHMARKS if name == asked or name.startswith(f"{asked}-")]
        if not found:
            parser.error(f"no benchmark is named {asked!r}; there are: {', '.join(BENCHMARKS)}")
        chosen += found
    is_good = True
    for name in chosen or BENCHMARKS:
        for result in importlib.import_module(BENCHMARKS[name]).run(options.rounds):
            print(harness.dump(result) if options.json else harness.show(result), flush=True)
            is_good = is_good and all(row["reached"] for row in result["ratios"])
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
