"""SQL by name: each statement is a file in `queries/`."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def query(name: str) -> str:
    """Read `queries/<name>.sql`; parameters are written `%(name)s`."""
    return resources.files("notifyd.store").joinpath("queries", f"{name}.sql").read_text(encoding="utf-8")
