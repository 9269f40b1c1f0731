"""Writes: what is due leaves for many sockets in one pass, straight to the kernel.

At 10,000 connections the write itself costs 4 us, most of it the kernel's. The code around it runs
on caches that the kernel has just emptied, so it is kept apart: what is due is gathered first, then
written by a loop that is in C (a loop in Python: +0.3 us, `transport.write` in it: +0.8 us), then told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from notifyd.push.peer import Frame, join, tell


class Writer(Protocol):
    """A peer whose transport takes what the kernel did not."""

    user: str

    def write(self, wire: bytes) -> None:
        """Write by way of the transport."""


_Due = tuple[int, bytes, Writer, Frame | list[Frame]]


class Writes:
    """What is due to sockets with nothing unsent. `add` and `write_all` belong into one turn of the loop:
    after it the number of a socket may be another's.
    """

    def __init__(self, write: Callable[[int, bytes], int] = os.write) -> None:
        self._write: Final = write
        self._due: list[_Due] = []
        self._joined: list[Frame] = []
        self._joined_wire = b""

    def add(self, fd: int, wire: bytes, peer: Writer, line: Frame | list[Frame]) -> None:
        """Have `wire`, made of `line`, written to the socket `fd` of a peer."""
        self._due.append((fd, wire, peer, line))

    def join(self, line: list[Frame]) -> bytes:
        """Return several frames as one; those who get the same share it."""
        if line != self._joined:
            self._joined, self._joined_wire = line, join(line)
        return self._joined_wire

    def write_all(self) -> None:
        """Write what was added, and tell who wants to know."""
        if not self._due:
            return
        fds, wires, peers, lines = zip(*self._due, strict=True)
        self._due.clear()
        done = self._write_to(fds, wires)
        if done != list(map(len, wires)):
            for peer, wire, count in zip(peers, wires, done, strict=True):
                if count < len(wire):
                    # What is wrong with the socket, the transport finds out too.
                    peer.write(wire[count:])
        self._tell(peers, lines)
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

    def _tell(self, peers: Sequence[Writer], lines: Sequence[Frame | list[Frame]]) -> None:
        users: list[str] = []
        before: Frame | list[Frame] = []
        for peer, line in zip(peers, lines, strict=True):
            if line is not before and line != before:
                self._tell_of(before, users)
                before, users = line, []
            users.append(peer.user)
        self._tell_of(before, users)

    def _tell_of(self, line: Frame | list[Frame], users: list[str]) -> None:
        if users:
            tell([line] if isinstance(line, Frame) else line, users)
