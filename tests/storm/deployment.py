"""Pods of one role, kept and replaced as Kubernetes does: probes, endpoints, surge, preStop, grace."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import aiohttp

from tests.fixtures.processes import NotifydProcess, run_notifyd
from tests.storm.cluster import Cluster
from tests.storm.manifests import Probe, Rollout

_LOOK_S = 0.1
_SCHEMA_AGAIN_S = 2.0


@dataclass
class Pod:
    """One process and what is known of it; times are seconds of the trial's clock."""

    name: str
    process: NotifydProcess
    admin_port: int
    http_port: int | None
    is_new: bool
    node: str = ""
    is_ready: bool = False
    ready_since: float | None = None
    deleted_at: float | None = None
    signalled_at: float | None = None
    #: The same as milliseconds since 1970, as devices write down.
    signalled_ms: float = 0.0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def is_live(self) -> bool:
        """Whether nobody has deleted it."""
        return self.deleted_at is None


class Deployment:
    """`replicas` pods of a role. `told` gets lines for people, `changed` is called when readiness changes."""

    def __init__(
        self,
        cluster: Cluster,
        rollout: Rollout,
        replicas: int,
        *,
        now: Callable[[], float],
        told: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self.rollout = rollout
        self.pods: list[Pod] = []
        self.gone: list[Pod] = []
        self.problems: list[str] = []
        #: Names of pods whose liveness probe failed: the kubelet would restart them.
        self.failed_liveness: list[str] = []
        #: Whether it is no problem now that a pod does not stay ready.
        self.may_be_unready = False
        #: The fewest pods that were ready at once since the first roll began.
        self.fewest_ready = replicas
        self._cluster = cluster
        self._replicas = replicas
        self._now = now
        self._told = told
        self._changed = changed
        self._number = 0
        self._endings: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    @property
    def role(self) -> str:
        """Whose pods these are."""
        return self.rollout.role

    @property
    def endpoints(self) -> list[int]:
        """Ports of the pods that a Service would send connections to."""
        return [pod.http_port for pod in self.pods if pod.is_ready and pod.is_live and pod.http_port]

    @property
    def ready(self) -> list[Pod]:
        """The pods that count."""
        return [pod for pod in self.pods if pod.is_ready and pod.is_live]

    async def create(
        self, *, is_new: bool = False, node: str = "", env: Mapping[str, str] | None = None
    ) -> None:
        """Start a pod, beside what its init container waits for."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        name = f"{self.role}-{self._number}"
        self._number += 1
        process = self._cluster.add_role(self.role, name, {**self.rollout.env, **(env or {})})
        port = self._cluster.http_ports.get(name)
        pod = Pod(name, process, self._cluster.admin_ports[name], port, is_new, node)
        self.pods.append(pod)
        pod.tasks.append(asyncio.create_task(self._live(pod), name=f"pod {name}"))

    async def _live(self, pod: Pod) -> None:
        if self.rollout.waits_for_schema:
            await self._wait_for_schema(pod)
        pod.process.start()
        if self.rollout.startup is not None:
            await self._start_up(pod, self.rollout.startup)
        await asyncio.gather(self._probe_readiness(pod), self._probe_liveness(pod))

    async def _wait_for_schema(self, pod: Pod) -> None:
        while True:
            done = await asyncio.to_thread(run_notifyd, "migrate", "--check", env=pod.process.env)
            if done.returncode == 0:
                return
            await asyncio.sleep(_SCHEMA_AGAIN_S)

    async def _start_up(self, pod: Pod, probe: Probe) -> None:
        failures = 0
        await asyncio.sleep(probe.initial_delay_s)
        while not await self._ask(pod, probe):
            failures += 1
            if failures >= probe.failures:
                self.problems.append(f"{pod.name} did not start within its startup probe")
                return
            await asyncio.sleep(probe.period_s)

    async def _probe_readiness(self, pod: Pod) -> None:
        probe, failures = self.rollout.readiness, 0
        await asyncio.sleep(probe.initial_delay_s)
        while True:
            if await self._ask(pod, probe):
                failures = 0
                if not pod.is_ready:
                    pod.is_ready, pod.ready_since = True, self._now()
                    self._told(f"{self._now():7.2f} s  {pod.name:<11} ready")
                    self._changed()
            else:
                failures += 1
                if pod.is_ready and failures >= probe.failures:
                    pod.is_ready, pod.ready_since = False, None
                    if pod.is_live and not self.may_be_unready:
                        self.problems.append(f"{pod.name} was not ready any more at {self._now():.1f} s")
                    self._note()
                    self._changed()
            await asyncio.sleep(probe.period_s)

    async def _probe_liveness(self, pod: Pod) -> None:
        probe, failures = self.rollout.liveness, 0
        await asyncio.sleep(probe.initial_delay_s)
        while True:
            failures = 0 if await self._ask(pod, probe) else failures + 1
            if failures >= probe.failures:
                self._told(f"{self._now():7.2f} s  {pod.name:<11} fails its liveness probe")
                self.failed_liveness.append(pod.name)
                failures = 0
            await asyncio.sleep(probe.period_s)

    async def _ask(self, pod: Pod, probe: Probe) -> bool:
        assert self._session is not None
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            url = f"http://127.0.0.1:{pod.admin_port}{probe.path}"
            async with self._session.get(url, timeout=aiohttp.ClientTimeout(probe.timeout_s)) as answer:
                return answer.status < 400
        return False

    # Rolls

    async def until_ready(self) -> None:
        """Wait until all pods that there should be have been ready for as long as they must."""
        while len(self._available()) < self._replicas:
            self._look_at_ends()
            await asyncio.sleep(_LOOK_S)

    async def roll(self, env: Mapping[str, str] | None = None) -> None:
        """Replace every pod by a new one as the Deployment says; returns when the old ones are gone."""
        most = self._replicas + self.rollout.surge(self._replicas)
        fewest = self._replicas - self.rollout.unavailable(self._replicas)
        for pod in self.pods:
            pod.is_new = False
        self.fewest_ready = len(self.ready)
        while True:
            live = [pod for pod in self.pods if pod.is_live]
            new = [pod for pod in live if pod.is_new]
            old = [pod for pod in live if not pod.is_new]
            if len(live) < most and len(new) < self._replicas:
                await self.create(is_new=True, env=env)
                continue
            if old and len(self._available()) - 1 >= fewest:
                self.delete(old[0])
                continue
            if not old and len(self._available()) >= self._replicas:
                break
            self._look_at_ends()
            await asyncio.sleep(_LOOK_S)
        await asyncio.gather(*self._endings)

    async def scale(self, replicas: int) -> None:
        """Take away what is more than `replicas`, the newest first, and wait until that is gone."""
        live = [pod for pod in self.pods if pod.is_live]
        for pod in live[replicas:]:
            self.delete(pod)
        await asyncio.gather(*self._endings)

    async def evict(self, node: str, other: str) -> None:
        """Take all pods from a node as `kubectl drain` does, while others come up elsewhere."""
        self.fewest_ready = len(self.ready)
        for pod in [pod for pod in self.pods if pod.node == node and pod.is_live]:
            while len(self.ready) - 1 < self._replicas - self.rollout.may_be_evicted:
                self._look_at_ends()
                await asyncio.sleep(_LOOK_S)
            self.delete(pod)
            await self.create(node=other)
        await self.until_ready()
        await asyncio.gather(*self._endings)

    def delete(self, pod: Pod) -> None:
        """Take a pod away: its endpoint, preStop, SIGTERM, and SIGKILL when its grace is over."""
        pod.deleted_at = self._now()
        self._told(f"{pod.deleted_at:7.2f} s  {pod.name:<11} deleted")
        self._endings.append(asyncio.create_task(self._end(pod), name=f"end {pod.name}"))
        self._note()
        self._changed()

    async def _end(self, pod: Pod) -> None:
        deadline = time.monotonic() + self.rollout.grace_s
        # The readiness probe goes on until SIGTERM, as the kubelet's does; nobody is to restart it.
        await asyncio.sleep(self.rollout.pre_stop_s)
        for task in pod.tasks:
            task.cancel()
        pod.signalled_at, pod.signalled_ms = self._now(), time.time() * 1000
        pod.process.signal(signal.SIGTERM)
        while pod.process.is_running:
            if time.monotonic() > deadline:
                pod.process.signal(signal.SIGKILL)
                self.problems.append(
                    f"{pod.name} was killed: it did not end within {self.rollout.grace_s:g} s"
                )
                return
            await asyncio.sleep(_LOOK_S)
        took_s = self._now() - pod.signalled_at
        self._told(f"{self._now():7.2f} s  {pod.name:<11} gone, {took_s:.1f} s after SIGTERM")
        if pod.process.returncode != 0:
            self.problems.append(f"{pod.name} ended with {pod.process.returncode}\n{pod.process.tail(15)}")
        self.pods.remove(pod)
        self.gone.append(pod)
        self._cluster.admin_ports.pop(pod.name)

    def _available(self) -> list[Pod]:
        return [
            pod
            for pod in self.ready
            if pod.ready_since is not None and self._now() - pod.ready_since >= self.rollout.min_ready_s
        ]

    def _note(self) -> None:
        self.fewest_ready = min(self.fewest_ready, len(self.ready))

    def _look_at_ends(self) -> None:
        for pod in self.pods:
            for task in pod.tasks:
                if task.done() and not task.cancelled():
                    task.result()
            code = pod.process.returncode
            if pod.is_live and code is not None:
                words = pod.process.tail(15)
                raise RuntimeError(f"{pod.name} ended by itself with {code}\n{words}")

    async def stop(self) -> None:
        """End all pods, for good."""
        for pod in list(self.pods):
            if pod.is_live:
                self.delete(pod)
        await asyncio.gather(*self._endings)
        if self._session is not None:
            await self._session.close()
