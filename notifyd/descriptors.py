"""File descriptors: how many this process may have, and how near their end is.

A new socket gets the lowest number that is free, so its own number tells how many are taken, whoever
took them: nobody has to count.
"""

from __future__ import annotations

import contextlib
import resource
from typing import Final

#: A limit above this counts as this (`RLIM_INFINITY` is -1); memory ends long before.
_MOST: Final = 1 << 20
#: Kept free of clients: Kafka, PostgreSQL, the admin port, files; half of it where sockets come and go.
_RESERVED: Final = 128


def descriptor_limit(*, is_hard: bool = False) -> int:
    """Return how many descriptors this process may have now, or after `raise_descriptor_limit`."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1 if is_hard else 0]
    return min(limit, _MOST) if limit >= 0 else _MOST


def raise_descriptor_limit() -> None:
    """Take all that the system grants: many start a process with 1,024 and let it ask for more."""
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def places(*, is_hard: bool = False) -> int:
    """Return for how many lasting connections there is room, beside sockets that come and go."""
    free = descriptor_limit(is_hard=is_hard) - _RESERVED
    return max(1, free - free // 10)


def is_scarce(descriptor: int) -> bool:
    """Whether the number of a new descriptor says that few are left."""
    return descriptor >= descriptor_limit() - _RESERVED // 2


def share_to_free(count: int) -> int:
    """Return how many of `count` sockets to close when descriptors are scarce.

    The next sockets get the low numbers of those that are closed, so scarcity shows again only
    when these are taken: closing one for one would go on to the limit.
    """
    return max(1, count // 8)
