"""Private names of Faust and aiokafka that the engine touches: an upgrade that moves one fails here."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import aiokafka
import faust
import pytest
from aiokafka.consumer.fetcher import Fetcher as AioFetcher
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.protocol.group import LeaveGroupRequest
from faust.app.base import App, BootStrategy
from faust.serializers.schemas import Schema
from faust.transport.conductor import Conductor
from faust.transport.consumer import Consumer, Fetcher
from faust.transport.drivers.aiokafka import Transport
from mode import Service

from notifyd.metrics import Metrics
from notifyd.settings import load_settings
from notifyd.stream.consumer import EngineConsumer
from notifyd.stream.engine import BatchSchema, EngineApp, EngineBoot, EngineOptions


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def app() -> EngineApp:
    options = EngineOptions(
        role="test", group="g", settings=load_settings({}), metrics=Metrics(), fail=lambda error: None
    )
    return EngineApp(options)


def test_the_versions_whose_private_names_are_used_are_pinned() -> None:
    assert version("faust-streaming") == "0.15.3"
    assert version("aiokafka") == "0.14.0"


def test_faust_makes_its_transport_by_a_method_of_the_app() -> None:
    assert parameters(App._new_transport) == ["self"]
    assert "self._new_transport()" in inspect.getsource(App.transport.fget)  # type: ignore[attr-defined]


def test_the_transport_makes_the_consumer_that_its_class_names() -> None:
    assert "self.Consumer(" in inspect.getsource(Transport.create_consumer)


async def test_an_engine_app_uses_our_consumer() -> None:
    made = app()
    assert isinstance(made.consumer, EngineConsumer)


def test_the_fetcher_reads_by_one_call_that_the_engine_replaces() -> None:
    assert "consumer._drain_messages(self)" in inspect.getsource(Fetcher)
    assert parameters(Consumer._drain_messages) == ["self", "fetcher"]


def test_faust_starts_no_other_service_than_those_named() -> None:
    assert parameters(BootStrategy.server) == ["self"]
    source = inspect.getsource(EngineBoot.server)
    assert "producer" not in source
    assert "tables" not in source


def test_faust_still_writes_a_data_directory_unless_it_is_kept_from_it() -> None:
    assert "mkdir" in inspect.getsource(App._create_directories)
    assert "_create_directories" in vars(EngineApp)


async def test_the_conductor_waits_for_tables_that_the_engine_says_are_there() -> None:
    assert "wait_until_tables_registered" in inspect.getsource(Conductor)
    made = app()
    assert made.tables._tables_registered.is_set()  # type: ignore[attr-defined]


def test_an_event_of_another_generation_would_be_skipped_so_ours_carry_the_app_s() -> None:
    source = inspect.getsource(faust.Stream._py_aiter)
    assert "message.generation_id != self.app.consumer_generation_id" in source
    assert "generation_id=self.app.consumer_generation_id" in inspect.getsource(EngineConsumer._hand_over)


async def test_a_batch_passes_the_schema_as_it_is() -> None:
    assert "compile" in vars(Schema)
    made = app()
    batch = object()
    decode = BatchSchema().compile(made)
    event = await decode(SimpleNamespace(value=batch, headers=None))
    assert event.value is batch


def test_aiokafka_reads_one_partition_and_never_waits_when_told_so() -> None:
    assert parameters(AioFetcher.fetched_records) == ["self", "partitions", "timeout", "max_records"]
    source = inspect.getsource(AioFetcher.fetched_records)
    # An empty set means "all": the engine always names one partition.
    assert "if partitions and tp not in partitions" in source
    assert "if drained or not timeout" in source


def test_what_a_flow_does_not_take_stays_in_aiokafka_s_buffer() -> None:
    # `getall` stops at `max_records` and keeps the rest; a paused partition would drop it.
    assert parameters(FetchResult.getall) == ["self", "max_records"]
    assert "tp_state.paused" in inspect.getsource(FetchResult.check_assignment)


async def test_a_poll_is_what_happens_within_the_fetch_context() -> None:
    state = SubscriptionState()
    with state.fetch_context():
        assert state.fetcher_idle_time == 0
    with pytest.raises(RuntimeError), state.fetch_context():
        raise RuntimeError
    # The context loses count on an exception, so none may pass through it.
    assert state._fetch_count == 1


def test_names_of_aiokafka_that_the_poller_reads() -> None:
    assert isinstance(inspect.getattr_static(SubscriptionState, "reassignment_in_progress"), property)
    for owner, name in [
        (SubscriptionState, "is_assigned"),
        (AioFetcher, "_create_fetch_waiter"),
        (GroupCoordinator, "check_errors"),
    ]:
        assert callable(getattr(owner, name))
    source = inspect.getsource(aiokafka.AIOKafkaConsumer)
    for name in ("self._fetcher", "self._subscription", "self._coordinator"):
        assert name in source


def test_heartbeats_go_on_while_partitions_are_being_given_back() -> None:
    source = inspect.getsource(GroupCoordinator.ensure_active_group)
    assert source.index("_on_join_prepare") < source.index("_stop_heartbeat_task")


def test_reading_ends_before_the_listener_hears_that_partitions_are_given_back() -> None:
    source = inspect.getsource(GroupCoordinator._on_join_prepare)
    assert source.index("begin_reassignment") < source.index("on_partitions_revoked")
    # Commits are judged by the assignment, which is still there: the listener may commit.
    assert "reassignment_in_progress" not in inspect.getsource(aiokafka.AIOKafkaConsumer.commit)


def test_the_tasks_of_aiokafka_whose_end_nobody_else_would_notice() -> None:
    assert "self._coordination_task = create_task(" in inspect.getsource(GroupCoordinator.__init__)
    assert "self._fetch_task = create_task(" in inspect.getsource(AioFetcher.__init__)
    assert "self._closed = True" in inspect.getsource(aiokafka.AIOKafkaConsumer.stop)


def test_a_crash_of_a_service_reaches_the_app_and_nobody_else() -> None:
    source = inspect.getsource(Service.crash)
    assert "child._crash(reason)" in source
    assert parameters(Service._crash) == ["self", "reason"]


def test_aiokafka_logs_and_forgets_an_error_of_a_rebalance_listener() -> None:
    assert "except Exception:" in inspect.getsource(GroupCoordinator._on_join_complete)


def test_a_commit_is_signed_with_the_generation_of_the_moment_and_repeated_without_end() -> None:
    source = inspect.getsource(GroupCoordinator.commit_offsets)
    assert "while True" in source
    assert "self.generation" in inspect.getsource(GroupCoordinator._do_commit_offsets)


def test_who_was_thrown_out_has_no_member_id_when_its_partitions_are_taken_back() -> None:
    source = inspect.getsource(GroupCoordinator.reset_generation)
    assert "self.member_id = JoinGroupRequest.UNKNOWN_MEMBER_ID" in source


def test_leaving_waits_for_the_join_that_is_under_way() -> None:
    assert "await self._coordination_task" in inspect.getsource(GroupCoordinator.close)
    assert parameters(LeaveGroupRequest.__init__)[1:3] == ["group", "member_id"]
