"""SQL by name: each statement is a file in `queries/`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from notifyd.store.arrays import of_texts

_PARAMETER: Final = re.compile(r"%\((\w+)\)s")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement that the server plans once a connection, whatever its parameters will be.

    For what is run often and costs less than its plan, as look-ups by key in partitions do; which of them
    matter is found out by each execution then. Not for statements whose plan depends on values.
    """

    name: str
    prepare: str
    #: As text with parameters, in the way of psycopg2.
    execute: str

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters as they are given to it: of a list psycopg2 would make an array of texts."""
        return {
            key: of_texts(list(map(str, one))) if isinstance(one, list) else one
            for key, one in params.items()
        }


@cache
def query(name: str) -> str:
    """Read `queries/<name>.sql`; parameters are written `%(name)s`."""
    return resources.files("notifyd.store").joinpath("queries", f"{name}.sql").read_text(encoding="utf-8")


@cache
def prepared(name: str, **constants: int) -> Prepared:
    """Read `queries/<name>.sql` as a statement to be prepared; what types it has its text must tell.

    `constants` are parameters that the planner has to know, a `LIMIT` for one: few values, a plan for each.
    """
    text = query(name)
    for parameter, value in constants.items():
        text = text.replace(f"%({parameter})s", str(int(value)))
        name += f"_{parameter}_{int(value)}"
    names = list(dict.fromkeys(_PARAMETER.findall(text)))
    numbered = _PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", text)
    given = ", ".join(f"%({one})s" for one in names)
    return Prepared(name, f"PREPARE {name} AS {numbered}", f"EXECUTE {name}({given})")
