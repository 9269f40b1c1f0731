"""The local copy of the contacts topic: a SQLite file that can be rebuilt from nothing at any time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: A copy that has not been up to date for longer may lack deletions: the topic keeps a tombstone for a day
#: (`delete.retention.ms`), and what is compacted away is not told to anybody.
MAX_AGE_S: Final = 12 * 3600.0
_VERSION: Final = 2
_MAX_SIBLINGS: Final = 100
#: Users kept in memory: some megabytes.
_MAX_RECENT: Final = 4096
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS contact (
    user TEXT PRIMARY KEY, value BLOB NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL, gone TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS place (partition INTEGER PRIMARY KEY, offset INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value REAL NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Change:
    """What a record says of one user, and where it is; None: nothing is known any more."""

    user: str
    value: bytes | None
    partition: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """The digests of addresses that are gone, of the contact that is at this place."""

    user: str
    partition: int
    offset: int
    gone: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """The contact of a user as its record had it, where that is, and what of it is gone (digests)."""

    value: bytes
    partition: int
    offset: int
    gone: frozenset[str] = frozenset()


class ContactBook:
    """Contacts by user id, and how far the topic was read: both move in one transaction.

    One process has a file alone; a second one in the same folder takes another. `clock` is Unix time in
    seconds. Raises `sqlite3.Error` and `OSError`: a book that fails is to be `destroy`ed and made anew.
    """

    def __init__(self, folder: Path, name: str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        #: What was asked for lately, None where nothing is known: a look into the file costs 15 us.
        self._recent: dict[str, Known | None] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _clear(folder, clock())
        self._path, self._lock = _take(folder, name)
        try:
            self._db = self._open()
        except sqlite3.DatabaseError:  # cut off half way, or none of ours
            _remove(self._path)
            self._db = self._open()
        self._drop_if_old()

    def get(self, user: str) -> Known | None:
        """Return what is known of a user."""
        if user in self._recent:
            return self._recent[user]
        sql = "SELECT value, partition, offset, gone FROM contact WHERE user = ?"
        row = self._db.execute(sql, (user,)).fetchone()
        known = None
        if row is not None:
            value, partition, offset, gone = row
            known = Known(value, partition, offset, frozenset(gone.split()) if gone else frozenset())
        if len(self._recent) >= _MAX_RECENT:
            self._recent.clear()
        self._recent[user] = known
        return known

    def places(self) -> dict[int, int]:
        """Return the offset to go on from, by partition."""
        return dict(self._db.execute("SELECT partition, offset FROM place").fetchall())

    def count(self) -> int:
        """Count the users that are known."""
        [count] = self._db.execute("SELECT count(*) FROM contact").fetchone()
        return int(count)

    def apply(self, changes: Sequence[Change], places: Mapping[int, int], marks: Sequence[Mark] = ()) -> None:
        """Take over changes in their order, and with them the places that they lead to; then marks."""
        # A user's last word alone counts.
        last = {change.user: change for change in changes}
        kept = [
            (one.user, one.value, one.partition, one.offset) for one in last.values() if one.value is not None
        ]
        gone = [(one.user,) for one in last.values() if one.value is None]
        # A mark of a contact that was written anew meanwhile finds nothing.
        marked = [(" ".join(one.gone) or None, one.user, one.partition, one.offset) for one in marks]
        for user in [*(change.user for change in changes), *(mark.user for mark in marks)]:
            self._recent.pop(user, None)
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO contact VALUES (?, ?, ?, ?, NULL)", kept)
            self._db.executemany("DELETE FROM contact WHERE user = ?", gone)
            self._db.executemany(
                "UPDATE contact SET gone = ? WHERE user = ? AND partition = ? AND offset = ?", marked
            )
            self._db.executemany("INSERT OR REPLACE INTO place VALUES (?, ?)", list(places.items()))

    def note_current(self) -> None:
        """Note that it was up to date just now."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO state VALUES ('current_at', ?)", (self._clock(),))

    def forget(self) -> None:
        """Begin from nothing."""
        self._recent.clear()
        with self._transaction():
            for table in ("contact", "place", "state"):
                self._db.execute(f"DELETE FROM {table}")

    def close(self) -> None:
        """Let go of the file; the next process that takes it goes on from there."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        os.close(self._lock)

    def destroy(self) -> None:
        """Delete the file: what is in it cannot be trusted."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        _remove(self._path)
        os.close(self._lock)

    # Within

    def _open(self) -> sqlite3.Connection:
        # Transactions are ours: `isolation_level=None` has the module begin none.
        db = sqlite3.connect(self._path, isolation_level=None)
        self._path.chmod(0o600)  # addresses and secrets
        db.execute("PRAGMA journal_mode = WAL")
        # A machine that dies may take the last transactions along: they are read again.
        db.execute("PRAGMA synchronous = NORMAL")
        [version] = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            db.close()
            raise sqlite3.DatabaseError("another version's file")
        db.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION}")
        return db

    def _drop_if_old(self) -> None:
        row = self._db.execute("SELECT value FROM state WHERE name = 'current_at'").fetchone()
        if row is None or not 0 <= self._clock() - row[0] <= MAX_AGE_S:
            self.forget()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _clear(folder: Path, now_s: float) -> None:
    """Delete what nobody could use any more: copies of former lives of the topic."""
    for path in folder.glob("contacts-*.sqlite"):
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if now_s - path.stat().st_mtime > MAX_AGE_S:
                _remove(path)
        except OSError:
            pass  # somebody has it
        finally:
            os.close(lock)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _take(folder: Path, name: str) -> tuple[Path, int]:
    """Lock the first file of this name that nobody has; the kernel lets go of it with the process."""
    for number in range(_MAX_SIBLINGS):
        path = folder / (f"{name}.sqlite" if not number else f"{name}-{number}.sqlite")
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
        else:
            return path, lock
    raise OSError(f"{_MAX_SIBLINGS} processes have their contacts in {folder}")
