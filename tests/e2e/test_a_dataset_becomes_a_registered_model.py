"""train, evaluate, export, register as a user runs them: with a real Ray cluster and a real MLflow store."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit import planted

from market.errors import FeatureSetError, GateError, InputError, TamperedError
from pipelines.models.evaluate import EvaluateConfig, evaluate
from pipelines.models.export import ExportConfig, export
from pipelines.models.register import RegisterConfig, register
from pipelines.models.train import TrainConfig, train
from pipelines.workspace import Workspace
from serving.manifest import WEIGHTS_FILE
from training.registry import tracking
from training.registry.registry import Registry


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(home=tmp_path_factory.mktemp("life"), author="grace")
    planted.write_dataset(made.datasets / "planted", planted.Planted(rows=16000))
    planted.write_dataset(made.datasets / "foreign", feature_set="0" * 16)
    return made


@pytest.mark.heavy
def test_two_ray_workers_train_what_is_then_evaluated_exported_and_registered_once(workspace: Workspace) -> None:
    run = train(TrainConfig(dataset_id="planted", epochs=6, hidden=32), workspace=workspace)
    assert run.valid_loss < run.first_valid_loss
    again = train(TrainConfig(dataset_id="planted", epochs=6, hidden=32), workspace=workspace)
    assert again.run_id == run.run_id

    judged = evaluate(EvaluateConfig(run_id=run.run_id, max_ece=0.5, most_rows=2000), workspace=workspace)
    assert {"network", "prior", "imbalance rule", "last move rule", "logistic regression", "LightGBM"} == set(
        judged.losses
    )
    assert judged.passed

    exported = export(ExportConfig(run_id=run.run_id), workspace=workspace)
    assert exported.golden_rows == 256
    made = register(RegisterConfig(run_id=run.run_id), workspace=workspace)
    assert register(RegisterConfig(run_id=run.run_id), workspace=workspace).version == made.version
    registry = Registry(workspace.tracking)
    assert registry.get_alias(made.model_name, "challenger") == made.version
    tags = registry.tags(made.model_name, made.version)
    assert tags["dataset_id"] == "planted"
    assert tags["author"] == "grace"

    weights = Path(exported.bundle) / WEIGHTS_FILE
    spoiled = bytearray(weights.read_bytes())
    spoiled[-1] ^= 1
    weights.write_bytes(bytes(spoiled))
    with pytest.raises(TamperedError, match=WEIGHTS_FILE):
        register(RegisterConfig(run_id=run.run_id), workspace=workspace)


def test_a_dataset_of_other_features_is_refused(workspace: Workspace) -> None:
    with pytest.raises(FeatureSetError, match="foreign"):
        train(TrainConfig(dataset_id="foreign", workers=0), workspace=workspace)


def test_a_dataset_or_run_that_is_not_there_is_said(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="no dataset"):
        train(TrainConfig(dataset_id="nothing"), workspace=workspace)
    with pytest.raises(InputError, match="no run"):
        evaluate(EvaluateConfig(run_id="nothing"), workspace=workspace)


def test_a_run_that_fails_its_gate_is_not_exported(workspace: Workspace) -> None:
    asked = TrainConfig(dataset_id="planted", epochs=1, hidden=4, workers=0, trigger="schedule")
    run = train(asked, workspace=workspace)
    assert tracking.client(workspace.tracking).get_run(run.run_id).data.tags["trigger"] == "schedule"
    judged = evaluate(EvaluateConfig(run_id=run.run_id, max_ece=0.0, most_rows=500), workspace=workspace)
    assert not judged.passed
    with pytest.raises(GateError, match="did not pass"):
        export(ExportConfig(run_id=run.run_id), workspace=workspace)
