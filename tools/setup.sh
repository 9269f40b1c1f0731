#!/bin/sh
# Make .venv with notifyd and all that develops and tests it, in the versions of constraints.txt.
# Does nothing when it is there and current. PYTHON=... chooses the interpreter.
set -eu

cd "$(dirname "$0")/.."
venv=.venv
stamp=$venv/.notifyd-stamp

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

wanted() { # what the environment is made of, its place included: scripts in it name their interpreter
    { pwd -P && cat constraints.txt setup.cfg pyproject.toml tools/setup.sh; } | cksum
}
version_of() { "$1" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null; }
is_current() {
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(wanted)" ] && have=$(version_of "$venv/bin/python") &&
        { [ -z "${PYTHON:-}" ] || [ "$have" = "$(version_of "$PYTHON")" ]; }
}

is_current && exit 0

# `make dev` and `make test` in two terminals: one installs, the other waits for it.
if [ -z "${NOTIFYD_SETUP_LOCKED:-}" ] && command -v flock >/dev/null 2>&1; then
    mkdir -p "$venv"
    flock -n "$venv/.lock" true || say "another setup is at work here; waiting for it ..."
    NOTIFYD_SETUP_LOCKED=1 exec flock "$venv/.lock" sh tools/setup.sh
fi

fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
if [ -n "${PYTHON:-}" ]; then
    fits "$PYTHON" || fail "PYTHON=$PYTHON is no Python 3.11 or later"
    python=$PYTHON
elif fits "$venv/bin/python"; then
    python=$venv/bin/python
else
    python=
    for name in python3.13 python3.12 python3.11 python3; do
        if fits "$name"; then
            python=$name
            break
        fi
    done
    [ -n "$python" ] || fail "no Python 3.11 or later among python3.13, python3.12, python3.11 and python3;" \
        "install one, or name it: make PYTHON=/path/to/python3 setup"
fi

# An environment of another Python, of another place or broken in the middle is made anew.
if ! grep -qF "$(pwd -P)/$venv" "$venv/bin/activate" 2>/dev/null || [ "$(version_of "$venv/bin/python")" != "$(version_of "$python")" ] ||
    ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    [ "$python" != "$venv/bin/python" ] || python=$("$python" -c 'import sys; print(sys._base_executable)')
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python has no venv module; on Debian and Ubuntu: apt-get install python3-venv"
    say "making a virtual environment in $venv with $("$python" --version)"
    mkdir -p "$venv"
    find "$venv" -mindepth 1 -maxdepth 1 ! -name .lock -exec rm -rf {} +
    "$python" -m venv "$venv"
fi
rm -f "$stamp"

say "installing notifyd and $(grep -c '==' constraints.txt) pinned packages into $venv (about 150 MB, a minute or two) ..."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
# The variable reaches the isolated build of notifyd itself too, where the option does not.
export PIP_CONSTRAINT="$PWD/constraints.txt"
status=$(mktemp)
{ "$venv/bin/python" -m pip install --prefer-binary --progress-bar off -e '.[dev,test,check]' 2>&1 || echo failed >"$status"; } |
    grep -vE '^(Requirement already|  (Using cached|Obtaining dependency))' || true
if [ -s "$status" ]; then
    rm -f "$status"
    fail "pip could not install everything; its message is above"
fi
rm -f "$status"
wanted >"$stamp"
say "done"
