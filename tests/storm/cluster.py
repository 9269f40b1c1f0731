"""Everything a storm rages over: Apache Kafka, PostgreSQL, roles and parties, each a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from pydantic import SecretStr

from notifyd.dev.child import free_port, spawn
from notifyd.dev.kafka import LocalKafka
from notifyd.dev.postgres import LocalPostgres
from notifyd.settings import Settings
from tests.fixtures.kafka import environment_of, settings_for
from tests.fixtures.processes import NotifydProcess, clean_environment, run_notifyd
from tests.storm.records import write_config

T = TypeVar("T")

#: The machine outlives a storm, so nothing has to reach its disk; a killed server loses nothing by that.
_POSTGRES_OPTIONS = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}
_PARTITIONS = 12
PUBLIC_ROLES = ("api", "ws")
_ROOT = Path(__file__).resolve().parents[2]


class Party:
    """One of the processes that a storm spares: the backend, the receivers, the devices."""

    def __init__(
        self, name: str, config: Any, directory: Path, env: Mapping[str, str], *, module: str = ""
    ) -> None:
        self.name = name
        self.journal = directory / f"{name}.journal"
        self.log_file = directory / f"{name}.log"
        path = write_config(directory / f"{name}.json", config)
        self._process = spawn(
            [sys.executable, "-m", f"tests.storm.{module or name}", str(path), str(self.journal)],
            log_file=self.log_file,
            env=clean_environment(env),
            cwd=_ROOT,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code once it ended."""
        return self._process.poll()

    async def stop(self, timeout_s: float = 30.0) -> int:
        """Ask it to write down what it has and end; return its exit code."""
        if self._process.poll() is None:
            self._process.terminate()
        return await self.wait(timeout_s)

    async def wait(self, timeout_s: float) -> int:
        """Return its exit code once it has ended; raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            while (code := self._process.poll()) is None:  # noqa: ASYNC110 - Popen tells by asking
                await asyncio.sleep(0.05)
        return code

    def close(self) -> None:
        """End it for sure."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)


class Cluster:
    """The surroundings in one directory, and `roles` by name (`persist-0`). Use as an async context."""

    def __init__(
        self,
        directory: Path,
        counts: Mapping[str, int],
        extra_env: Mapping[str, str],
        *,
        first_env: Mapping[str, str] | None = None,
        partitions: int = _PARTITIONS,
    ) -> None:
        """`extra_env` is for all processes; `first_env` too for those that make the topics and the schema."""
        self.directory = directory
        self.logs = directory / "logs"
        self.logs.mkdir(parents=True)
        self.kafka = LocalKafka(directory / "kafka")
        self.postgres = LocalPostgres(directory / "postgres", options=_POSTGRES_OPTIONS)
        self.hook_port = free_port()
        self.roles: dict[str, NotifydProcess] = {}
        self.admin_ports: dict[str, int] = {}
        self.http_ports: dict[str, int] = {}
        self.push_urls: list[str] = []
        self.parties: dict[str, Party] = {}
        self._counts = counts
        self._extra_env = extra_env
        self._first_env = first_env or {}
        self._partitions = partitions
        # Children die with the thread that started them: this one lives as long as we do.
        self._thread = ThreadPoolExecutor(1, "surroundings")
        self._settings: Settings | None = None

    @property
    def settings(self) -> Settings:
        """Settings of everybody here, once started."""
        assert self._settings is not None
        return self._settings

    @property
    def env(self) -> dict[str, str]:
        """The same as environment variables."""
        return {**environment_of(self.settings), **self._extra_env}

    async def in_thread(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a call of the broker or the database, which block, and start children."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, functools.partial(call, *args, **kwargs))

    async def __aenter__(self) -> Cluster:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for party in self.parties.values():
            party.close()
        for process in self.roles.values():
            if process.is_running:
                process.kill()
        await self.in_thread(self.kafka.stop)
        await self.in_thread(self.postgres.stop)
        self._thread.shutdown()

    async def _start(self) -> None:
        servers = await self.in_thread(self.kafka.start)
        url = await self.in_thread(self.postgres.start)
        self._settings = settings_for(
            servers,
            is_embedded=False,
            topic_prefix="storm.",
            topic_partitions=self._partitions,
            kafka_session_timeout_s=Settings.model_fields["kafka_session_timeout_s"].default,
            database_url=SecretStr(url),
        )
        await self.prepare(self._first_env)
        for role, count in self._counts.items():
            for number in range(count):
                self.add_role(role, f"{role}-{number}")

    async def prepare(self, env: Mapping[str, str] | None = None) -> None:
        """Do what comes before a release: topics and schema."""
        for command in (("topics", "create"), ("migrate",)):
            await self.in_thread(self._run, *command, env=env or {})

    def _run(self, *command: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        done = run_notifyd(*command, env={**self.env, **env})
        if done.returncode != 0:
            raise RuntimeError(f"notifyd {' '.join(command)} failed: {done.stderr.strip()}")
        return done

    def add_role(self, role: str, name: str, env: Mapping[str, str] | None = None) -> NotifydProcess:
        """Make a process of a role, not started yet; `env` comes on top of everybody's.

        Its ports stay over restarts, as a Service's do.
        """
        self.admin_ports[name] = free_port()
        ports = {"NOTIFYD_ADMIN_PORT": str(self.admin_ports[name])}
        if role in PUBLIC_ROLES:
            port = self.http_ports[name] = free_port()
            ports["NOTIFYD_HTTP_PORT"] = str(port)
        if role == "ws":
            self.push_urls.append(f"ws://127.0.0.1:{port}/v1/push")
        process = self.roles[name] = NotifydProcess(
            [f"--role={role}"],
            {**self.env, "NOTIFYD_POD_NAME": name, **ports, **(env or {})},
            self.logs,
            name,
        )
        return process

    def add_party(self, name: str, config: Any, *, module: str = "") -> Party:
        """Start one of `tests.storm.produce`, `receive`, `listen`, `devices`: `module`, or `name` itself."""
        env = environment_of(self.settings)
        party = self.parties[name] = Party(name, config, self.logs, env, module=module)
        return party

    async def are_ready(self) -> bool:
        """Whether every role says that it is ready."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
            return all(await asyncio.gather(*(_is_ready(session, one) for one in self.admin_ports.values())))


async def _is_ready(session: aiohttp.ClientSession, port: int) -> bool:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
        async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
            return answer.status == 200
    return False


def role_of(name: str) -> str:
    """Return the role of a process: `persist` of `persist-0`."""
    return name.rpartition("-")[0]
