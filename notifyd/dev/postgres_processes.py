"""The processes of a PostgreSQL data directory, whoever started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

_FAST_STOP_S = 10.0
_KILL_S = 5.0


def end_leftovers(data: Path) -> None:
    """End every server process that lives on `data`, and take away the stale pid file.

    For the one who holds the directory's lock: what runs then lost its owner to a `kill -9`.
    """
    postmaster = _pid_in_file(data)
    if postmaster in processes_on(data):
        _signal([postmaster], signal.SIGINT)  # takes its children along, in order
        _wait_until_gone(data, _FAST_STOP_S)
    _signal(processes_on(data), signal.SIGKILL)
    _wait_until_gone(data, _KILL_S)
    # Its pid may be another process by now, which PostgreSQL would take for a running server.
    (data / "postmaster.pid").unlink(missing_ok=True)


def processes_on(data: Path) -> list[int]:
    """List the processes whose working directory is `data`: each PostgreSQL process goes there first."""
    proc = Path("/proc")
    if not proc.is_dir():
        pid = _pid_in_file(data)
        return [pid] if _command_of(pid).find(str(data)) >= 0 else []
    place = data.resolve()
    found = []
    for entry in proc.iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink() == place:
                found.append(int(entry.name))
    return found


def _pid_in_file(data: Path) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((data / "postmaster.pid").read_text().split()[0])
    return 0


def _command_of(pid: int) -> str:
    seen = subprocess.run(
        ["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False
    )
    return seen.stdout


def _signal(pids: list[int], sign: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)


def _wait_until_gone(data: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while processes_on(data) and time.monotonic() < deadline:
        time.sleep(0.05)
