#!/usr/bin/env bash
# Fetches an Apache Kafka broker (KRaft, no ZooKeeper) as jars with Maven, and Java 17 and Maven by apt where missing.
# Usage: infra/kafka/install.sh [FOLDER]   (default: $KEEL_KAFKA_HOME, else .kafka in the checkout that contains it)
# A stamp holds the hash of the folder's inputs: a second run does nothing.
#
#   FOLDER/libs/                the broker, its storage tool, its performance tests and their dependencies
#   FOLDER/log4j2.properties    the broker's log settings
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${1:-${KEEL_KAFKA_HOME:-$root/.kafka}}
needed_mb=300 # the jars, and Maven's own store of them

say() { printf '%s\n' "$*" >&2; }
fail() { say "Kafka set-up stopped: $*"; exit 1; }

have_java() {
    local version
    command -v java >/dev/null 2>&1 || return 1
    version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
    [ "${version:-0}" -ge 17 ]
}

need() { # need WHY PACKAGE TEST...
    local why=$1 package=$2
    shift 2
    if "$@" >/dev/null 2>&1; then return; fi
    if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
        fail "$why is missing. Install the package '$package' (on Debian: apt-get install $package) and run this again, or name a running broker with KEEL_KAFKA_SERVERS=host:port."
    fi
    say "installing $package ($why)"
    { apt-get install -y -qq --no-install-recommends "$package" ||
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$package"; }; } >/dev/null 2>&1 ||
        fail "apt-get could not install $package ($why). Is the network up? Run 'apt-get update && apt-get install $package' to see why."
    "$@" >/dev/null 2>&1 || fail "$package was installed, but $why is still not on the PATH ($PATH)."
}

check_disk() {
    local free_mb
    mkdir -p "$target"
    free_mb=$(df -Pk "$target" | awk 'NR==2 {printf "%d", $4/1024}')
    [ "$free_mb" -ge "$needed_mb" ] || fail "the broker needs $needed_mb MB and $target has $free_mb MB free."
}

fetch() {
    rm -rf "$target/libs"
    mvn -q -B --strict-checksums -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$target/libs" >"$target/maven.log" 2>&1 ||
        fail "Maven could not fetch the broker's jars (54 MB). Is a Maven repository reachable from here (see 'mvn help:effective-settings')? Maven's message: $(grep -m 1 ERROR "$target/maven.log" || tail -n 1 "$target/maven.log")"
    rm -f "$target/maven.log"
    cp "$here/log4j2.properties" "$target/"
}

prove() {
    java -cp "$target/libs/*" kafka.tools.StorageTool random-uuid >/dev/null 2>&1 ||
        fail "the jars in $target/libs do not run: 'java -cp \"$target/libs/*\" kafka.tools.StorageTool random-uuid' shows why. Remove $target and run this again."
}

stamp=$(cat "${BASH_SOURCE[0]}" "$here/pom.xml" "$here/log4j2.properties" | sha256sum | cut -c1-64)
need "Java 17 or newer" openjdk-17-jre-headless have_java
need "setpriv, which ends a broker when its owner ends," util-linux command -v setpriv
if [ "$(cat "$target/installed" 2>/dev/null)" = "$stamp" ]; then exit 0; fi
check_disk
need "Maven" maven command -v mvn
say "fetching the Kafka broker into $target"
rm -f "$target/installed"
fetch
prove
printf '%s' "$stamp" > "$target/installed"
