#!/usr/bin/env bash
# What takes hours (`make soak`): one part after another, on after a part that failed. What each proves, and how long it
# takes, is in docs/testing.md. Usage: tests/soak.sh [PART...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONDONTWRITEBYTECODE # see tests/run.sh
kept=.keel/soak/$(date -u +%Y%m%dT%H%M%SZ)
python=(env --default-signal=INT .venv/bin/python)

part() {
    case $1 in
        kills) KILLS=200 LAND_KILLS=100 KAFKA_KILLS=20 VERB_KILLS=10 "${python[@]}" -m pytest -o timeout=14400 tests/faults -k kill ;;
        fuzz) "${python[@]}" -m bench.fuzz --frames 3000000 --files 10000 --findings "$kept/fuzz-findings.jsonl" ;;
        properties) "${python[@]}" -m pytest -o timeout=14400 --hypothesis-profile=soak -m hypothesis tests/property tests/unit ;;
        long) "${python[@]}" -m pytest -o timeout=14400 -m "soak and not lifecycle" tests ;;
        lifecycle) bash infra/local/install_stack.sh --with-browser && "${python[@]}" -m pytest -o timeout=14400 tests/e2e/lifecycle ;;
        drift) BENCH_DRIFT_SECONDS=${BENCH_DRIFT_SECONDS:-14400} "${python[@]}" -m bench drift ;;
        *) echo "expected a part (kills fuzz properties long lifecycle drift), saw '$1'" && return 2 ;;
    esac
}

mkdir -p "$kept"
[ $# -gt 0 ] || set -- kills fuzz properties long lifecycle drift
failed=()
for name in "$@"; do
    began=$SECONDS
    echo "$name ... (its lines go to $kept/$name.log)"
    ended="done"
    (part "$name") </dev/null >"$kept/$name.log" 2>&1 || { ended=FAILED && failed+=("$name"); }
    echo "$name: $ended after $(((SECONDS - began) / 60)) min: $(tail -n 1 "$kept/$name.log")"
done
echo "$# parts, ${#failed[@]} failed${failed[*]:+: ${failed[*]}}"
[ ${#failed[@]} = 0 ]
