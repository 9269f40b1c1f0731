"""Follows the contacts topic: every process has all of it, and looks contacts up in its own copy."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import aiokafka.errors as kafka
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from notifyd.errors import ConfigError, TransientError
from notifyd.log import get_logger
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.stream.clients import as_notifyd_error, backoff_s, kafka_options
from notifyd.stream.contact_book import Change, ContactBook, Known, Mark
from notifyd.stream.contact_marks import read_gone, user_of_mark
from notifyd.stream.reading import partitions_of
from notifyd.stream.topics import Topics

_log = get_logger(component="contacts")

_POLL_MS: Final = 500
#: Records that are taken over together: some milliseconds of the loop.
_BATCH: Final = 1000
#: Between two looks at how many partitions there are, and two notes of being up to date.
_LOOK_S: Final = 30.0


class Contacts:
    """The contacts of all users, as of some moments ago.

    The file is of one life of the topic (`incarnation`): another one begins from nothing. `fail` is told what
    a person has to mend; all else is tried again for as long as it takes.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, incarnation: str, fail: Callable[[Exception], None]
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._topic = Topics.of(settings).contacts
        self._fail = fail
        servers = settings.kafka_bootstrap_servers
        life = hashlib.blake2s(f"{servers}\0{self._topic}\0{incarnation}".encode(), digest_size=8).hexdigest()
        self._name = f"contacts-{life}"
        self._book: ContactBook | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_current = asyncio.Event()
        self._looked_at = 0.0

    async def start(self) -> None:
        """Open the copy and follow the topic; `wait` for it to be complete."""
        folder = self._settings.contacts_dir or Path(tempfile.gettempdir()) / "notifyd-contacts"
        try:
            self._book = ContactBook(folder, self._name)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"the copy of the contacts cannot be kept in {folder}: {error}",
                reason="contacts_dir",
                remedy="set NOTIFYD_CONTACTS_DIR to a folder that this process may write to",
            ) from error
        self._task = asyncio.create_task(self._run(), name="contacts")

    async def wait(self) -> None:
        """Return once the copy has all that the topic had when it was opened."""
        await self._is_current.wait()

    @property
    def is_current(self) -> bool:
        """Whether it has been complete since the start."""
        return self._is_current.is_set()

    async def stop(self) -> None:
        """Let go of the topic and the file."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._book is not None:
            self._book.close()
            self._book = None

    def get(self, user: str) -> Known | None:
        """Return the contact of a user as the backend wrote it, None where none is known.

        Raises `TransientError` (`contacts_unavailable`) where the copy cannot be read; the process ends then.
        """
        if self._book is None:
            raise TransientError("the copy of the contacts is gone", reason="contacts_unavailable")
        try:
            return self._book.get(user)
        except sqlite3.Error as error:
            self._give_up(error)
            raise TransientError(
                f"the copy of the contacts cannot be read: {error}", reason="contacts_unavailable"
            ) from error

    # Within

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._follow()
            except TransientError as error:
                if not failures:
                    _log.warning("contacts_wait", reason=error.reason, error=error.message)
                await asyncio.sleep(backoff_s(failures))
                failures += 1
            except asyncio.CancelledError:
                raise
            except (sqlite3.Error, OSError) as error:
                self._give_up(error)
                return
            except Exception as error:  # the outer edge of this task
                self._fail(error)
                return

    def _give_up(self, error: Exception) -> None:
        """End the process: the next start makes a new copy, and a broken file mends in no other way."""
        book, self._book = self._book, None
        if book is not None:
            book.destroy()
        self._fail(
            ConfigError(
                f"the copy of the contacts does not work: {error}",
                reason="contacts_dir",
                remedy="make room where NOTIFYD_CONTACTS_DIR is; the next start makes the copy anew",
            )
        )

    async def _follow(self) -> None:
        consumer = AIOKafkaConsumer(
            client_id="notifyd-contacts",
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="none",
            **kafka_options(self._settings),
        )
        try:
            await consumer.start()
            await self._read(consumer)
        except (kafka.KafkaError, TimeoutError) as error:
            raise as_notifyd_error(error, "reading contacts") from error
        finally:
            await consumer.stop()

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        book = self._book
        assert book is not None
        ends = await self._assign(consumer, book)
        began, before = time.monotonic(), book.count()
        while True:
            batches = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_BATCH)
            if batches:
                places = {tp.partition: await consumer.position(tp) for tp in batches}
                changes, marks = _read(batches)
                book.apply(changes, places, marks)
                self._metrics.contact_records.inc(len(changes))
            if not self._is_current.is_set() and await _has_passed(consumer, ends):
                book.note_current()
                users = book.count()
                seconds = round(time.monotonic() - began, 2)
                _log.info("contacts_are_current", users=users, before=before, seconds=seconds)
                self._metrics.contacts.set(users)
                self._is_current.set()
                self._looked_at = time.monotonic()
            elif self._is_current.is_set() and time.monotonic() - self._looked_at >= _LOOK_S:
                self._looked_at = time.monotonic()
                book.note_current()
                self._metrics.contacts.set(book.count())
                if len(await partitions_of(consumer, self._topic)) != len(consumer.assignment()):
                    await self._assign(consumer, book)
            await asyncio.sleep(0)

    async def _assign(self, consumer: AIOKafkaConsumer, book: ContactBook) -> dict[TopicPartition, int]:
        """Go on from where the copy is in every partition; return where they end now."""
        tps = [TopicPartition(self._topic, number) for number in await partitions_of(consumer, self._topic)]
        consumer.assign(tps)
        starts, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        places = book.places()
        if any(not starts[tp] <= places.get(tp.partition, starts[tp]) <= ends[tp] for tp in tps):
            _log.warning("contacts_begin_anew", reason="the topic does not have where the copy had come to")
            book.forget()
            places = {}
        for tp in tps:
            consumer.seek(tp, places.get(tp.partition, starts[tp]))
        return dict(ends)


async def _has_passed(consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]) -> bool:
    return all([await consumer.position(tp) >= end for tp, end in ends.items()])


def _read(batches: Mapping[TopicPartition, Iterable[Any]]) -> tuple[list[Change], list[Mark]]:
    changes: list[Change] = []
    marks: list[Mark] = []
    for tp, records in batches.items():
        for record in records:
            key = record.key or b""
            marked = user_of_mark(key)
            try:
                user = (key if marked is None else marked).decode()
            except UnicodeDecodeError:
                user = ""
            if not user:  # a record without a user is of nobody
                continue
            if marked is None:
                changes.append(Change(user, record.value or None, tp.partition, record.offset))
            elif (gone := read_gone(record.value)) is not None:
                marks.append(Mark(user, tp.partition, gone.offset, gone.addresses))
    return changes, marks
