"""Mutated frame streams against a push server: `python -m tests.fuzz_push --streams 100000 --seed 1`."""
