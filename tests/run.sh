#!/usr/bin/env bash
# The one test command (`make test`): cheap checks first, the whole ring last; ends with pytest's own closing line.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tests/lint.sh
# where a server cannot be had, its tests are skipped and say why
bash infra/local/install_stack.sh --with-browser || true
# the life of a model on the stack in its short form; make e2e has all of it
# started in the background a shell has SIGINT ignored, and so has all that it starts: tests press Ctrl-C
exec env --default-signal=INT .venv/bin/python -m pytest -m "not lifecycle" tests/unit tests/property tests/parity tests/contracts tests/dags tests/docs tests/e2e tests/faults "$@"
