"""The private parts of aiokafka that the producer reaches into: an upgrade that moves one fails here."""

from __future__ import annotations

import asyncio
import inspect

import aiokafka
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.producer.sender import SendProduceReqHandler

from notifyd.stream.inner_producer import close_inner, is_broken


def test_the_version_is_the_one_these_seams_were_read_in() -> None:
    assert aiokafka.__version__ == "0.14.0"


async def test_a_producer_has_the_parts_that_are_closed_by_hand() -> None:
    producer = AIOKafkaProducer(bootstrap_servers="127.0.0.1:1")
    try:
        assert producer._closed is False
        assert producer._sender.sender_task is None
        assert producer._message_accumulator._closed is False
        assert producer.client._md_update_fut is None
    finally:
        await close_inner(producer)
    assert producer._closed is True


async def test_a_closed_producer_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    producer = AIOKafkaProducer(bootstrap_servers="127.0.0.1:1")
    await producer._sender.start()
    await close_inner(producer)
    assert asyncio.all_tasks() == before


async def test_a_producer_whose_sender_died_is_broken_for_every_error() -> None:
    producer = AIOKafkaProducer(bootstrap_servers="127.0.0.1:1")
    try:
        assert not is_broken(producer, kafka.KafkaError())
        assert is_broken(producer, kafka.OutOfOrderSequenceNumber())
        producer._sender._sender_task = asyncio.create_task(asyncio.sleep(0))
        await producer._sender._sender_task
        assert is_broken(producer, kafka.KafkaError())
    finally:
        await close_inner(producer)


def test_a_future_that_was_failed_by_us_is_left_alone_by_a_late_answer() -> None:
    assert "if future.done():" in inspect.getsource(MessageBatch.done)
    assert "if future.done():" in inspect.getsource(MessageBatch.failure)


def test_an_idempotent_producer_never_gives_up_what_it_started() -> None:
    # Why "not confirmed" means "may still arrive", and why a held send waits and does not write again.
    source = inspect.getsource(SendProduceReqHandler._can_retry)
    assert "_txn_manager is None and batch.expired()" in source


def test_all_metadata_is_asked_for_without_naming_a_topic() -> None:
    # By name the request would carry allow_auto_topic_creation.
    assert "self._metadata_update(cluster_md, None)" in inspect.getsource(AIOKafkaClient.fetch_all_metadata)


def test_connections_can_be_probed_by_hand() -> None:
    assert collect_hosts(["a:1", "b"], randomize=False) == [("a", 1, 0), ("b", 9092, 0)]
    assert {"request_timeout_ms", "ssl_context", "sasl_mechanism"} <= set(
        inspect.signature(create_conn).parameters
    )
