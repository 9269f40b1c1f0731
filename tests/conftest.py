"""Wires the fixtures; what each does is told beside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings

# The fixtures are imported as a package from the repository's root, however pytest was called.
_ROOT = Path(__file__).resolve().parent.parent
if str(_ROOT) not in sys.path:
    sys.path.insert(0, str(_ROOT))

pytest_plugins = [
    "tests.fixtures.kafka",
    "tests.fixtures.processes",
    "tests.fixtures.postgres",
    "tests.fixtures.service",
    "tests.fixtures.protocol",
]

# What the caller's shell exports is no part of a test; the fixtures hand settings over.
for _name in [
    name for name in os.environ if name.startswith("NOTIFYD_") and not name.startswith("NOTIFYD_TEST_")
]:
    del os.environ[_name]

# Enough to find what is badly wrong with each change. `--hypothesis-profile=thorough` looks longer.
settings.register_profile("quick", max_examples=40, deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile("quick")

_configure = structlog.configure


def _configure_for_tests(**options: Any) -> None:
    # A logger that was cached keeps its processors for good, and `capture_logs` would not see it.
    _configure(**{**options, "cache_logger_on_first_use": False})


structlog.configure = _configure_for_tests


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what a command that ran within the test process set up for its logs."""
    # As structlog does unasked, but without the locals of every frame: to draw a hub's takes seconds.
    *processors, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    _configure(processors=[*processors, plain])
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
