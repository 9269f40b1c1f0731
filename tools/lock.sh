#!/bin/sh
# Write what the image installs, each package with the hashes of its files, in the versions of constraints.txt:
# requirements.lock, and requirements-build.lock for what builds those that are no wheels.
# To be run, and committed, after a change of that file or of setup.cfg.
set -eu

cd "$(dirname "$0")/.."
tools/release.sh

lock() { # FILE INPUT [OPTIONS]
    {
        echo "# Written by \`make lock\` from setup.cfg and constraints.txt; do not edit."
        .release/bin/uv pip compile "$2" ${3:-} --constraints constraints.txt --generate-hashes --quiet \
            --python-version 3.11 --python-platform linux --no-header --no-annotate
    } >"$1.new"
    mv "$1.new" "$1"
    echo "lock: $1, $(grep -c '==' "$1") packages"
}
lock requirements.lock setup.cfg "--extra otel --extra apprise"
printf 'setuptools\n' >.release/build.in
lock requirements-build.lock .release/build.in
