"""Apache Kafka itself: one KRaft node on loopback, from the jars that `make kafka` fetches."""

from __future__ import annotations

import base64
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from notifyd.dev.child import end, end_leftover, free_port, freeze, spawn
from notifyd.dev.probe import wait_for_answer
from notifyd.errors import ConfigError, TransientError

_HOST = "127.0.0.1"

#: Written into the folder of jars as its last file, so that a broken fetch is never taken for a whole one.
_STAMP = ".complete"

# Compiling in earnest pays off after minutes; these nodes live for seconds to minutes.
_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Djava.awt.headless=true")

_PROPERTIES: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    # one node: every internal topic has one copy, and few partitions open quickly
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "min.insync.replicas": "1",
    "default.replication.factor": "1",
    "auto.create.topics.enable": "false",
    # tests wait for neither the first rebalance nor a dead member longer than they must
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # After kill -9 the controller refuses the same broker until its old session is over (9 s by
    # default). Lower, and a busy machine of two cores fences a healthy broker.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "500",
    "log.retention.hours": "168",
    "log.segment.bytes": "67108864",
    "log.cleaner.dedupe.buffer.size": "33554432",
    "message.max.bytes": "2097152",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "num.recovery.threads.per.data.dir": "2",
    "controlled.shutdown.enable": "false",
}


def find_jars(start: Path | None = None) -> Path | None:
    """Return the folder of jars that `make kafka` left in `start` (default: here) or beside the sources."""
    roots = ((start or Path.cwd()).resolve(), Path(__file__).resolve().parents[2])
    places = (root / ".kafka" / "libs" for root in roots)
    return next((place for place in places if (place / _STAMP).is_file()), None)


class LocalKafka:
    """A single Kafka node whose data, port, log and pid file live in one directory.

    `start` on a directory used before gives the same port and the same data, whatever
    happened to the node that was there last.
    """

    def __init__(self, directory: Path, *, jars: Path | None = None, heap_mb: int = 512) -> None:
        found = jars or find_jars()
        if found is None:
            raise ConfigError(
                "Apache Kafka is not here", reason="kafka_not_fetched", remedy="fetch it with `make kafka`"
            )
        java = shutil.which("java")
        if java is None:
            raise ConfigError(
                "no `java` on the path", reason="java_missing", remedy="install a Java runtime, 17 or later"
            )
        self.directory = directory.resolve()
        self.log_file = self.directory / "kafka.log"
        self._java = java
        self._classpath = f"{found}/*"
        self._heap_mb = heap_mb
        self._config = self.directory / "server.properties"
        self._pid_file = self.directory / "kafka.pid"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def bootstrap_servers(self) -> str:
        """`host:port`, known once started and kept over restarts."""
        return f"{_HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """Process id of the running node."""
        if self._process is None:
            raise RuntimeError("the node was not started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the child is alive; it may be paused."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, timeout_s: float = 90.0) -> str:
        """Start the node, wait until it answers, return its bootstrap servers.

        Raises `TransientError` with the end of the log when it does not come up.
        """
        if self.is_running:
            return self.bootstrap_servers
        self.directory.mkdir(parents=True, exist_ok=True)
        end_leftover(self._pid_file)
        if self._config.is_file():
            self._port = _port_in(self._config)
        else:
            self._format()
        self._process = spawn(
            [
                *self._java_command(f"-Xmx{self._heap_mb}m", f"-Xms{min(self._heap_mb, 256)}m"),
                "kafka.Kafka",
                str(self._config),
            ],
            log_file=self.log_file,
            pid_file=self._pid_file,
            cwd=self.directory,
        )
        try:
            wait_for_answer(
                self._process,
                _HOST,
                self._port,
                what="Apache Kafka",
                log_file=self.log_file,
                timeout_s=timeout_s,
            )
        except BaseException:
            self.kill()
            raise
        return self.bootstrap_servers

    def stop(self, *, timeout_s: float = 20.0) -> None:
        """End the node in order; by force when it takes longer than `timeout_s`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)  # a paused one would not hear
            end(self._process, timeout_s=timeout_s)
        self._forget()

    def kill(self) -> None:
        """End the node as a power cut would (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
        self._forget()

    def restart(self, *, timeout_s: float = 90.0) -> str:
        """Start again on the same port and data, after `kill`, `stop` or while it runs."""
        self.stop()
        return self.start(timeout_s=timeout_s)

    def pause(self) -> None:
        """Freeze the node: connections stay open and, from the return on, nothing answers."""
        assert self._process is not None
        freeze(self._process)

    def resume(self) -> None:
        """Let a paused node go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def console_producer(
        self,
        topic: str,
        lines: Iterable[str],
        *,
        arguments: Sequence[str] = (),
        timeout_s: float = 60.0,
    ) -> None:
        """Write one record a line with Kafka's own console producer; it flushes and ends.

        It takes text alone: what is no UTF-8 it would replace.

        `arguments` go on its command line, e.g. `("--property", "parse.key=true")`.
        """
        text = "".join(f"{line}\n" for line in lines).encode()
        self._tool(
            "org.apache.kafka.tools.ConsoleProducer",
            ["--bootstrap-server", self.bootstrap_servers, "--topic", topic, *arguments],
            text,
            timeout_s,
        )

    def _format(self) -> None:
        data = self.directory / "data"
        shutil.rmtree(data, ignore_errors=True)  # of a start that ended before its configuration was written
        self._port = free_port()
        controller = free_port()
        settings = {
            **_PROPERTIES,
            "listeners": f"PLAINTEXT://{_HOST}:{self._port},CONTROLLER://{_HOST}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{_HOST}:{self._port}",
            "controller.quorum.voters": f"1@{_HOST}:{controller}",
            "log.dirs": str(data),
        }
        draft = self._config.with_suffix(".draft")
        draft.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if cluster.startswith("-"):  # would read as an option
            cluster = "A" + cluster[1:]
        self._tool("kafka.tools.StorageTool", ["format", "-t", cluster, "-c", str(draft)], b"", 60.0)
        draft.replace(self._config)  # last: a configuration there means that the data are formatted

    def _tool(self, main: str, arguments: Sequence[str], stdin: bytes, timeout_s: float) -> None:
        done = subprocess.run(
            [*self._java_command("-Xmx256m"), main, *arguments],
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        with self.log_file.open("ab") as log:
            log.write(done.stderr)
        if done.returncode != 0:
            said = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise TransientError(
                f"{main} ended with code {done.returncode}: {said}", reason="kafka_tool_failed"
            )

    def _java_command(self, *options: str) -> list[str]:
        return [
            self._java,
            *_JVM,
            *options,
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
            "-cp",
            self._classpath,
        ]

    def _forget(self) -> None:
        self._process = None
        self._pid_file.unlink(missing_ok=True)


def _port_in(config: Path) -> int:
    for line in config.read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "advertised.listeners":
            return int(value.rpartition(":")[2])
    raise ConfigError(
        f"{config} names no listener", reason="bad_kafka_config", remedy=f"delete {config.parent}"
    )
