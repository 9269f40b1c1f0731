"""`python -m tests.fuzz_push --streams 100000 --seed 1`: exit code 1 when anything is wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import uvloop

from tests.fuzz_push.run import run


def main() -> int:
    """Run, and print what was seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_push", description=__doc__)
    parser.add_argument("--streams", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = uvloop.run(
            run(given.streams, given.seed, Path(folder) / "log", at_once=given.at_once, report=print)
        )
    print(
        f"{result.streams} streams in {result.seconds:.0f} s, {result.honest} messages to the honest client"
    )
    print("ended:", ", ".join(f"{count} {how}" for how, count in sorted(result.ended.items())))
    for fault in result.faults[:50]:
        print("FAULT", fault)
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
