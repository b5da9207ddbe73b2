#!/usr/bin/env bash
# The one test command (`make test`): cheap checks first, the whole ring last; says how long each layer took and ends
# with pytest's own closing line. Needs no input. What takes hours is `make soak`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# where it is set, every process compiles every library again: most of the time of a test that starts processes
unset PYTHONDONTWRITEBYTECODE
export GIT_TERMINAL_PROMPT=0 DEBIAN_FRONTEND=noninteractive

LAYERS_BEFORE=
timed() { # timed NAME COMMAND...
    local name=$1 began=$SECONDS status=0
    shift
    "$@" </dev/null || status=$?
    export LAYERS_BEFORE="$LAYERS_BEFORE $name=$((SECONDS - began))"
    return "$status"
}

timed installation bash infra/local/install.sh
timed lint bash tests/lint.sh
# where a server cannot be had, its tests are skipped and say why
timed servers bash infra/local/install_stack.sh --with-browser || true
# started in the background a shell has SIGINT ignored, and so has all that it starts: tests press Ctrl-C
exec env --default-signal=INT .venv/bin/python -m pytest -p tests.layer_times -m "not lifecycle and not soak" \
    --durations=15 --durations-min=1 \
    tests/unit tests/property tests/parity tests/contracts tests/dags tests/docs tests/e2e tests/faults "$@" </dev/null
