"""`python -m tests.storm`: faults over notifyd under load, and a checker that finds what was lost.

Exit code 1 on any loss; the directory that it then names holds the logs and what is known of each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path

from tests.storm.report import as_json, as_table
from tests.storm.schedule import ROLE_KINDS, Fault, draw_schedule
from tests.storm.storm import Options, Storm
from tests.storm.trial import add_settings, settings_of

_SAMPLES = 200


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make storm", description=__doc__)
    add = parser.add_argument
    add("--messages", type=int, default=100_000, help="how many (100000)")
    add("--minutes", type=float, default=2.0, help="how long faults come (2)")
    add("--seed", type=int, default=1, help="draws messages and faults (1)")
    add("--rate", type=float, default=0.0, help="messages a second (so that they last as long as the faults)")
    add("--persist", type=int, default=3, help="processes of this role (3)")
    add("--deliver", type=int, default=3, help="processes of this role (3)")
    add("--ws", type=int, default=2, help="processes of this role (2)")
    add("--listeners", type=int, default=300, help="devices (300)")
    add("--flaky", type=float, default=0.02, help="share of first webhook calls that go wrong (0.02)")
    add("--every", default="1-3", help="seconds between two faults (1-3)")
    add("--back", default="0-2", help="seconds until what was killed or ended is started again (0-2)")
    add("--kinds", default=",".join(ROLE_KINDS), help="faults of roles; `none` for none (%(default)s)")
    add("--broker-faults", action="store_true", help="kill the broker for 20 s too")
    add("--database-faults", action="store_true", help="stop the database for 30 s too")
    add("--judge-push", action="store_true", help="a push that a device missed is a loss too")
    add_settings(parser)
    add("--schedule", action="store_true", help="print the faults, and raise no storm")
    add("--directory", type=Path, help="where to (a new one under the temporary folder)")
    add("--keep-metrics", action="store_true", help="keep all metrics of each sample among the logs")
    add("--keep", action="store_true", help="keep the logs of a good storm too")
    add("--json", action="store_true", help="one JSON object on standard output, the rest on standard error")
    return parser


def _schedule(arguments: argparse.Namespace, options: Options) -> tuple[Fault, ...]:
    kinds = [kind for kind in ROLE_KINDS if kind in arguments.kinds.split(",")]
    targets = [f"{role}-{number}" for role, count in options.counts.items() for number in range(count)]
    return draw_schedule(
        options.seed,
        options.storm_s,
        targets,
        every_s=_range_of(arguments.every),
        back_s=_range_of(arguments.back),
        kinds=kinds,
        has_broker_faults=arguments.broker_faults,
        has_database_faults=arguments.database_faults,
    )


def _range_of(text: str) -> tuple[float, float]:
    """Read `1-3`, or `2` for exactly that."""
    least, _, most = text.partition("-")
    return float(least), float(most or least)


def main() -> int:
    """Raise the storm that the arguments ask for."""
    arguments = _parser().parse_args()
    storm_s = arguments.minutes * 60
    counts = {role: getattr(arguments, role) for role in ("persist", "deliver", "ws")}
    options = Options(
        messages=arguments.messages,
        storm_s=storm_s,
        seed=arguments.seed,
        per_s=arguments.rate or arguments.messages / storm_s,
        counts=counts,
        listeners=arguments.listeners if counts["ws"] else 0,
        flaky=arguments.flaky,
        sample_s=max(1.0, storm_s / _SAMPLES),
        extra_env=settings_of(arguments),
        judges_push=arguments.judge_push,
        keeps_metrics=arguments.keep_metrics,
    )
    schedule = _schedule(arguments, options)
    told = sys.stderr if arguments.json else sys.stdout

    def tell(line: str) -> None:
        print(line, file=told, flush=True)

    tell(f"schedule of seed {options.seed}, {len(schedule)} faults:")
    for fault in schedule:
        tell(f"  {fault}")
    if arguments.schedule:
        return 0
    # Our own questions to a broker that is away on purpose would fill the page.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="notifyd-storm-"))
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o711)  # as root, the database server is another user, who must get in
    outcome = asyncio.run(Storm(options, schedule, directory, tell).run())
    report = as_json(options, schedule, outcome)
    tell(as_table(options, schedule, outcome))
    if arguments.json:
        print(json.dumps(report))
    for data in ("kafka/data", "postgres"):
        shutil.rmtree(directory / data, ignore_errors=True)
    if outcome.is_good and not arguments.keep:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        (directory / "logs" / "report.json").write_text(json.dumps(report, indent=1))
        tell(f"  logs              {directory / 'logs'}")
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
