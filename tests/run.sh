#!/usr/bin/env bash
# The one test command (`make test`): cheap checks first, the whole ring last; ends with pytest's own closing line.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tests/lint.sh
bash infra/kafka/install.sh || printf 'The tests that need a Kafka broker will be skipped.\n' >&2
exec .venv/bin/python -m pytest tests/unit tests/property tests/parity tests/contracts tests/dags tests/docs tests/e2e tests/faults "$@"
