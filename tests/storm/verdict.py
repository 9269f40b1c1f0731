"""Runs a trial that says good or not, in a folder that goes with it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path


def run_for_verdict(name: str, trial: Callable[[Path], Coroutine[None, None, bool]]) -> int:
    """Run `trial`, print the verdict and return the exit code: 1 also where it waited in vain."""
    with tempfile.TemporaryDirectory(prefix=f"notifyd-{name}-") as folder:
        Path(folder).chmod(0o711)  # as root, the database server is another user, who must get in
        try:
            is_good = asyncio.run(trial(Path(folder)))
        except TimeoutError as error:
            print(f"LOST: {error}")
            return 1
    print("good" if is_good else "NOT GOOD")
    return 0 if is_good else 1
