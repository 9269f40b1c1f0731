#!/bin/sh
# Build the image with docker, podman or buildah, whichever is there. BASE=... chooses what it is built on.
set -eu

cd "$(dirname "$0")/../.."
for engine in docker podman buildah; do
    command -v $engine >/dev/null && break
    engine=
done
[ -n "$engine" ] || {
    echo "image: none of docker, podman and buildah is here; make image-debian needs no registry" >&2
    exit 1
}
version=$(sed -n 's/^VERSION.*"\(.*\)"/\1/p' notifyd/version.py)
set -- --build-arg "VERSION=$version" --build-arg "REVISION=$(git rev-parse HEAD)" --tag "notifyd:$version"
[ -z "${BASE:-}" ] || set -- "$@" --build-arg "BASE=$BASE"
echo "image: building notifyd:$version with $engine"
exec $engine build "$@" .
