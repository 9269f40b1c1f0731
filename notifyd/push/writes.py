"""Writes: what is due leaves for many sockets in one pass, straight to the kernel.

At 10,000 connections the write itself costs 4 us, most of it the kernel's. The code around it runs
on caches that the kernel has just emptied, so it is kept apart: what is due is gathered and told first,
then written by a loop that is in C (a loop in Python: +0.3 us, `transport.write` in it: +0.8 us).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final, Protocol

from notifyd.push.peer import Frame, join, tell


class Writer(Protocol):
    """A peer whose transport takes what the kernel did not."""

    user: str

    def write(self, wire: bytes) -> None:
        """Write by way of the transport."""


_Due = tuple[int, bytes, Writer, Frame | list[Frame]]
_line_of = itemgetter(3)


class Writes:
    """What is due to sockets with nothing unsent. `add` and `write_all` belong into one turn of the loop:
    after it the number of a socket may be another's.
    """

    def __init__(self, write: Callable[[int, bytes], int] = os.write) -> None:
        self._write: Final = write
        self._due: list[_Due] = []
        #: Takes `(fd, wire, peer, line)`: to have `wire`, made of `line`, written to the socket `fd` of a
        #: peer. Called per delivery, so without a frame of Python in between.
        self.add: Final = self._due.append
        self._joined: list[Frame] = []
        self._joined_wire = b""

    def join(self, line: list[Frame]) -> bytes:
        """Return several frames as one; those who get the same share it."""
        if line != self._joined:
            self._joined, self._joined_wire = line, join(line)
        return self._joined_wire

    def write_all(self) -> None:
        """Write what was added, and tell who wants to know.

        Told before, while the peers are at hand: what the kernel does not take, their transports do.
        """
        if not self._due:
            return
        due = self._due.copy()
        self._due.clear()
        for line, same in groupby(due, _line_of):
            tell([line] if isinstance(line, Frame) else line, [peer.user for _, _, peer, _ in same])
        fds, wires, peers, _ = zip(*due, strict=True)
        done = self._write_to(fds, wires)
        if done != list(map(len, wires)):
            for peer, wire, count in zip(peers, wires, done, strict=True):
                if count < len(wire):
                    # What is wrong with the socket, the transport finds out too.
                    peer.write(wire[count:])
        self._joined, self._joined_wire = [], b""

    def _write_to(self, fds: Sequence[int], wires: Sequence[bytes]) -> list[int]:
        done: list[int] = []
        while len(done) < len(fds):
            try:
                # What was written before an error stays in the list.
                done.extend(map(self._write, fds[len(done) :], wires[len(done) :]))
            except OSError:
                done.append(0)
        return done
