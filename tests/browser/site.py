"""What `notifyd dev` runs but its broker and database, as a process that can be killed by itself."""

from __future__ import annotations

import sys
from functools import partial

from notifyd.dev.site import add_dev_site
from notifyd.roles.process import run
from notifyd.settings import load_settings

if __name__ == "__main__":
    settings = load_settings()
    sys.exit(run(settings, ("ws", "api"), also_serve=partial(add_dev_site, settings=settings)))
