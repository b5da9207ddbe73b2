"""The whole ring, run once for all tests that look at what it left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from kit import forked_keel

ROOT = Path(__file__).resolve().parents[2]
KEEL = [sys.executable, "-m", "pipelines.cli"]


@dataclass(frozen=True, kw_only=True)
class Ring:
    """A finished run: its folder, what it printed, its figures, and how to run a verb on it."""

    home: Path
    output: str
    report: dict

    def keel(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return run_keel(self.home, *words, **variables)


def run_keel(home: Path, *words: str, fresh: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end, in a process forked from libraries that are imported already or, ``fresh``, as a person's
    shell starts it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KEEL_") and k != "APPROVE_AS"}
    environment |= {"KEEL_HOME": str(home), "KEEL_AUTHOR": "ring", **variables}
    if "KEEL_TRITON_HOME" in os.environ:
        environment["KEEL_TRITON_HOME"] = os.environ["KEEL_TRITON_HOME"]
    if not fresh:
        return forked_keel.run(*words, environment=environment)
    return subprocess.run(
        [*KEEL, *words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        check=False,
    )


# training in the demo's own process, its judgement on fewer rows: two models are trained in seconds instead of minutes
QUICK = {"KEEL_TRAIN__WORKERS": "0", "KEEL_EVALUATE__MOST_ROWS": "6000"}


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Ring:
    home = tmp_path_factory.mktemp("simulated") / "home"
    done = run_keel(home, "demo", fresh=True, APPROVE_AS="ada", **QUICK)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    return Ring(home=home, output=done.stderr, report=orjson.loads((home / "report.json").read_bytes()))


@pytest.fixture
def spare_home(simulated: Ring, tmp_path: Path) -> Ring:
    """A copy of the simulated ring's folder, to break things in."""
    home = tmp_path / "home"
    shutil.copytree(simulated.home, home, ignore=shutil.ignore_patterns("ray", "logs"))
    return Ring(home=home, output=simulated.output, report=simulated.report)
