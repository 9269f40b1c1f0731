"""Writing to many sockets in one pass: what the kernel does not take goes by way of the transport."""

from __future__ import annotations

from collections.abc import Sequence

from notifyd.push.peer import Frame
from notifyd.push.websocket import encode_frame
from notifyd.push.writes import Writes


class Peer:
    def __init__(self, user: str) -> None:
        self.user = user
        self.written: list[bytes] = []

    def write(self, wire: bytes) -> None:
        self.written.append(wire)


class Told:
    def __init__(self) -> None:
        self.users: list[str] = []

    def on_written(self, users: Sequence[str]) -> None:
        self.users.extend(users)


class Kernel:
    """Takes `room` bytes per socket; a socket that is `gone` raises."""

    def __init__(self, room: dict[int, int], gone: Sequence[int] = ()) -> None:
        self.room = room
        self.gone = gone
        self.got: list[tuple[int, bytes]] = []

    def write(self, fd: int, data: bytes) -> int:
        if fd in self.gone:
            raise BrokenPipeError
        room = self.room.get(fd, 1 << 20)
        if not room:
            raise BlockingIOError
        self.got.append((fd, data[:room]))
        return min(room, len(data))


def test_what_the_kernel_does_not_take_goes_by_way_of_the_transport_and_stops_nobody() -> None:
    kernel = Kernel({4: 0, 6: 3}, gone=[5, 8])
    writes, note = Writes(kernel.write), Told()
    frame = Frame(b'{"op":"msg"}', note)
    peers = {fd: Peer(f"user-{fd}") for fd in range(3, 9)}
    for fd, peer in peers.items():
        writes.add((fd, frame.wire, peer, frame))
    writes.write_all()
    assert kernel.got == [(3, frame.wire), (6, frame.wire[:3]), (7, frame.wire)]
    assert {fd: peer.written for fd, peer in peers.items()} == {
        3: [], 4: [frame.wire], 5: [frame.wire], 6: [frame.wire[3:]], 7: [], 8: [frame.wire],
    }  # fmt: skip
    assert note.users == [f"user-{fd}" for fd in range(3, 9)]
    writes.write_all()
    assert len(kernel.got) == 3


def test_each_note_learns_of_its_own_users() -> None:
    writes = Writes(Kernel({}).write)
    one, other = Told(), Told()
    first, second, silent = Frame(b"1", one), Frame(b"2", other), Frame(b"3")
    lines: list[Frame | list[Frame]] = [first, [first, second], [first, second], silent, second, first]
    for number, line in enumerate(lines):
        wire = line.wire if isinstance(line, Frame) else writes.join(line)
        writes.add((number, wire, Peer(str(number)), line))
    writes.write_all()
    assert one.users == ["0", "1", "2", "5"]
    assert other.users == ["1", "2", "4"]


def test_those_who_get_the_same_frames_share_one_joined_frame() -> None:
    writes = Writes(Kernel({}).write)
    first, second, third = Frame(b"1"), Frame(b"2"), Frame(b"3")
    joined = writes.join([first, second])
    assert joined == encode_frame(b"[1,2]")
    assert writes.join([first, second]) is joined
    assert writes.join([first, third]) == encode_frame(b"[1,3]")
