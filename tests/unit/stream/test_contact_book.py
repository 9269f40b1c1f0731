"""The local copy of contacts: it and its place move together, and what may be stale is made anew."""

from __future__ import annotations

import os
import sqlite3
import stat
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyd.stream.contact_book import MAX_AGE_S, Change, ContactBook, Known, Mark


def value_of(book, user):
    known = book.get(user)
    return None if known is None else known.value


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "contacts"


def test_a_users_last_word_counts_and_a_tombstone_removes(folder):
    book = ContactBook(folder, "contacts-a")
    book.apply([Change("ann", b"1"), Change("bob", b"1"), Change("ann", b"2")], {0: 3})
    assert (value_of(book, "ann"), value_of(book, "bob"), value_of(book, "cy"), book.count()) == (
        b"2",
        b"1",
        None,
        2,
    )
    book.apply([Change("ann", None), Change("bob", None), Change("bob", b"3")], {0: 6, 1: 2})
    assert (value_of(book, "ann"), value_of(book, "bob")) == (None, b"3")
    assert book.places() == {0: 6, 1: 2}
    book.close()


def test_addresses_are_gone_from_the_contact_that_they_were_gone_from_alone(folder):
    book = ContactBook(folder, "contacts-a")
    book.apply([Change("ann", b"1", 2, 7)], {2: 9}, [Mark("ann", 2, 7, ("a1", "b2"))])
    assert book.get("ann") == Known(b"1", 2, 7, frozenset({"a1", "b2"}))
    # Written anew meanwhile, before we knew: the backend's word counts.
    book.apply([Change("ann", b"2", 2, 10)], {2: 12}, [Mark("ann", 2, 7, ("a1",))])
    assert book.get("ann") == Known(b"2", 2, 10)
    book.apply([], {2: 13}, [Mark("ann", 1, 10, ("a1",)), Mark("bob", 2, 10, ("a1",))])
    assert (book.get("ann"), book.get("bob")) == (Known(b"2", 2, 10), None)
    book.close()


def test_what_was_asked_for_is_forgotten_with_all_else(folder):
    book = ContactBook(folder, "contacts-a")
    book.apply([Change("ann", b"1")], {0: 1})
    assert value_of(book, "ann") == b"1"
    book.forget()
    assert book.get("ann") is None
    book.close()


@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from("abc"), st.none() | st.binary(min_size=1, max_size=3)), max_size=6
        ),
        max_size=6,
    )
)
def test_it_holds_what_a_dictionary_would(tmp_path_factory, batches):
    book, expected = ContactBook(tmp_path_factory.mktemp("book"), "contacts-a"), {}
    for batch in batches:
        book.apply([Change(user, value) for user, value in batch], {})
        expected.update(batch)
        found = {user: value_of(book, user) for user in "abc"}
        assert found == {user: expected.get(user) for user in "abc"}
    book.close()


def test_the_next_process_goes_on_from_where_this_one_was(folder):
    book = ContactBook(folder, "contacts-a")
    book.apply([Change("ann", b"1")], {0: 7})
    book.note_current()
    book.close()
    again = ContactBook(folder, "contacts-a")
    assert (value_of(again, "ann"), again.places()) == (b"1", {0: 7})
    again.close()
    other = ContactBook(folder, "contacts-b")
    assert (value_of(other, "ann"), other.places()) == (None, {})
    other.close()


@pytest.mark.parametrize("away_s", [MAX_AGE_S + 1, -1])
def test_a_copy_that_may_lack_deletions_is_made_anew(folder, away_s):
    now = time.time()
    book = ContactBook(folder, "contacts-a", clock=lambda: now)
    book.apply([Change("ann", b"1")], {0: 7})
    book.note_current()
    book.close()
    later = ContactBook(folder, "contacts-a", clock=lambda: now + away_s)
    assert (later.count(), later.places()) == (0, {})
    later.close()


def test_so_is_one_that_never_was_complete(folder):
    book = ContactBook(folder, "contacts-a")
    book.apply([Change("ann", b"1")], {0: 7})
    book.close()
    again = ContactBook(folder, "contacts-a")
    assert (again.count(), again.places()) == (0, {})
    again.close()


@pytest.mark.parametrize("damage", [b"no database at all, but long enough to be looked into", b"\0" * 5000])
def test_so_is_one_that_is_damaged(folder, damage):
    book = ContactBook(folder, "contacts-a")
    book.close()
    (folder / "contacts-a.sqlite").write_bytes(damage)
    again = ContactBook(folder, "contacts-a")
    again.apply([Change("ann", b"1")], {0: 1})
    assert value_of(again, "ann") == b"1"
    again.close()


def test_so_is_one_of_another_version(folder):
    book = ContactBook(folder, "contacts-a")
    book.close()
    with sqlite3.connect(folder / "contacts-a.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    ContactBook(folder, "contacts-a").close()


def test_two_processes_have_two_files(folder):
    one, two = ContactBook(folder, "contacts-a"), ContactBook(folder, "contacts-a")
    one.apply([Change("ann", b"1")], {})
    assert value_of(two, "ann") is None
    one.close()
    two.close()
    assert len(list(folder.glob("*.sqlite"))) == 2


def test_nobody_else_may_read_it(folder):
    book = ContactBook(folder, "contacts-a")
    book.apply([Change("ann", b"1")], {})
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    book.close()


def test_copies_of_former_lives_go_away_but_for_those_in_use(folder):
    for name in ("contacts-a", "contacts-b"):
        ContactBook(folder, name).close()
    used = ContactBook(folder, "contacts-c")
    old = time.time() - MAX_AGE_S - 60
    for name in ("contacts-a", "contacts-c"):
        os.utime(folder / f"{name}.sqlite", (old, old))
    ContactBook(folder, "contacts-d").close()
    assert sorted(path.stem for path in folder.glob("*.sqlite")) == ["contacts-b", "contacts-c", "contacts-d"]
    used.close()


def test_a_transaction_that_fails_leaves_all_as_it_was(folder):
    book = ContactBook(folder, "contacts-a")
    book.apply([Change("ann", b"1")], {0: 1})
    with pytest.raises(sqlite3.Error):
        book.apply([Change("ann", b"2"), Change("bob", object())], {0: 3})
    assert (value_of(book, "ann"), book.places()) == (b"1", {0: 1})
    book.destroy()
    assert not list(folder.glob("*.sqlite*"))
