"""DVC runs the stages of pipelines/dvc.yaml in their order, and only those whose inputs changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CAPTURE = ROOT.parent / "shared" / "market" / "binance_raw" / "usdm_btcusdt_20230404.dat.gz"
STAGES = ["ingest", "validate", "featurize", "train", "evaluate", "export", "register"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What DVC needs of this checkout, in a folder of its own and outside Git."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("market", "serving", "training", "pipelines", "feature_repo"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "dvc.lock"))
    shutil.copy(ROOT / ".dvcignore", folder)
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc")
    site = folder / ".dvc" / "site"
    (folder / ".dvc" / "config.local").write_text(f"[core]\n    no_scm = true\n    site_cache_dir = {site}\n")
    return folder


def dvc(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEEL_")}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{environment['PATH']}", "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", *words]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def test_the_stages_form_the_life_of_a_model(checkout: Path) -> None:
    done = dvc(checkout, "dag", "--dot")
    assert done.returncode == 0, done.stderr
    edges = {tuple(part.strip(' ";') for part in line.split("->")) for line in done.stdout.splitlines() if "->" in line}
    for before, after in pairwise(STAGES):
        assert (f"pipelines/dvc.yaml:{before}", f"pipelines/dvc.yaml:{after}") in edges


def test_without_recordings_dvc_says_what_is_missing(checkout: Path) -> None:
    done = dvc(checkout, "repro", "pipelines/dvc.yaml:ingest")
    assert done.returncode != 0
    assert "captures" in done.stderr


@pytest.mark.heavy
@pytest.mark.skipif(not CAPTURE.exists(), reason="the recorded captures are not beside this checkout")
def test_a_recording_becomes_a_dataset_and_the_second_time_nothing_is_run(checkout: Path) -> None:
    (checkout / "captures").mkdir()
    shutil.copy(CAPTURE, checkout / "captures")
    first = dvc(checkout, "repro", "pipelines/dvc.yaml:featurize")
    assert first.returncode == 0, first.stdout + first.stderr
    said = json.loads((checkout / ".keel" / "steps" / "featurize.json").read_text())
    assert (checkout / ".keel" / "datasets" / said["dataset_id"] / "dataset.json").exists()
    again = dvc(checkout, "repro", "pipelines/dvc.yaml:featurize")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("didn't change, skipping") == 3
    assert "Running stage" not in again.stdout
