"""What the leading sweeper does now and then beside its work: clearing away what killed processes left."""

from __future__ import annotations

import asyncio
from typing import Final

from notifyd.errors import NotifydError
from notifyd.log import get_logger
from notifyd.roles.streaming import group_of
from notifyd.settings import Settings
from notifyd.stream.groups import clear_orphans

_log = get_logger(component="sweep")

_EVERY_S: Final = 3600.0
#: A group that is empty may be one that its process joins in a moment; not after so long.
_ORPHAN_S: Final = 3600.0


async def do_chores(settings: Settings) -> None:
    """Delete the groups of `ws` processes that are gone, once an hour, until cancelled."""
    while True:
        try:
            gone = await clear_orphans(settings, group_of(settings, "ws"), older_than_s=_ORPHAN_S)
            if gone:
                _log.info("groups_cleared", groups=len(gone), first=gone[0])
        except NotifydError as error:
            _log.warning("groups_not_cleared", reason=error.reason, error=error.message)
        except Exception:  # no reason to end the sweep: what is left over does no harm
            _log.exception("groups_not_cleared")
        await asyncio.sleep(_EVERY_S)
