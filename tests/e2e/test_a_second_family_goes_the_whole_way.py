"""Another family than the default one, chosen by a setting: from training to Triton, the hot path and a trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kit.small_lake import Market, workspace_with
from kit.small_session import serve_by_hand

from market.clock import NS_PER_S
from market.errors import SettingsError
from pipelines.deployment.deploy import DeployConfig, deploy
from pipelines.features.featurize import FeaturizeConfig, featurize
from pipelines.models.evaluate import EvaluateConfig, evaluate
from pipelines.models.export import ExportConfig, export
from pipelines.models.register import RegisterConfig, register
from pipelines.models.train import TrainConfig, train
from pipelines.reports.trace import TraceConfig, trace
from pipelines.settings import parse_assignments, stage_config
from serving.triton.server import default_install
from training import runs

LEARNT = Market(seconds=300.0, frames=20)
QUOTED = Market(source="session-1", seconds=120.0, seed=1, start_ns=LEARNT.start_ns + 3600 * NS_PER_S)


def asked_for(dataset_id: str, *assignments: str) -> TrainConfig:
    """As ``keel train --set ...`` reads it."""
    said = parse_assignments([*assignments, "workers=0", "epochs=2", "hidden=8", "embargo_ns=0"])
    return stage_config("train", TrainConfig, {"dataset_id": dataset_id, **said})


def test_a_family_nobody_knows_is_refused_before_anything_is_read() -> None:
    with pytest.raises(SettingsError, match=r"expected model\.family to be one of gru, mlp, saw 'lstm'"):
        asked_for("d", "model.family=lstm")
    assert asked_for("d").model.family == "gru"


@pytest.mark.heavy
def test_a_perceptron_is_trained_exported_deployed_quoted_with_and_traced(tmp_path: Path) -> None:
    if not (default_install() / "installed").is_file():
        pytest.skip("no Triton server here; run infra/triton/install.sh")
    workspace = workspace_with(tmp_path, LEARNT)
    dataset = featurize(FeaturizeConfig(), workspace=workspace)
    run = train(asked_for(dataset.dataset_id, "model.family=mlp"), workspace=workspace)
    assert run.family == "mlp"
    assert ": MLP on " in run.line()

    assert "network" in evaluate(EvaluateConfig(run_id=run.run_id, most_rows=500), workspace=workspace).losses
    exported = export(ExportConfig(run_id=run.run_id, require_gate=False), workspace=workspace)
    plan, data, _, _ = runs.load(workspace.runs / run.run_id)
    golden = _golden_features(Path(exported.bundle))
    valid = data.features[plan.split.mask("valid", data.recv_ns)]
    assert (golden == valid[: len(golden)]).all(), "golden vectors are rows of the validation part"

    version = register(RegisterConfig(run_id=run.run_id), workspace=workspace).version
    served = deploy(DeployConfig(version=version, max_p50_ms=5000.0), workspace=workspace)
    assert (served.serving, served.run_id) == ((version,), run.run_id)

    session = serve_by_hand(workspace, QUOTED, bundle=Path(served.bundle), version=version)
    assert np.isfinite(session.decisions["probs"][-1, 0]).all()
    found = trace(TraceConfig(quote_id=f"q-{QUOTED.source}.401"), workspace=workspace)
    assert found.model is not None
    assert (found.model["family"], found.model["version"], found.model["precision"]) == ("mlp", version, "fp32")
    assert found.reproduced


def _golden_features(bundle: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(bundle / "golden.safetensors")["features"]
