"""A slice of the fuzzer: the whole of it is `python -m tests.fuzz_push --streams 100000`."""

from __future__ import annotations

from pathlib import Path
from random import Random

import uvloop

from tests.fuzz_push.run import run
from tests.fuzz_push.streams import make_session, mutate


def test_mutated_streams_end_and_leave_nothing_behind(tmp_path: Path):
    result = uvloop.run(run(2_000, 20_261_124, tmp_path / "log"))
    assert result.faults == []
    assert result.streams == 2_000
    assert result.honest > 5


def test_a_seed_says_all():
    made = [
        mutate(rng, make_session(rng, "token")[1]) for rng in (Random("7/1"), Random("7/1"), Random("7/2"))
    ]
    assert made[0] == made[1] != made[2]
