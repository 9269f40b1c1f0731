"""Push servers side by side: `python -m benchmarks.versus [--rounds N] NAME NAME...`, minutes.

All are up at once with 10,000 clients each and are given short works in turn, so that what else the
machine does meets all of them alike: ratios come out closer than those of `push-cpu`, which starts one server
after the other. A name is one of `bench_push`, or `NAME@TREE` for our server as another checkout has it:

    git worktree add /tmp/before HEAD~3
    python -m benchmarks.versus "ours, acks" "ours, acks@/tmp/before"

Ratios are the first to each of the others, median [least .. most] over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import ExitStack
from dataclasses import replace

from benchmarks.bench_push import COUNT, FANOUT
from benchmarks.push.drive import Program, clients, connect, deliver, kind_of, python_path, running
from benchmarks.push.work import Work

WORKS = {
    "one by one": Work(2, 1, FANOUT, COUNT),
    "bursts of 10": Work(1, 10, FANOUT, COUNT),
    "one user each": Work(1, 1, 1, COUNT),
}


def main() -> None:
    """Parse the arguments, start all, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--rounds", type=int, default=10, help="how often each work is done (10)")
    options = parser.parse_args()
    with ExitStack() as stack:
        pairs = {name: _start(stack, name) for name in options.names}
        for title, work in WORKS.items():
            _compare(title, work, pairs, options.rounds)


def _start(stack: ExitStack, name: str) -> tuple[Program, Program]:
    own_name, _, tree = name.partition("@")
    kind = kind_of(own_name)
    if tree:
        # `-P`: else what is imported is the tree that this was started in.
        kind = replace(kind, args=(sys.executable, "-P", *kind.args[1:]))
    server = stack.enter_context(running(kind.args, PYTHONPATH=tree or python_path()))
    port = int(server.answer()[1])
    program = stack.enter_context(clients(port, COUNT, kind, is_acking=own_name.endswith("acks")))
    connect(program, COUNT)
    deliver(server, program, WORKS["one by one"])
    return server, program


def _compare(title: str, work: Work, pairs: dict[str, tuple[Program, Program]], rounds: int) -> None:
    # The C loop knows no users, so each work is the same to it.
    names = [name for name in pairs if name != "C loop" or title == "one by one"]
    got: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in [*names[shift:], *names[:shift]]:
            got[name].append(deliver(*pairs[name], work))
    print(title)
    for name in names:
        line = f"  {name:<28} {statistics.median(got[name]):7.2f} us"
        if name != names[0]:
            ratios = [first / other for first, other in zip(got[names[0]], got[name], strict=True)]
            line += f"   {names[0]} / this: {statistics.median(ratios):.2f}"
            line += f" [{min(ratios):.2f} .. {max(ratios):.2f}]"
        print(line, flush=True)


if __name__ == "__main__":
    main()
