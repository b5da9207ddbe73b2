#!/usr/bin/env bash
# Compiles librdkafka's own performance tool against the very librdkafka that our Kafka client uses, so that the two
# differ in nothing but who calls it. Its source comes with the npm package of the Node client.
# Usage: bench/librdkafka.sh FOLDER LIBRARY   (LIBRARY: .../confluent_kafka.libs/librdkafka-*.so.1)
set -euo pipefail

folder=$1 library=$2
package=node-rdkafka@3.6.1
tool=$folder/rdkafka_performance

if [ -x "$tool" ]; then exit 0; fi
for each in npm gcc make tar; do
    command -v "$each" >/dev/null 2>&1 || { printf '%s is missing, with which rdkafka_performance is made\n' "$each" >&2; exit 1; }
done
mkdir -p "$folder"
cd "$folder"
tar -xzf "$(npm pack --silent "$package")"
cd package/deps/librdkafka
./configure --disable-ssl --disable-gssapi --disable-curl >/dev/null # for config.h alone
gcc -O2 -w -I src examples/rdkafka_performance.c "$library" -Wl,-rpath,"$(dirname "$library")" -o "$tool"
