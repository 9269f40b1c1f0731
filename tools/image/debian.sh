#!/bin/sh
# Build the image without an engine and without a registry, on a base made of Debian's packages, and run it as a
# cluster would: as 10001, without capabilities, with nothing writable but /tmp. As root, on Debian 12 or later
# with buildah and mmdebstrap. Says what failed, and ends with 1 then; with 77 where this machine cannot do it at all.
set -eu

cd "$(dirname "$0")/../.."
say() { echo "image: $*"; }
fail() {
    echo "image: $*" >&2
    exit 1
}
unable() {
    echo "image: it cannot be built and run on this machine: $*" >&2
    exit 77
}
for tool in buildah mmdebstrap; do
    command -v $tool >/dev/null || fail "$tool is not here: apt-get install buildah mmdebstrap"
done
version=$(sed -n 's/^VERSION.*"\(.*\)"/\1/p' notifyd/version.py)
mkdir -p .image

# A container without the right to mount or to change its root has no way to do any of this.
[ "$(id -u)" = 0 ] || unable "you are not root"
# Beside the repository, which may itself be on an overlay.
in_namespace() { unshare --mount --pid --fork sh -eu -c "$1" probe "$PWD/.image" 2>&1; }
said=$(in_namespace 'mount -t tmpfs tmpfs "$1"; mkdir "$1/a"; mount --bind "$1/a" "$1/a"
    mount -o remount,ro,bind "$1/a"; mkdir "$1/b"; mount -t proc proc "$1/b"; chroot / true') || unable "$said"
# What overlay does at once, vfs does by copying.
driver=vfs
! in_namespace 'cd "$1"; mkdir -p probe/l probe/u probe/w probe/m
    mount -t overlay -o lowerdir=probe/l,upperdir=probe/u,workdir=probe/w overlay probe/m' >/dev/null || driver=overlay
rm -rf .image/probe
builder() {
    command=$1
    shift
    buildah --root "$PWD/.image/root" --runroot "$PWD/.image/run" --storage-driver $driver "$command" "$@"
}

if ! builder inspect --type image notifyd-base >/dev/null 2>&1; then
    say "making a base of Debian's packages ..."
    mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,python-is-python3,ca-certificates \
        bookworm .image/base.tar
    base=$(builder from scratch)
    builder add --quiet "$base" .image/base.tar / >/dev/null
    builder commit --quiet --rm "$base" notifyd-base >/dev/null
    rm .image/base.tar
fi

say "building notifyd:$version ..."
# The way to the package index that pip has here.
set -- --build-arg "VERSION=$version" --build-arg "REVISION=$(git rev-parse HEAD)"
[ ! -f /etc/pip.conf ] || set -- "$@" --volume /etc/pip.conf:/etc/pip.conf:ro
[ -z "${PIP_CERT:-}" ] || set -- "$@" --volume "$PIP_CERT:/etc/ssl/certs/ca-certificates.crt:ro"
builder build --isolation chroot --pull=never --build-arg BASE=localhost/notifyd-base "$@" \
    --tag "notifyd:$version" . >.image/build.log 2>&1 || {
    tail -5 .image/build.log >&2
    fail "it cannot be built; .image/build.log says all"
}

container=$(builder from --pull=never "localhost/notifyd:$version")
trap 'builder rm "$container" >/dev/null' EXIT
root=$(builder mount "$container")
say "built, $(du -sm "$root/opt/notifyd" | cut -f1) MB beside its base"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
unshare --mount --pid --fork --kill-child sh -eu -s "$root" "$port" <<'RUN' || fail "it does not run as it should"
root=$1 port=$2
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
mount -o remount,ro,bind "$root"
as_pod="chroot $root /usr/bin/setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs \
    --bounding-set=-all --inh-caps=-all env -i PATH=/opt/notifyd/bin:/usr/bin:/bin NOTIFYD_LOG_FORMAT=json \
    NOTIFYD_KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:1 NOTIFYD_ADMIN_HOST=127.0.0.1 NOTIFYD_ADMIN_PORT=$port"
$as_pod notifyd --version
$as_pod sleep 0
if $as_pod touch /opt/notifyd/x 2>/dev/null; then
    echo "image: it can write where it is installed" >&2
    exit 1
fi
# Without a broker it is alive, not ready, and ends in order.
$as_pod notifyd --role=deliver >/dev/null 2>&1 &
pid=$!
ask() {
    $as_pod python3 -c "
import sys, time, urllib.error, urllib.request
for _ in range(100):
    try:
        print(urllib.request.urlopen('http://127.0.0.1:$port/$1').status); break
    except urllib.error.HTTPError as error:
        print(error.code); break
    except OSError:
        time.sleep(0.1)
"
}
[ "$(ask healthz)" = 200 ] || { echo "image: /healthz does not answer 200" >&2; exit 1; }
[ "$(ask readyz)" = 503 ] || { echo "image: /readyz does not answer 503 without a broker" >&2; exit 1; }
kill -TERM $pid
wait $pid || { echo "image: SIGTERM ended it with $?" >&2; exit 1; }
RUN
say "it runs: alive, not ready without a broker, ended in order by SIGTERM, on a read-only root"
