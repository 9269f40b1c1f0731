#!/bin/sh
# What is in the image (dist/sbom.json, CycloneDX), and which of it is known to be vulnerable.
# Exit code 1: something is, or some package could not be asked about.
set -eu

cd "$(dirname "$0")/.."
tools/release.sh
mkdir -p dist
.release/bin/cyclonedx-py requirements --output-format JSON --output-file dist/sbom.json requirements.lock
echo "audit: dist/sbom.json, $(grep -c '==' requirements.lock) packages"
.release/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock
