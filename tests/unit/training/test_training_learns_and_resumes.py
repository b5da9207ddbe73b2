"""The network and its fit: it learns what was planted, looks only back, and goes on exactly where it was cut off."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from kit import planted

from market.errors import SettingsError
from training.data import datasets
from training.data.sequences import Layout
from training.data.splits import SplitConfig, split_by_time
from training.evaluation import evaluate
from training.evaluation.evaluate import Comparison
from training.fitting import checkpoint, loop
from training.fitting.optimizer import AdamW
from training.fitting.plan import PLAN_FILE, Plan, Recipe, draw_up, read_plan, write_plan
from training.models.family import Widths, stream
from training.models.registry import FAMILIES, family_of


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write_dataset(tmp_path_factory.mktemp("data") / "planted", planted.Planted(rows=6000))


def plan_of(dataset: Path, **recipe: object) -> tuple[Plan, datasets.Dataset]:
    data = datasets.load(dataset)
    split = split_by_time(data.recv_ns, max(data.card.horizons_ns), SplitConfig())
    said = Recipe(**{"epochs": 4, "hidden": 16, "precision": "fp32", **recipe})  # type: ignore[arg-type]
    return draw_up(dataset, data, split, Layout(lanes=4), said, 5.0), data


class CutError(Exception):
    """Stands for the kill."""


class CutAfter(loop.Alone):
    """A worker that dies when it has reported ``epochs`` epochs."""

    def __init__(self, folder: Path, epochs: int) -> None:
        super().__init__(folder)
        self._left = epochs

    def report(self, metrics, write) -> None:
        super().report(metrics, write)
        self._left -= 1
        if self._left == 0:
            raise CutError


def test_a_fit_that_was_cut_off_ends_as_the_undisturbed_one_to_the_bit(tmp_path: Path, dataset: Path) -> None:
    plan, data = plan_of(dataset)
    for name in ("straight", "cut"):
        write_plan(tmp_path / name, plan)
    straight = loop.Alone(tmp_path / "straight" / "checkpoints")
    loop.fit(tmp_path / "straight", straight)
    with pytest.raises(CutError):
        loop.fit(tmp_path / "cut", CutAfter(tmp_path / "cut" / "checkpoints", 2))
    resumed = loop.Alone(tmp_path / "cut" / "checkpoints")
    loop.fit(tmp_path / "cut", resumed)

    one, history = loop.trained(plan, data, straight.latest())
    two, again = loop.trained(plan, data, resumed.latest())
    assert [e.valid_loss for e in history.history] == [e.valid_loss for e in again.history]
    assert [e.train_loss for e in history.history] == [e.train_loss for e in again.history]
    for name, values in one.tensors.items():
        np.testing.assert_array_equal(values, two.tensors[name])


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path, dataset: Path) -> None:
    plan, _ = plan_of(dataset, epochs=1)
    write_plan(tmp_path, plan)
    worker = loop.Alone(tmp_path / "checkpoints")
    loop.fit(tmp_path, worker)
    other, _ = plan_of(dataset, epochs=2)
    write_plan(tmp_path, other)
    with pytest.raises(Exception, match="follows plan"):
        loop.fit(tmp_path, worker)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_planted_signal_is_found_and_memory_beats_the_rules(tmp_path: Path, dataset: Path, precision: str) -> None:
    plan, data = plan_of(dataset, precision=precision, epochs=8)
    write_plan(tmp_path, plan)
    worker = loop.Alone(tmp_path / "checkpoints")
    loop.fit(tmp_path, worker)
    network, _ = loop.trained(plan, data, worker.latest())
    found, _ = evaluate.evaluate(data, plan.split, network, Comparison(most_rows=3000))
    losses = {judged.model: judged.log_loss for judged in found.models}
    assert losses["network"] < min(losses["prior"], losses["imbalance rule"], losses["last move rule"])
    assert found.against("prior").better


def test_the_future_changes_nothing_in_the_past() -> None:
    network = FAMILIES["gru"].seeded(Widths(inputs=32, hidden=16, outputs=20), seed=3)
    rows = np.random.default_rng(0).normal(size=(100, 32)).astype(np.float32)
    later = rows.copy()
    later[60:] += 10.0
    model = family_of(network).thaw(network)
    before = stream(model, network.temperature, rows)[1]
    after = stream(model, network.temperature, later)[1]
    np.testing.assert_array_equal(before[:60], after[:60])
    assert np.abs(before[60:] - after[60:]).max() > 1e-3


def test_one_step_at_a_time_predicts_the_same_as_the_whole_sequence() -> None:
    network = FAMILIES["gru"].seeded(Widths(inputs=32, hidden=16, outputs=20), seed=3)
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 50, 32)).astype(np.float32))
    model = family_of(network).thaw(network)
    with torch.no_grad():
        whole, _ = model(rows, model.start(1))
        state, steps = model.start(1), []
        for t in range(50):
            logits, state = model(rows[:, t : t + 1], state)
            steps.append(logits)
    torch.testing.assert_close(whole, torch.cat(steps, dim=1), atol=1e-6, rtol=0)


def test_our_adamw_gives_the_numbers_of_torch() -> None:
    def model() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Linear(5, 3)

    mine, theirs = model(), model()
    ours = AdamW(mine, 0.01)
    reference = torch.optim.AdamW(
        [{"params": [theirs.weight], "weight_decay": 0.01}, {"params": [theirs.bias], "weight_decay": 0.0}], lr=0.01
    )
    for i in range(20):
        x = torch.from_numpy(np.random.default_rng(i).normal(size=(8, 5)).astype(np.float32))
        for net in (mine, theirs):
            (net(x) ** 2).sum().backward()
        ours.update(0.01)
        reference.step()
        reference.zero_grad()
    torch.testing.assert_close(mine.weight, theirs.weight)
    torch.testing.assert_close(mine.bias, theirs.bias)


def test_checkpoints_hold_tensors_and_json_only(tmp_path: Path, dataset: Path) -> None:
    plan, _ = plan_of(dataset, epochs=1)
    write_plan(tmp_path, plan)
    worker = loop.Alone(tmp_path / "checkpoints")
    loop.fit(tmp_path, worker)
    latest = worker.latest()
    assert latest is not None
    assert {path.suffix for path in latest.iterdir()} == {".safetensors", ".json"}
    assert checkpoint.read_standing(latest).epochs_done == 1


def test_a_missing_gpu_is_an_error_and_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"expected a CUDA device .* saw none .* train with device=cpu"):
        loop.device_of(Recipe(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loop.device_of(Recipe(device="cuda")) == torch.device("cuda")
    assert loop.device_of(Recipe()) == torch.device("cpu")


def test_a_plan_of_before_there_were_families_is_of_the_first_one_and_keeps_its_digest(
    tmp_path: Path, dataset: Path
) -> None:
    plan, _ = plan_of(dataset)
    write_plan(tmp_path, plan)
    said = json.loads((tmp_path / PLAN_FILE).read_bytes())
    assert said["recipe"].pop("family") == "gru"
    (tmp_path / PLAN_FILE).write_text(json.dumps(said))
    old = read_plan(tmp_path)
    assert old == plan
    assert old.digest() == hashlib.sha256(msgspec.json.encode(said)).hexdigest()[:16] == plan.digest()
    assert plan_of(dataset, family="mlp")[0].digest() != plan.digest()
