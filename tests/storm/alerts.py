"""`python -m tests.storm.alerts`: real faults, one by one, until their alerts fire in a real Prometheus.

Roles, Apache Kafka and PostgreSQL are processes that run under a small load; Prometheus scrapes them each
second and has the rules of `k8s/components/monitoring`, in which each minute is two seconds. Exit code 1
where an alert does not fire on its fault, or one fires before the first. Needs `prometheus` on the path.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import aiohttp

from tests.fixtures.webhooks import WebhookReceiver
from tests.storm.alert_faults import CONNECTIONS, FAULTS, listen
from tests.storm.alert_trial import Prometheus, Trial, beside, tell
from tests.storm.cluster import Cluster


async def run(folder: Path, faults: list[str], hold_s: float) -> list[str]:
    """Make these faults; return what was wrong."""
    extra = {
        "NOTIFYD_WS_MAX_CONNECTIONS": str(CONNECTIONS),
        "NOTIFYD_WS_MAX_CONNECTIONS_PER_ADDRESS": "0",
        "NOTIFYD_API_CONFIRM_TIMEOUT_S": "1",
        "NOTIFYD_DATABASE_POOL_SIZE": "2",
    }
    counts = {"api": 1, "deliver": 1, "persist": 1, "sweep": 1, "ws": 1}
    async with (
        Cluster(folder, counts, extra) as cluster,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as session,
    ):
        for process in cluster.roles.values():
            process.start()
        with WebhookReceiver() as receiver:
            prometheus = Prometheus(folder / "prometheus", cluster.admin_ports)
            trial = Trial(cluster, prometheus, receiver, session)
            try:
                await trial.all_ready()
                async with beside(trial.watch(), trial.load(), listen(trial, 0)):
                    for name in faults:
                        await FAULTS[name](trial)
                    if hold_s:
                        tell(f"Prometheus: http://127.0.0.1:{prometheus.port} for {hold_s:g} s")
                        await asyncio.sleep(hold_s)
            finally:
                prometheus.close()
        return trial.problems


def main() -> int:
    """Run the trial that the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm.alerts", description=__doc__)
    parser.add_argument("faults", nargs="*", default=list(FAULTS), help=f"of {', '.join(FAULTS)} (all)")
    parser.add_argument("--hold", type=float, default=0, help="keep all up for so many seconds in the end")
    arguments = parser.parse_args()
    unknown = set(arguments.faults) - set(FAULTS)
    if unknown or shutil.which("prometheus") is None:
        parser.error(f"no such fault: {unknown}" if unknown else "prometheus is not installed")
    with tempfile.TemporaryDirectory(prefix="notifyd-alerts-") as folder:
        Path(folder).chmod(0o711)  # as root, the database server is another user, who must get in
        problems = asyncio.run(run(Path(folder), arguments.faults, arguments.hold))
    for problem in problems:
        print(f"WRONG: {problem}")
    print("good" if not problems else "NOT GOOD")
    return 0 if not problems else 1


if __name__ == "__main__":
    sys.exit(main())
