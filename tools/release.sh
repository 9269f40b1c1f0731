#!/bin/sh
# Make .release, a virtual environment for what looks after releases and what no test needs.
set -eu

cd "$(dirname "$0")/.."
[ -x .release/bin/pip-audit ] && [ -x .release/bin/cyclonedx-py ] && [ -x .release/bin/uv ] && exit 0
python3 -m venv .release
.release/bin/pip install --quiet --disable-pip-version-check \
    uv==0.13.9 pip-audit==2.10.1 cyclonedx-bom==7.5.0
