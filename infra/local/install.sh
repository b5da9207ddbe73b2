#!/usr/bin/env bash
# Sets up everything a checkout needs on a bare Debian or Ubuntu with Python 3.11. Idempotent: each part has a stamp with
# the hash of its inputs, so that a second run takes seconds. An error sentence names whatever is missing.
# Usage: infra/local/install.sh  (from any folder; works on the checkout that contains it)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
needed_gb=9

say() { printf '%s\n' "$*" >&2; }
fail() { say "quotekeel set-up stopped: $*"; exit 1; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3 python; do
        if ! command -v "${candidate:-none-given}" >/dev/null 2>&1; then continue; fi
        if [ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = 3.11 ]; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 was not found (looked for python3.11, python3, python). Install it, on Debian 12 with 'apt-get install python3.11 python3.11-venv', or name one: PYTHON=/path/to/python3.11 make install."
}

apt_install() { # apt_install WHY PACKAGE...
    local why=$1
    shift
    if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
        fail "$why is missing. Install the package(s) '$*' (on Debian: apt-get install $*) and run this again."
    fi
    say "installing $* ($why)"
    { apt-get install -y -qq "$@" || { apt-get update -qq && apt-get install -y -qq "$@"; }; } >/dev/null 2>&1 ||
        fail "apt-get could not install '$*' ($why). Is the network up? Run 'apt-get update && apt-get install $*' to see why."
}

check_disk() {
    local free_gb
    free_gb=$(df -Pk "$root" | awk 'NR==2 {printf "%d", $4/1048576}')
    [ "$free_gb" -ge "$needed_gb" ] ||
        fail "the packages need about $needed_gb GB and $root has $free_gb GB free. Free some space, or install the CPU build of torch, which needs less (see README, 'Small installation')."
}

system_libraries() {
    # lightgbm needs the OpenMP runtime, which a bare image may lack
    ldconfig -p 2>/dev/null | grep -q 'libgomp\.so\.1' || apt_install "the OpenMP runtime" libgomp1
}

bootstrap_uv() {
    if [ -x .boot/bin/uv ]; then return; fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install "Python's venv module" python3.11-venv
    say "bootstrap: uv"
    rm -rf .boot
    "$python" -m venv .boot
    .boot/bin/python -m pip install -q 'uv>=0.9,<1' ||
        fail "pip could not fetch 'uv'. Is the package index reachable from here? Check the network or your pip settings (pip config list)."
}

install_packages() {
    local stamp
    stamp=$(cat pyproject.toml constraints.txt "$root/infra/local/install.sh" | sha256sum | cut -c1-64)
    if [ -x .venv/bin/keel ] && [ "$(cat .venv/installed 2>/dev/null)" = "$stamp" ]; then return; fi
    check_disk
    # uv does not read pip's find-links: pass on a local wheel folder, if there is one
    if [ -z "${UV_FIND_LINKS:-}" ] && [ -d "${PIP_FIND_LINKS:-}" ]; then export UV_FIND_LINKS=$PIP_FIND_LINKS; fi
    say "installing the Python packages (about 350; 6.5 GB with the CUDA build of torch)"
    [ -x .venv/bin/python ] || .boot/bin/uv venv -q --python "$python" .venv
    .boot/bin/uv pip install -q --python .venv/bin/python -c constraints.txt ${TORCH_BACKEND:+--torch-backend="$TORCH_BACKEND"} -e '.[dev]' ||
        fail "the packages could not be installed. The lines above name them; the usual cause is the network or the disk. Run this again to continue where it stopped."
    printf '%s' "$stamp" > .venv/installed
}

python=$(find_python)
system_libraries
bootstrap_uv
install_packages
bash infra/triton/install.sh
