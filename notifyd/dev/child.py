"""Child processes of the development surroundings: they end with their parent, however it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from notifyd.errors import ConfigError

_PR_SET_PDEATHSIG = 1

# Loaded before any fork: between fork and exec nothing may be imported or allocated in earnest.
_IS_LINUX = sys.platform.startswith("linux")
_libc = ctypes.CDLL(None, use_errno=True) if _IS_LINUX else None

#: Below the range that Linux hands to outgoing connections (32768 and up): a port that must stay
#: the same over a restart is then neither taken meanwhile, nor connected to itself by a client
#: that keeps trying it.
_FIXED_PORTS = range(20_000, 32_000)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on, below the ephemeral range."""
    for _ in range(200):
        port = secrets.choice(_FIXED_PORTS)  # no seed of a test may lead two to the same port
        if is_free(port, host):
            return port
    raise ConfigError(f"no free port on {host} after 200 tries", reason="no_free_port")


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether nobody listens on this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def listeners_on(port: int) -> int:
    """Count the IPv4 sockets that listen on this port; 1 where the system does not tell."""
    try:
        rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return 1
    fields = [row.split() for row in rows]
    return sum(1 for f in fields if f[3] == "0A" and int(f[1].rpartition(":")[2], 16) == port)


def started_at(pid: int) -> str | None:
    """Return when a living process started, as text fit for comparison only; None if there is none.

    Together with the pid it names a process for good, where the pid alone is soon used again.
    A zombie counts as ended.
    """
    if _IS_LINUX:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    found = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return found or None


def own_mark(pid: int) -> str:
    """Return `pid start` of a living process, as `is_alive` reads it back."""
    return f"{pid} {started_at(pid) or '-'}"


def is_alive(mark: str) -> bool:
    """Tell whether the very process of this mark still runs."""
    pid, _, start = mark.strip().partition(" ")
    return pid.isdigit() and started_at(int(pid)) == start


def spawn(
    command: Sequence[str],
    *,
    log_file: Path,
    pid_file: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    parent_death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, its output appended to `log_file`.

    The terminal's Ctrl-C does not reach it. On Linux the kernel signals it when the *thread*
    that called this ends, so call it from one that lives as long as the process.
    """
    parent = os.getpid()

    def before_exec() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, int(parent_death_signal))
            if os.getppid() != parent:  # it died between the fork and the line above
                os._exit(1)

    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
            preexec_fn=before_exec,  # noqa: PLW1509 - one system call through a library already loaded
        )
    if pid_file is not None:
        pid_file.write_text(own_mark(process.pid))
    return process


def end(process: subprocess.Popen[bytes], *, timeout_s: float) -> int:
    """Ask a child to end, then make it; return its exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait(30)


def freeze(process: subprocess.Popen[bytes]) -> None:
    """Stop a child (SIGSTOP) and return when none of its threads runs; SIGCONT lets it go on.

    The signal alone is only asked for: the threads of a child may run, and answer, for milliseconds more.
    """
    process.send_signal(signal.SIGSTOP)
    if _IS_LINUX and process.returncode is None:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def end_leftover(pid_file: Path, *, timeout_s: float = 10.0) -> bool:
    """End what an earlier parent left running, as `pid_file` names it; True if there was one."""
    try:
        mark = pid_file.read_text()
    except OSError:
        return False
    was_alive = is_alive(mark)
    if was_alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(mark.split()[0]), signal.SIGKILL)
        deadline = time.monotonic() + timeout_s
        while is_alive(mark) and time.monotonic() < deadline:
            time.sleep(0.02)
    pid_file.unlink(missing_ok=True)
    return was_alive


def tail_of(log_file: Path, lines: int = 12) -> str:
    """Return the last lines of a log, for an error that has to explain itself."""
    try:
        text = log_file.read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
