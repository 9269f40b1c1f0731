#!/bin/sh
# Fetch Apache Kafka and what it needs to run (Maven artifacts, see pom.xml beside this file)
# into .kafka/libs. Does nothing when it is there; a broken fetch leaves what was there before.
set -eu

cd "$(dirname "$0")/../.."
pom=tools/kafka/pom.xml
libs=.kafka/libs
version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$pom")
wanted=$(cksum <"$pom")

if [ -f "$libs/.complete" ] && [ "$(cat "$libs/.complete")" = "$wanted" ]; then
    echo "kafka: Apache Kafka $version is in $libs already"
    exit 0
fi
for tool in java mvn; do
    command -v "$tool" >/dev/null 2>&1 || {
        echo "kafka: \`$tool\` is not on the path; Apache Kafka needs Java 17 or later to run, and Maven to be fetched" >&2
        exit 1
    }
done

echo "kafka: fetching Apache Kafka $version into $libs with Maven (about 55 MB) ..."
mkdir -p .kafka
# those of a fetch that was killed
find .kafka -maxdepth 1 \( -name 'fetch-*' -o -name 'old-*' \) -mmin +60 -exec rm -rf {} +
fresh=$(mktemp -d .kafka/fetch-XXXXXX)
trap 'rm -rf "$fresh"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

attempt=1
until mvn -B -q -Dstyle.color=never -f "$pom" dependency:copy-dependencies \
    -DincludeScope=runtime "-DoutputDirectory=$PWD/$fresh" </dev/null; do
    [ "$attempt" -lt 3 ] || {
        echo "kafka: Maven could not fetch it in $attempt attempts; its message is above" >&2
        exit 1
    }
    attempt=$((attempt + 1))
    echo "kafka: trying again ($attempt of 3) ..."
    sleep 5
done
ls "$fresh"/kafka_*.jar >/dev/null
printf '%s\n' "$wanted" >"$fresh/.complete"
chmod 755 "$fresh"
old=.kafka/old-$$
[ ! -e "$libs" ] || mv "$libs" "$old"
mv "$fresh" "$libs"
rm -rf "$old"
echo "kafka: done, $(ls "$libs" | wc -l) jars in $libs"
