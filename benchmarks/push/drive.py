"""Starts a server of the push benchmarks and its clients (in C: that needs a compiler), and asks them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Unavailable
from benchmarks.push.work import SECRET, Work, text_around_number, tokens

HERE = Path(__file__).parent
#: What is compiled and installed on demand; ignored by git.
BUILT = HERE.parent / ".peers"
WEBSOCKETS = "17.4"
_PEERS = HERE / "peers"
_WAIT_S = 90


class Program:
    """A process that is told things line by line and answers each by a line."""

    def __init__(self, args: Sequence[str], **env: str) -> None:
        self._args = args
        self._process = subprocess.Popen(
            args,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "BENCH_SECRET": SECRET, **env},
        )
        self.pid = self._process.pid

    def ask(self, command: str) -> list[str]:
        """Say something; return the words of the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        return self.answer()

    def tell(self, command: str) -> None:
        """Say something whose answer is read later."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")

    def answer(self) -> list[str]:
        """Return the words of the next line; raises `RuntimeError` when it ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._args)[:100]} ended with {self._process.wait(10)}")
        return line.split()

    def cpu_us(self) -> float:
        """User and system time of all its threads so far, from the kernel's own clock of that process."""
        return time.clock_gettime_ns(~self.pid << 3 | 2) / 1000

    def rss_kib(self) -> dict[str, int]:
        """What it holds of memory: `Rss`, `Pss`, `Anonymous` (user space; sockets are the kernel's)."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:]
        return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(10)


@contextmanager
def running(args: Sequence[str], **env: str) -> Iterator[Program]:
    """Run a program until the block ends."""
    program = Program(args, **env)
    try:
        yield program
    finally:
        program.end()


@dataclass(frozen=True, slots=True)
class Kind:
    """A server: how it is started, and how clients greet it."""

    args: tuple[str, ...]
    path: str = "/"
    hello: str = '{{"op":"hello","token":"{}"}}'
    mark: str = '"op":"welcome"'


def kind_of(name: str) -> Kind:
    """Return how to run a server, made ready; raises `Unavailable`."""
    python = [sys.executable, "-m"]
    if name == "C loop":
        return Kind((str(compiled("loop")), *text_around_number()))
    if name == "ours":
        hello = '{{"op":"hello","token":"{}","content":["1"],"ack":false}}'
        return Kind((*python, "benchmarks.push.ours"), "/v1/push", hello)
    if name == "ours, acks":
        hello = '{{"op":"hello","token":"{}","content":["1"],"ack":true}}'
        return Kind((*python, "benchmarks.push.ours"), "/v1/push", hello)
    if name == "websockets":
        install_websockets()
        return Kind((*python, "benchmarks.push.servers"))
    install_node_peers()
    if name == "Node ws":
        return Kind(("node", "--expose-gc", str(BUILT / "node" / "ws.mjs")))
    if name == "socket.io":
        return Kind(
            ("node", "--expose-gc", str(BUILT / "node" / "socketio.mjs")),
            "/socket.io/?EIO=4&transport=websocket",
            '40{{"token":"{}"}}',
            '40{"sid"',
        )
    raise ValueError(name)


@contextmanager
def server_and_clients(name: str, count: int, *, in_flight: int = 200) -> Iterator[tuple[Program, Program]]:
    """Run a server and the program of its `count` clients, none of them connected yet."""
    kind = kind_of(name)
    with running(kind.args, PYTHONPATH=python_path()) as server:
        port = int(server.answer()[1])
        with clients(port, count, kind, in_flight=in_flight, is_acking=name.endswith("acks")) as program:
            yield server, program


@contextmanager
def clients(
    port: int,
    count: int,
    kind: Kind,
    *,
    in_flight: int = 200,
    is_acking: bool = False,
    more: Sequence[str] = (),
    first: int = 0,
) -> Iterator[Program]:
    """Run the program of `count` clients, for the users from `first` on."""
    with tempfile.NamedTemporaryFile("w", prefix="hellos-") as file:
        for number, token in enumerate(tokens(first + count)):
            if number >= first:
                file.write(kind.hello.format(token) + "\n")
        file.flush()
        args = [str(compiled("clients")), "-p", str(port), "-u", kind.path, "-f", file.name, "-m", kind.mark]
        args += ["-w", str(in_flight), *(["-a"] if is_acking else []), *more]
        with running(args) as program:
            yield program


@dataclass(frozen=True, slots=True)
class Welcomes:
    """How a batch of connects went; times from `connect` to `welcome`."""

    connected: int
    seconds: float
    p50_ms: float
    p99_ms: float
    most_ms: float
    failed: int


def connect(program: Program, count: int) -> Welcomes:
    """Connect so many more clients; raises `RuntimeError` where one was not let in."""
    _, connected, seconds, p50, p99, most, failed = program.ask(f"connect {count}")
    if int(failed):
        raise RuntimeError(f"{failed} of {count} clients were not let in")
    return Welcomes(int(connected), float(seconds), *(float(us) / 1000 for us in (p50, p99, most)), 0)


def deliver(server: Program, program: Program, work: Work) -> float:
    """Have the work done; return CPU us per delivery. Raises `RuntimeError` unless every client got all."""
    program.ask("reset")
    server.ask(work.command)
    before = server.cpu_us()
    server.tell("go")
    got = program.ask(f"expect {work.deliveries} {_WAIT_S * 1000}")
    server.answer()
    spent = server.cpu_us() - before
    total, least, most, wrong, closed = map(int, got[1:6])
    each = work.rounds * work.burst
    if (total, least, most, wrong, closed) != (work.deliveries, each, each, 0, 0):
        raise RuntimeError(f"clients got {' '.join(got)}, not {work.deliveries} in order")
    return spent / work.deliveries


def compiled(name: str) -> Path:
    """Return the path of a C program, compiled where that has to be done; raises `Unavailable`."""
    source, target = HERE / f"{name}.c", BUILT / name
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise Unavailable("no C compiler (cc, gcc, clang)")
        BUILT.mkdir(exist_ok=True)
        subprocess.run([compiler, "-O2", "-Wall", "-o", str(target), str(source)], check=True)
    return target


def install_node_peers() -> None:
    """Install Node's `ws` and socket.io as locked; raises `Unavailable` without Node."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Unavailable("no Node.js with npm")
    target = BUILT / "node"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("common.mjs", "ws.mjs", "socketio.mjs"):
        shutil.copy(_PEERS / name, target / name)
    lock = (_PEERS / "package-lock.json").read_text()
    stamp = target / "installed"
    if stamp.exists() and stamp.read_text() == lock:
        return
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(_PEERS / name, target / name)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--silent"]
    done = subprocess.run(command, cwd=target, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"npm ci: {done.stderr.strip()[-200:]}")
    stamp.write_text(lock)


def install_websockets() -> None:
    """Install the `websockets` library beside, not into, our environment; raises `Unavailable`."""
    target = BUILT / f"websockets-{WEBSOCKETS}"
    if target.exists():
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    made = target.with_suffix(".part")
    done = subprocess.run(
        [*command, "--target", str(made), f"websockets=={WEBSOCKETS}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Unavailable(f"pip: {done.stderr.strip()[-200:]}")
    made.rename(target)


def python_path() -> str:
    """Return where the servers find their modules: ours, and `websockets` beside them."""
    return os.pathsep.join([str(HERE.parents[1]), str(BUILT / f"websockets-{WEBSOCKETS}")])
