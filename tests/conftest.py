"""Wires the fixtures; what each does is told beside it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# The fixtures are imported as a package from the repository's root, however pytest was called.
_ROOT = Path(__file__).resolve().parent.parent
if str(_ROOT) not in sys.path:
    sys.path.insert(0, str(_ROOT))

pytest_plugins = ["tests.fixtures.kafka", "tests.fixtures.processes", "tests.fixtures.postgres"]

# What the caller's shell exports is no part of a test; the fixtures hand settings over.
for _name in [
    name for name in os.environ if name.startswith("NOTIFYD_") and not name.startswith("NOTIFYD_TEST_")
]:
    del os.environ[_name]
