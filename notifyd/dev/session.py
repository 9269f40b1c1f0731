"""How a second terminal finds the development surroundings that run in a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from notifyd.dev.child import is_alive, own_mark

#: Where `notifyd dev` keeps its data, below the folder that it is started in.
DEV_DIRECTORY: Final = Path(".dev")

_FILE: Final = "session.json"

#: Who names one of these means another broker or database than that of the folder.
_EXPLICIT: Final = ("NOTIFYD_KAFKA_BOOTSTRAP_SERVERS", "NOTIFYD_DATABASE_URL")


def write_session(directory: Path, env: Mapping[str, str]) -> None:
    """Leave the settings of running surroundings in their directory, readable by their owner alone."""
    path = directory / _FILE
    draft = path.with_suffix(f".{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump({"process": own_mark(os.getpid()), "env": dict(env)}, out)
    draft.replace(path)


def forget_session(directory: Path) -> None:
    """Take the settings away at the end."""
    (directory / _FILE).unlink(missing_ok=True)


def dev_environment(
    directory: Path = DEV_DIRECTORY, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the variables of the surroundings that run on `directory`, for a client command.

    Only those that `environ` (default: the process's) does not set itself. Nothing when it names
    a broker or a database, when no surroundings run there, or when the file is not the caller's own.
    """
    env = os.environ if environ is None else environ
    if any(env.get(name) for name in _EXPLICIT):
        return {}
    path = directory / _FILE
    try:
        if path.stat().st_uid != os.geteuid():
            return {}
        session = json.loads(path.read_text())
        process, found = str(session["process"]), dict(session["env"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    # A session that was killed leaves its file; its pid may be another's by now.
    if not is_alive(process):
        return {}
    return {name: str(value) for name, value in found.items() if name not in env}
