"""Write a run's bundle: ONNX step model, safetensors, golden vectors, manifest; INT8 only behind its gates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from market.clock import NS_PER_S
from market.errors import GateError
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace

if TYPE_CHECKING:
    from training.data.datasets import Dataset
    from training.export.bundle import Card
    from training.export.int8 import Candidate
    from training.fitting.plan import Plan


@dataclass(frozen=True, kw_only=True)
class ExportConfig(StageConfig):
    """``expires_days``: after that serving refuses the model. ``require_gate``: only what passed its evaluation.
    ``int8_least_saving``: the share of a step's time that an INT8 model has to save to be kept; 1: none is."""

    run_id: str
    expires_days: float = 7.0
    require_gate: bool = True
    int8_least_saving: float = 0.1


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """``int8``: the outcome of the INT8 candidate, with its figures."""

    run_id: str
    bundle: str
    precision: str
    step_us: float
    golden_rows: int
    files: dict[str, str]
    int8: str
    int8_loss_change: float
    int8_largest_gap: float

    def line(self) -> str:
        return (
            f"bundle of run {self.run_id[:12]} in {self.precision}, {self.golden_rows} golden rows, ONNX Runtime step "
            f"{self.step_us:.1f} us; INT8 {self.int8}"
        )


def export(config: ExportConfig, *, workspace: Workspace) -> ExportResult:
    """Write ``<run>/bundle``.

    Raises:
        InputError: no such run.
        ModelError: it has not been trained and evaluated.
        GateError: its evaluation did not pass.
        GoldenError: ONNX Runtime does not reproduce torch.
    """
    import numpy as np

    from serving.manifest import MODEL_FILE
    from training import runs
    from training.export.bundle import GOLDEN_STEPS, replace_model, write_bundle
    from training.export.int8 import AccuracyGate, int8_candidate

    folder = runs.find(workspace.runs, config.run_id)
    plan, data, network, _ = runs.load(folder)
    found = runs.read_evaluation(folder)
    if config.require_gate:
        _check_gate(config.run_id, found.refusals)
    # not test rows: rows used here could no longer serve as an independent test
    rows = np.flatnonzero(plan.split.mask("valid", data.recv_ns))
    bundle = folder / runs.BUNDLE
    golden = data.features[rows[:GOLDEN_STEPS]]
    manifest = write_bundle(runs.calibrated(network, found), _card(config, plan, data, workspace), golden, bundle)
    gate = AccuracyGate(least_saving=config.int8_least_saving)
    candidate = int8_candidate((bundle / MODEL_FILE).read_bytes(), data.features[rows], data.labels[rows], gate)
    if candidate.kept:
        manifest = replace_model(bundle, manifest, candidate.model, step_us=candidate.step_us)
    return _result(config, bundle, manifest, (len(golden), candidate))


def _check_gate(run_id: str, refusals: tuple[str, ...] | None) -> None:
    if refusals is None:
        raise GateError(f"run {run_id} was evaluated without a gate; run `keel evaluate --run {run_id}` again")
    if refusals:
        raise GateError(
            f"run {run_id} did not pass its evaluation and is not exported: {'; '.join(refusals)}. Train on more data "
            "or with other parameters; --set require_gate=false exports it anyway"
        )


def _card(config: ExportConfig, plan: Plan, data: Dataset, workspace: Workspace) -> Card:
    from serving.manifest import Heads
    from training.export.bundle import Card
    from training.registry.registry import model_name

    now_ns = workspace.clock.now_ns()
    rule = data.card.labels
    return Card(
        model_name=model_name(plan.instrument),
        run_id=config.run_id,
        instrument=plan.instrument,
        feature_set=plan.feature_set,
        dataset_id=plan.dataset_id,
        dataset_revision=plan.dataset_revision,
        author=workspace.author,
        created_ns=now_ns,
        expires_ns=now_ns + int(config.expires_days * 86_400 * NS_PER_S),
        inputs=data.inputs,
        heads=Heads(
            horizons_ns=data.card.horizons_ns,
            move_threshold_ticks=rule.move_threshold_ticks,
            depth_fall=rule.depth_fall,
            depth_levels=rule.depth_levels,
        ),
    )


def _result(config: ExportConfig, bundle: Path, manifest: Any, measured: tuple[int, Candidate]) -> ExportResult:
    golden_rows, candidate = measured
    return ExportResult(
        run_id=config.run_id,
        bundle=str(bundle),
        precision=manifest.precisions(),
        step_us=manifest.expected_step_us,
        golden_rows=golden_rows,
        files=dict(manifest.files),
        int8=candidate.why,
        int8_loss_change=candidate.loss_change,
        int8_largest_gap=candidate.largest_gap,
    )
