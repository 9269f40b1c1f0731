"""`python -m tests.storm.dead_letters`: 10,000 webhooks die of several reasons, and are replayed.

Receivers refuse all of them; `notifyd dlq stats` tells why. Then they are mended, and `notifyd dlq replay` is
killed -9 half way and run again. Exit code 1 where one is not delivered in the end, or more came twice than
one batch of the replay has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pty
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import psycopg2

from notifyd.message.ids import new_id
from notifyd.producer import Confirmation, Notifier
from notifyd.stream.dead_letter_work import BATCH
from tests.fixtures.processes import NOTIFYD, clean_environment, run_notifyd
from tests.storm.cluster import Cluster
from tests.storm.destination_hosts import HostsConfig, address_of
from tests.storm.records import lines_of
from tests.storm.verdict import run_for_verdict

#: What receivers answer, and so the reason of the dead letter.
_ANSWERS: Final = {400: "http_400", 403: "http_403", 410: "gone", 302: "redirected"}
_CHUNK: Final = 500
_LOOK_S: Final = 0.25
_WAIT_S: Final = 300.0


class Trial:
    """What was sent, and what receivers wrote down."""

    def __init__(self, cluster: Cluster, hosts: HostsConfig) -> None:
        self._cluster = cluster
        self._hosts = hosts

    async def send(self, count: int) -> set[str]:
        """Send to all hosts in turn, with each of the answers in turn; return the ids."""
        answers = list(_ANSWERS)
        todo = [self._message(n % self._hosts.count, answers[n % len(answers)]) for n in range(count)]
        async with Notifier(self._cluster.settings, sender="orders") as notifier:
            for start in range(0, count, _CHUNK):
                results = await notifier.send_many(todo[start : start + _CHUNK])
                if not all(isinstance(one, Confirmation) for one in results):
                    raise RuntimeError("the broker did not take all of it")
        return {message["id"] for message in todo}

    def _message(self, number: int, answer: int) -> dict[str, Any]:
        user = f"user-{number}"
        url = f"http://{address_of(number)}:{self._hosts.port}/{number}?answer={answer}"
        contacts = {user: {"webhook": [{"url": url}]}}
        return {"id": new_id(), "to": user, "title": "Hi", "channels": ["webhook"], "contacts": contacts}

    def answered(self, status: int | None = None) -> Counter[str]:
        """Count the calls of each message: those answered so, or else those refused."""
        lines = lines_of(self._cluster.logs / "hosts.journal")
        found = ((int(answer), message_id) for _, answer, message_id, _ in lines)
        return Counter(one for answer, one in found if (answer == status if status else answer != 200))

    async def until(self, what: str, is_so: Any) -> None:
        """Wait until it is so."""
        deadline = time.monotonic() + _WAIT_S
        while not await asyncio.to_thread(is_so):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} took more than {_WAIT_S:g} s")
            await asyncio.sleep(_LOOK_S)

    def stats(self) -> list[dict[str, Any]]:
        """Return what `notifyd dlq stats` tells of each reason."""
        done = run_notifyd("dlq", "stats", "--json", env=self._cluster.env)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    async def replay(self, rate: int, *, until_audited: int | None = None) -> tuple[float, str]:
        """Run `notifyd dlq replay` on a terminal, killed -9 at so many in the audit.

        Return how long it took in seconds, and what was on the terminal.
        """
        master, slave = pty.openpty()
        began = time.monotonic()
        process = subprocess.Popen(
            [NOTIFYD, "dlq", "replay", "--rate", str(rate), "--yes"],
            env=clean_environment(self._cluster.env),
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        reading = asyncio.create_task(asyncio.to_thread(_read, master))
        try:
            while process.poll() is None:
                if until_audited is not None and await asyncio.to_thread(self.audited) >= until_audited:
                    await asyncio.sleep(random.uniform(0, BATCH / rate))  # anywhere in a batch
                    process.kill()
                await asyncio.sleep(0.05)
        finally:
            process.kill()
            process.wait(10)
        return time.monotonic() - began, await reading

    def audited(self) -> int:
        """Count the replays in the audit."""
        url = self._cluster.settings.database_url
        assert url is not None
        with psycopg2.connect(url.get_secret_value()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM dlq_audit")
            return int(cursor.fetchone()[0])


def _read(terminal: int) -> str:
    """Return all that comes until the other side is closed."""
    parts = []
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the last process on the other side has ended
            part = b""
        if not part:
            os.close(terminal)
            return b"".join(parts).decode(errors="replace")
        parts.append(part)


async def run(directory: Path, count: int, rate: int) -> bool:
    """Run it, and print what was seen."""
    flag = directory / "mended"
    # Not what is tried here: a sender of whom all messages die would be paused.
    extra = {"NOTIFYD_PAUSE_MIN_DEAD": "1000000000"}
    async with Cluster(directory, {"deliver": 1}, extra) as cluster:
        hosts = HostsConfig(cluster.hook_port, 35, 0, str(flag))
        cluster.add_party("hosts", hosts, module="destination_hosts")
        cluster.roles["deliver-0"].start()
        while not await cluster.are_ready():  # noqa: ASYNC110 - looked at once in a while
            await asyncio.sleep(_LOOK_S)
        trial = Trial(cluster, hosts)

        ids = await trial.send(count)
        await trial.until("dying", lambda: len(trial.answered()) == count)
        await trial.until(
            "the last dead letter", lambda: sum(one["letters"] for one in trial.stats()) == count
        )
        began = time.monotonic()
        rows = await asyncio.to_thread(trial.stats)
        _tell(f"stats              {time.monotonic() - began:6.1f} s for {count} dead letters:")
        for row in rows:
            _tell(f"                   {row['letters']:6} {row['reason']}, {row['open']} open")
        is_told = Counter({row["reason"]: row["letters"] for row in rows}) == Counter(
            list(_ANSWERS.values())[n % len(_ANSWERS)] for n in range(count)
        )

        flag.touch()
        seconds, text = await trial.replay(rate, until_audited=count // 2)
        _tell(f"killed after       {seconds:6.1f} s, {await asyncio.to_thread(trial.audited)} in the audit")
        seconds, text = await trial.replay(rate)
        _tell(
            f"run again          {seconds:6.1f} s, {text.count(chr(13))} looks at the progress; at its end:"
        )
        for line in text.replace("\r", "\n").splitlines()[-3:]:
            _tell(f"                   | {line}")
        await trial.until("the end", lambda: trial.answered(200).keys() >= ids)
        taken = await asyncio.to_thread(trial.answered, 200)
        repeats = sum(taken.values()) - len(taken)
        _tell(f"delivered          {len(taken)}, of which {repeats} came twice ({BATCH} may)")
        open_ = sum(row["open"] for row in await asyncio.to_thread(trial.stats))
        _tell(f"still open         {open_}")
    return is_told and repeats <= BATCH and taken.keys() == ids and not open_


def _tell(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """Run the trial that the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm.dead_letters", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="messages (10,000)")
    parser.add_argument("--rate", type=int, default=500, help="replayed in a second (500)")
    arguments = parser.parse_args()
    return run_for_verdict("dead-letters", lambda folder: run(folder, arguments.count, arguments.rate))


if __name__ == "__main__":
    sys.exit(main())
