#!/usr/bin/env bash
# Installs what the local stack runs besides the Python packages: database, Redis, Prometheus and Alertmanager by apt,
# the Kafka broker by Maven, and the Triton server. Installed servers are neither started nor enabled: `keel up` starts its
# own. Whatever cannot be installed is listed, all of it at once. --with-browser: the tests that open pages need a browser.
# Usage: infra/local/install_stack.sh [--with-browser]
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
policy=/usr/sbin/policy-rc.d
browser=${1:-}

say() { printf '%s\n' "$*" >&2; }

# prints each package whose command or file is missing
missing_packages() {
    local postgres
    postgres=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' || true)
    if [ -z "$postgres" ] && ! command -v initdb >/dev/null; then echo postgresql; fi
    if ! command -v redis-server >/dev/null; then echo redis-server; fi
    if ! command -v prometheus >/dev/null; then echo prometheus; fi
    if ! command -v prometheus-alertmanager >/dev/null && ! command -v alertmanager >/dev/null; then
        echo prometheus-alertmanager
    fi
    if [ "$browser" = --with-browser ] && ! command -v chromium >/dev/null; then echo chromium; fi
}

# Debian starts a server when it installs it, on its usual port and without a password: prevent that here
forbid_starts() {
    if [ -e "$policy" ]; then return; fi
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
}

disable_services() {
    if ! command -v systemctl >/dev/null; then return; fi
    local package
    for package in "$@"; do
        systemctl disable --quiet "$package" >/dev/null 2>&1 || true # a package without a service of its name
    done
}

install_packages() {
    local wanted
    mapfile -t wanted < <(missing_packages)
    if [ "${#wanted[@]}" = 0 ]; then return; fi
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then return; fi
    say "installing ${wanted[*]}"
    forbid_starts
    export DEBIAN_FRONTEND=noninteractive
    {
        apt-get install -y -qq --no-install-recommends "${wanted[@]}" ||
            { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${wanted[@]}"; }
    } >/dev/null 2>&1 || say "apt-get did not install everything; run 'apt-get update && apt-get install ${wanted[*]}' to see why"
    disable_services "${wanted[@]}"
}

failed=()
install_packages
while read -r package; do failed+=("the package $package (on Debian, as root: apt-get install $package)"); done < <(missing_packages)
bash "$here/../kafka/install.sh" || failed+=("the Kafka broker (see its messages above)")
bash "$here/../triton/install.sh" || failed+=("the Triton server (see its messages above)")
if [ "${#failed[@]}" != 0 ]; then
    say "the local stack lacks:"
    printf '  %s\n' "${failed[@]}" >&2
    say "Install what is missing and run this again, or start the rest: keel up --without NAME (see docs/stack.md)."
    exit 1
fi
