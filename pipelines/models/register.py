"""Register a run's bundle in MLflow as challenger, with its lineage. A second call finds and finishes the first."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from pipelines.settings import StageConfig
from pipelines.workspace import Workspace

PASSED: Final = "passed"


@dataclass(frozen=True, kw_only=True)
class RegisterConfig(StageConfig):
    """Which run."""

    run_id: str


@dataclass(frozen=True, kw_only=True)
class RegisterResult:
    """The version and what it comes from. ``gate``: "passed", or why it failed the gate of its evaluation."""

    model_name: str
    version: int
    instrument: str
    run_id: str
    dataset_id: str
    dataset_revision: str
    feature_set: str
    author: str
    alias: str
    gate: str

    def line(self) -> str:
        return (
            f"{self.model_name} version {self.version} is {self.alias} (dataset {self.dataset_id}, DVC revision "
            f"{self.dataset_revision[:12]}, feature set {self.feature_set}, by {self.author}; gate {self.gate})"
        )


def register(config: RegisterConfig, *, workspace: Workspace) -> RegisterResult:
    """Register once, tag, set the alias.

    Raises:
        InputError: no such run.
        ManifestError, TamperedError: the run's bundle is missing or incomplete.
    """
    from training import runs
    from training.fitting.plan import read_plan
    from training.registry.registry import CHALLENGER, Registry, read_manifest

    folder = runs.find(workspace.runs, config.run_id)
    bundle = folder / runs.BUNDLE
    manifest, plan = read_manifest(bundle), read_plan(folder)
    tags = {
        "dataset_id": manifest.dataset_id,
        "dataset_revision": manifest.dataset_revision,
        "feature_set": manifest.feature_set,
        "instrument": manifest.instrument,
        "author": manifest.author,
        "family": manifest.network.kind,
        "precision": manifest.precisions(),
        "lake_versions": _lake_versions(Path(plan.dataset)),
        "gate": "; ".join(runs.read_evaluation(folder).refusals or ()) or PASSED,
        "code": _code_revision(),
    }
    registry = Registry(workspace.tracking)
    made = registry.register(bundle, tags)
    if not registry.version(made.name, made.version).aliases:  # a champion or its predecessor stays what it is
        registry.set_alias(made.name, CHALLENGER, made.version)
    return RegisterResult(
        model_name=made.name,
        version=made.version,
        instrument=manifest.instrument,
        run_id=config.run_id,
        dataset_id=manifest.dataset_id,
        dataset_revision=manifest.dataset_revision,
        feature_set=manifest.feature_set,
        author=manifest.author,
        alias=", ".join(registry.version(made.name, made.version).aliases),
        gate=tags["gate"],
    )


def _lake_versions(dataset: Path) -> str:
    from training.data.datasets import read_card

    return orjson.dumps(read_card(dataset).lake_versions).decode()


def _code_revision() -> str:
    """The commit the code is at, where it runs from a checkout."""
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() if asked.returncode == 0 else "not a checkout"
