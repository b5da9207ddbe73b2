#!/usr/bin/env bash
# Style, types, architecture, shell: what a machine can judge without running the code.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=.venv/bin
echo "ruff";          $bin/ruff check .
                      $bin/ruff format --check .
echo "mypy --strict"; $bin/mypy
echo "import-linter"; PYTHONPATH=. $bin/lint-imports --no-cache
echo "shellcheck";    git ls-files '*.sh' .ci/run | xargs $bin/shellcheck
