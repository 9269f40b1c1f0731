"""The catalogue of metrics: every metric of notifyd is declared here, once, with its meaning.

Labels never carry an id. Times are seconds, sizes bytes. One `Metrics` belongs to one process
and is passed to who needs it; nothing is registered at import.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from notifyd.version import VERSION

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
#: A life goes on over retries, and while a user is away.
_LIFE_SECONDS: Final = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600, 14400, 86400)


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric as the reference page has it; `kind` is counter, gauge or histogram."""

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...]
    section: str

    @property
    def series(self) -> frozenset[str]:
        """The names under which its samples are exported."""
        if self.kind == "histogram":
            return frozenset(f"{self.name}_{end}" for end in ("bucket", "sum", "count"))
        return frozenset({self.name})


class Durations(Histogram):
    """A histogram that takes many values at once.

    One `observe` is 1.4 us, of which each record of a batch would pay one. Records of a batch share
    few timestamps, so to count these first costs it 0.1.
    """

    def observe_counts(self, counts: Mapping[float, int]) -> None:
        """Observe each value as often as it counts."""
        bounds = self._upper_bounds
        for value, count in counts.items():
            self._buckets[bisect_left(bounds, value)].inc(count)
            self._sum.inc(value * count)


class Metrics:
    """All metrics of a process, on a registry of its own; `declared` has them in the order of the page."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.declared: list[Declared] = []
        self._section = ""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._process()
        self._stream()
        self._producing()
        self._storing()
        self._delivering()
        self._sweeping()
        self._push()
        self._api()

    def _declare(self, name: str, kind: str, meaning: str, labels: tuple[str, ...]) -> None:
        self.declared.append(Declared(name, kind, meaning, labels, self._section))

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        self._declare(name, "counter", meaning, labels)
        return Counter(name, meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        self._declare(name, "gauge", meaning, labels)
        return Gauge(name, meaning, labels, registry=self.registry)

    def _histogram(
        self, name: str, meaning: str, *labels: str, buckets: tuple[float, ...] = _SECONDS
    ) -> Durations:
        self._declare(name, "histogram", meaning, labels)
        return Durations(name, meaning, labels, buckets=buckets, registry=self.registry)

    def _process(self) -> None:
        self._section = "Process"
        self.build_info = self._gauge("notifyd_build_info", "1, with the version as a label.", "version")
        self.build_info.labels(VERSION).set(1)
        self.ready = self._gauge("notifyd_ready", "1 while the role is ready.", "role")
        self.loop_lag = self._gauge(
            "notifyd_event_loop_lag_seconds", "The latest that the event loop ran a timer in the last minute."
        )
        self.loop_tasks = self._gauge("notifyd_event_loop_tasks", "Tasks of the event loop not yet done.")

    def _stream(self) -> None:
        self._section = "Reading"
        self.records = self._counter("notifyd_records_total", "Records taken from a topic.", "role", "topic")
        self.in_flight = self._gauge(
            "notifyd_in_flight_records", "Records read and not yet acked.", "role", "topic", "partition"
        )
        self.lag = self._gauge(
            "notifyd_lag_records", "Records of a partition not yet committed.", "role", "topic", "partition"
        )
        self.lag_seconds = self._gauge(
            "notifyd_lag_seconds",
            "How long the oldest of them is late: its age, less the delay of a retry topic.",
            "role",
            "topic",
            "partition",
        )
        self.oldest = self._gauge(
            "notifyd_oldest_in_flight_seconds",
            "Age of about the oldest record read and not yet acked.",
            "role",
            "topic",
            "partition",
        )
        self.commits = self._counter("notifyd_commits_total", "Commits of offsets.", "role", "result")
        self.rebalances = self._counter("notifyd_rebalances_total", "Assignments received.", "role")
        self.assigned = self._gauge(
            "notifyd_assigned_partitions", "Partitions that this process has, of all topics.", "role"
        )
        self.handler_failures = self._counter(
            "notifyd_handler_failures_total", "Failures of a handler that nobody foresaw.", "role", "topic"
        )
        self.drain = self._histogram("notifyd_drain_seconds", "Time that work in flight took to end.", "role")

    def _producing(self) -> None:
        self._section = "Producing"
        self.produced = self._counter(
            "notifyd_produced_records_total", "Records handed to the broker.", "topic", "result"
        )
        self.produce_seconds = self._histogram(
            "notifyd_produce_seconds", "From handing over a record to the broker's acknowledgement.", "topic"
        )
        self.produce_pending = self._gauge(
            "notifyd_produce_pending_records", "Records handed to the broker and not yet acknowledged."
        )
        self.dead = self._counter("notifyd_dead_letters_total", "Records put on the DLQ.", "reason")
        self.events_written = self._counter("notifyd_events_total", "Events by stage.", "role", "stage")
        self.events_dropped = self._counter(
            "notifyd_events_dropped_total", "Events that may be lost and were, by reason.", "reason"
        )

    def _storing(self) -> None:
        self._section = "Storing"
        self.invalid = self._counter(
            "notifyd_invalid_records_total", "Records that break a rule of the envelope.", "role", "reason"
        )
        self.persisted = self._counter("notifyd_persisted_rows_total", "Rows committed.", "table")
        self.persist_seconds = self._histogram(
            "notifyd_persist_batch_seconds", "One batch to committed rows."
        )
        self.database_waits = self._counter(
            "notifyd_database_waits_total", "Waits for a database that did not answer.", "reason"
        )
        self.database_connections = self._gauge(
            "notifyd_database_connections_in_use", "Connections to the database at work."
        )
        self.database_connections_max = self._gauge(
            "notifyd_database_connections_max", "Connections to the database that this process may have."
        )
        self.database_wait = self._histogram(
            "notifyd_database_connection_wait_seconds", "Wait for a free connection to the database."
        )
        self.ingest_to_stored = self._histogram(
            "notifyd_ingest_to_stored_seconds", "From a message's Kafka timestamp to its committed rows."
        )
        self.accepted_to_final = self._histogram(
            "notifyd_accepted_to_final_seconds",
            "From a message's Kafka timestamp (or when it was due) to the final state of a delivery.",
            "channel",
            buckets=_LIFE_SECONDS,
        )

    def _delivering(self) -> None:
        self._section = "Delivering"
        self.deliveries = self._counter(
            "notifyd_deliveries_total", "Outcomes of delivery attempts.", "channel", "outcome", "reason"
        )
        self.delivery_seconds = self._histogram(
            "notifyd_delivery_seconds", "One attempt to deliver.", "channel"
        )
        self.webhook_calls = self._gauge("notifyd_webhook_calls", "Webhook calls under way.")
        self.hosts_down = self._gauge(
            "notifyd_hosts_down",
            "Destinations that failed ten calls in a row.",
            "channel",
        )
        self.contacts = self._gauge("notifyd_contacts", "Users in the copy of the contacts.")
        self.contact_records = self._counter(
            "notifyd_contact_records_total", "Records of the contacts topic that were taken over."
        )
        self.addresses_gone = self._counter(
            "notifyd_contact_addresses_gone_total",
            "Addresses left out of a contact since the other side said that they are gone.",
            "channel",
        )
        self.webpush_calls = self._gauge("notifyd_webpush_calls", "Calls of push services under way.")
        self.pauses = self._counter(
            "notifyd_sender_pauses_total", "Senders paused because too many deliveries died.", "channel"
        )

    def _sweeping(self) -> None:
        self._section = "Sweeping"
        self.sweep_leader = self._gauge(
            "notifyd_sweep_leader", "1 in the process that sweeps, 0 in a standby."
        )
        self.sweep_verdicts = self._counter(
            "notifyd_sweep_verdicts_total",
            "What became of deliveries past their deadline, by verdict and reason.",
            "verdict",
            "reason",
        )
        self.sweep_alarms = self._counter(
            "notifyd_sweep_alarms_total", "Webhooks to maintainers: sent, retried, refused.", "result"
        )
        self.oldest_open = self._gauge(
            "notifyd_oldest_undelivered_seconds",
            "Age of the oldest message with a delivery that is neither sent nor final, since it was due: of "
            "the 10,000 that are looked at first. Set by the leading sweep.",
        )
        self.mark_lag = self._gauge(
            "notifyd_mark_lag_seconds",
            "Age of the moment up to which the sweep knows all events to be stored.",
        )

    def _push(self) -> None:
        self._section = "Push"
        self.ingest_to_push = self._histogram(
            "notifyd_ingest_to_push_seconds", "From the record's Kafka timestamp to the write to a socket."
        )
        self.connections = self._gauge("notifyd_ws_connections", "Open push connections.")
        self.connections_max = self._gauge(
            "notifyd_ws_connections_max", "Push connections that this process takes."
        )
        self.connections_opened = self._counter(
            "notifyd_ws_connections_opened_total", "Push connections opened."
        )
        self.closes = self._counter("notifyd_ws_closes_total", "Push connections closed.", "code")
        self.frames_in = self._counter("notifyd_ws_frames_received_total", "Frames from clients.", "op")
        self.pushed = self._counter("notifyd_ws_messages_sent_total", "Messages written to a socket.")
        self.acked = self._counter("notifyd_ws_acks_total", "Acknowledgements made durable.")
        self.acks_refused = self._counter(
            "notifyd_ws_acks_refused_total", "Acknowledged ids that cannot be of that user.", "reason"
        )
        self.refused = self._counter(
            "notifyd_ws_refused_total", "Connections turned away before their welcome, by limit.", "reason"
        )
        self.evicted = self._counter("notifyd_ws_evictions_total", "Connections cut for not reading.")
        self.resumes = self._counter(
            "notifyd_ws_resumes_total", "Welcomes of clients that came back, by what was missing.", "missing"
        )
        self.replayed = self._counter(
            "notifyd_ws_messages_replayed_total", "Messages sent because a client had missed them."
        )
        self.resent = self._counter(
            "notifyd_ws_messages_resent_total", "Messages sent again because nobody acknowledged them."
        )
        self.signals_written = self._counter(
            "notifyd_ws_signals_written_total", "Records that tell a user's other devices what one did."
        )
        self.signals_dropped = self._counter(
            "notifyd_ws_signals_dropped_total", "Changed ids that other devices were not told of.", "reason"
        )
        self.states_sent = self._counter(
            "notifyd_ws_states_sent_total", "Times that a connection was told what another device did."
        )
        self.window_bytes = self._gauge(
            "notifyd_ws_window_bytes", "Memory of the messages kept for clients that come back, estimated."
        )
        self.ingest_bytes = self._counter(
            "notifyd_ws_ingest_bytes_total", "Bytes of messages read by this ws process."
        )

    def _api(self) -> None:
        self._section = "API"
        self.api_requests = self._counter(
            "notifyd_api_requests_total", "Requests answered, by HTTP status.", "route", "status"
        )
        self.api_seconds = self._histogram(
            "notifyd_api_request_seconds", "From the head of a request to its answer.", "route"
        )
        self.api_in_flight = self._gauge("notifyd_api_in_flight_requests", "Requests being worked on.")
        self.api_held_bytes = self._gauge("notifyd_api_held_bytes", "Bytes of the bodies of these.")
