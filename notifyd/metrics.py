"""The catalogue of metrics: every metric of notifyd is declared here, once, with its meaning.

Labels never carry an id. Times are seconds, sizes bytes. One `Metrics` belongs to one process
and is passed to who needs it; nothing is registered at import.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from notifyd.version import VERSION

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """All metrics of a process, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._process()
        self._stream()
        self._roles()
        self._push()
        self._api()

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, *labels: str) -> Histogram:
        return Histogram(name, meaning, labels, buckets=_SECONDS, registry=self.registry)

    def _process(self) -> None:
        self.build_info = self._gauge("notifyd_build_info", "1, with the version as a label.", "version")
        self.build_info.labels(VERSION).set(1)
        self.ready = self._gauge("notifyd_ready", "1 while the role is ready.", "role")
        self.loop_lag = self._gauge(
            "notifyd_event_loop_lag_seconds", "How late the event loop ran its last one-second timer."
        )
        self.loop_tasks = self._gauge("notifyd_event_loop_tasks", "Tasks of the event loop not yet done.")
        self.tasks = self._gauge("notifyd_tasks", "Tasks of the event loop.")

    def _stream(self) -> None:
        self.records = self._counter("notifyd_records_total", "Records taken from a topic.", "role", "topic")
        self.in_flight = self._gauge(
            "notifyd_in_flight_records", "Records read and not yet acked.", "role", "topic", "partition"
        )
        self.lag = self._gauge(
            "notifyd_lag_records", "Records of a partition not yet committed.", "role", "topic", "partition"
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
        self.handler_failures = self._counter(
            "notifyd_handler_failures_total", "Failures of a handler that nobody foresaw.", "role", "topic"
        )
        self.drain = self._histogram("notifyd_drain_seconds", "Time that work in flight took to end.", "role")
        self.produced = self._counter(
            "notifyd_produced_records_total", "Records handed to the broker.", "topic", "result"
        )
        self.produce_seconds = self._histogram(
            "notifyd_produce_seconds", "From handing over a record to the broker's acknowledgement.", "topic"
        )
        self.dead = self._counter("notifyd_dead_letters_total", "Records put on the DLQ.", "reason")

    def _roles(self) -> None:
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
        self.deliveries = self._counter(
            "notifyd_deliveries_total", "Outcomes of delivery attempts.", "channel", "outcome", "reason"
        )
        self.delivery_seconds = self._histogram(
            "notifyd_delivery_seconds", "One attempt to deliver.", "channel"
        )
        self.webhook_calls = self._gauge("notifyd_webhook_calls", "Webhook calls under way.")
        self.pauses = self._counter(
            "notifyd_sender_pauses_total", "Senders paused because too many deliveries died.", "channel"
        )
        self.ingest_to_push = self._histogram(
            "notifyd_ingest_to_push_seconds", "From the record's Kafka timestamp to the write to a socket."
        )
        self.events_written = self._counter("notifyd_events_total", "Events by stage.", "role", "stage")
        self.events_dropped = self._counter(
            "notifyd_events_dropped_total", "Events that may be lost and were, by reason.", "reason"
        )

        self.sweep_leader = self._gauge(
            "notifyd_sweep_leader", "1 in the process that sweeps, 0 in a standby."
        )
        self.sweep_verdicts = self._counter(
            "notifyd_sweep_verdicts_total",
            "What became of deliveries past their deadline, by verdict and reason.",
            "verdict",
            "reason",
        )
        self.mark_lag = self._gauge(
            "notifyd_mark_lag_seconds",
            "Age of the moment up to which the sweep knows all events to be stored.",
        )

    def _push(self) -> None:
        self.connections = self._gauge("notifyd_ws_connections", "Open push connections.")
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
        self.api_requests = self._counter(
            "notifyd_api_requests_total", "Requests answered, by HTTP status.", "route", "status"
        )
        self.api_seconds = self._histogram(
            "notifyd_api_request_seconds", "From the head of a request to its answer.", "route"
        )
        self.api_in_flight = self._gauge("notifyd_api_in_flight_requests", "Requests being worked on.")
        self.api_held_bytes = self._gauge("notifyd_api_held_bytes", "Bytes of the bodies of these.")
