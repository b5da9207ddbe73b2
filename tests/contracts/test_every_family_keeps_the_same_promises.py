"""Whatever family a network is of: trained, exported, served and resumed under the same promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kit import planted
from kit.small_lake import Market, events_of_market

from market import instruments
from market.clock import NS_PER_S
from market.errors import ManifestError, SettingsError
from market.features import catalog, meaning
from market.heads import GROUP
from market.labels import N_OUTPUTS
from serving import families
from serving.bundle import check_golden, load_bundle
from serving.hotpath import network
from serving.hotpath.families.registry import ROWS
from serving.hotpath.loop import HotPath
from serving.manifest import MODEL_FILE
from serving.quoting.policy import PolicyConfig
from serving.runtimes.onnx import OnnxStep
from training.data import datasets
from training.data.sequences import Layout
from training.data.splits import SplitConfig, split_by_time
from training.export.bundle import replace_model
from training.export.int8 import AccuracyGate, int8_candidate
from training.fitting import loop as fit
from training.fitting.plan import Recipe, draw_up, write_plan
from training.models import registry
from training.models.family import Widths, stream
from training.models.registry import FAMILIES

NOW_NS = 1_790_000_001 * NS_PER_S
WIDTHS = Widths(inputs=catalog.N_INPUTS, hidden=20, outputs=N_OUTPUTS)

every_family = pytest.mark.parametrize("family", sorted(FAMILIES))


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, catalog.N_INPUTS)).astype(np.float32)


def opened(folder: Path):
    return load_bundle(folder, now_ns=NOW_NS, feature_set=meaning.feature_set())


def test_what_can_be_trained_can_be_served_and_stepped() -> None:
    assert set(FAMILIES) == set(families.FAMILIES) == set(ROWS)
    assert len({number for number, _ in ROWS.values()}) == len(ROWS)
    with pytest.raises(SettingsError, match=r"expected a family of networks .* saw 'lstm'"):
        registry.find("lstm")
    with pytest.raises(ManifestError, match=r"this code serves .* saw 'lstm'"):
        families.find("lstm")


@every_family
def test_tensors_and_state_are_those_that_serving_expects(family: str) -> None:
    seeded = FAMILIES[family].seeded(WIDTHS, seed=1)
    signature = families.find(family)
    assert {name: t.shape for name, t in seeded.tensors.items()} == signature.shapes(
        WIDTHS.inputs, WIDTHS.hidden, WIDTHS.outputs
    )
    model = FAMILIES[family].thaw(seeded)
    assert model.start(3).shape == (3, signature.state(WIDTHS.hidden))
    assert set(FAMILIES[family].parameters.values()) == {name for name, _ in model.named_parameters()}
    cost = FAMILIES[family].cost(WIDTHS)
    assert cost.weight_bytes == sum(t.nbytes for t in seeded.tensors.values())
    assert cost.multiply_adds == sum(t.size for t in seeded.tensors.values() if t.ndim == 2)


@every_family
def test_a_sequence_cut_anywhere_predicts_the_same_as_the_whole(family: str) -> None:
    seeded = FAMILIES[family].seeded(WIDTHS, seed=2)
    model = FAMILIES[family].thaw(seeded)
    x = torch.from_numpy(rows(40)).unsqueeze(0)
    with torch.no_grad():
        whole, last = model(x, model.start(1))
        for cut in range(1, 40):
            first, state = model(x[:, :cut], model.start(1))
            second, state = model(x[:, cut:], state)
            torch.testing.assert_close(torch.cat((first, second), 1), whole, atol=1e-6, rtol=0)
            torch.testing.assert_close(state, last, atol=1e-6, rtol=0)
        state, steps = model.start(1), []
        for t in range(40):
            logits, state = model(x[:, t : t + 1], state)
            steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-6, rtol=0)


@every_family
def test_the_future_changes_nothing_in_the_past(family: str) -> None:
    seeded = FAMILIES[family].seeded(WIDTHS, seed=3)
    model, here, later = FAMILIES[family].thaw(seeded), rows(60), rows(60)
    later[40:] += 10.0
    before, after = (stream(model, seeded.temperature, x)[1] for x in (here, later))
    np.testing.assert_array_equal(before[:40], after[:40])
    assert np.abs(before[40:] - after[40:]).max() > 1e-3


@every_family
@pytest.mark.parametrize("hidden", [1, 20, 64])
def test_torch_onnx_runtime_and_the_hot_path_agree_on_golden_vectors(
    write_seeded_bundle, tmp_path: Path, family: str, hidden: int
) -> None:
    folder = write_seeded_bundle(tmp_path / "b", seed=hidden, hidden=hidden, family=family)
    bundle = opened(folder)  # the golden vectors are torch's, and replayed in ONNX Runtime here
    assert bundle.golden_gap <= 1e-5
    step = network.step_function(network.load(folder))
    assert check_golden(step, bundle.golden, 1e-5, "the hot path") <= 1e-5
    probs, states = OnnxStep((folder / MODEL_FILE).read_bytes()).sequence(bundle.golden.features)
    assert np.abs(probs - bundle.golden.probs).max() <= 1e-5
    assert states.shape == bundle.golden.state.shape == (256, families.find(family).state(hidden))
    assert probs.shape[1] % GROUP == 0


@every_family
def test_lanes_of_a_batch_do_not_touch_each_other(write_seeded_bundle, tmp_path: Path, family: str) -> None:
    folder = write_seeded_bundle(tmp_path / "b", family=family, hidden=20)
    step, golden = OnnxStep((folder / MODEL_FILE).read_bytes()), opened(folder).golden
    probs, states = step(golden.features[1:33], golden.state[0:32])
    np.testing.assert_allclose(probs, golden.probs[1:33], atol=1e-5)
    np.testing.assert_allclose(states, golden.state[1:33], atol=1e-5)


@every_family
def test_weights_come_back_as_they_were_kept(write_seeded_bundle, tmp_path: Path, family: str) -> None:
    from safetensors.numpy import load_file

    folder = write_seeded_bundle(tmp_path / "b", family=family, hidden=20, seed=4)
    kept = FAMILIES[family].seeded(WIDTHS, seed=4)
    for name, values in load_file(folder / "weights.safetensors").items():
        np.testing.assert_array_equal(values, kept.tensors[name])
    again = FAMILIES[family].freeze(FAMILIES[family].thaw(kept), kept.normalisation, kept.temperature)
    assert again.tensors.keys() == kept.tensors.keys()
    assert all((again.tensors[name] == kept.tensors[name]).all() for name in kept.tensors)


class CutError(Exception):
    """Stands for the kill."""


class CutAfterOne(fit.Alone):
    def report(self, metrics, write) -> None:
        super().report(metrics, write)
        raise CutError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write_dataset(tmp_path_factory.mktemp("data") / "planted", planted.Planted(rows=1500))


@every_family
def test_a_fit_that_was_cut_off_ends_as_the_undisturbed_one_to_the_bit(
    tmp_path: Path, dataset: Path, family: str
) -> None:
    data = datasets.load(dataset)
    recipe = Recipe(family=family, epochs=2, hidden=8, precision="fp32")
    split = split_by_time(data.recv_ns, max(data.card.horizons_ns), SplitConfig())
    plan = draw_up(dataset, data, split, Layout(lanes=4), recipe, 5.0)
    ends = []
    for name in ("straight", "cut"):
        write_plan(tmp_path / name, plan)
        if name == "cut":
            with pytest.raises(CutError):
                fit.fit(tmp_path / name, CutAfterOne(tmp_path / name / "checkpoints"))
        worker = fit.Alone(tmp_path / name / "checkpoints")
        fit.fit(tmp_path / name, worker)
        ends.append(fit.trained(plan, data, worker.latest())[0])
    assert ends[0].family == family
    assert all((ends[0].tensors[name] == ends[1].tensors[name]).all() for name in ends[0].tensors)


@every_family
def test_an_int8_form_passes_the_checks_of_its_bundle_and_leaves_the_hot_path_in_fp32(
    write_seeded_bundle, tmp_path: Path, family: str
) -> None:
    folder = write_seeded_bundle(tmp_path / "b", family=family)
    before = opened(folder)
    labels = np.zeros((200, len(before.manifest.heads.horizons_ns), 3), np.int8)
    lax = AccuracyGate(max_loss=9.0, max_gap=1.0, max_state_gap=2.0, least_saving=-99.0)
    small = int8_candidate((folder / MODEL_FILE).read_bytes(), rows(200), labels, lax)
    replace_model(folder, before.manifest, small.model, step_us=small.step_us)
    after = opened(folder)
    assert after.manifest.precision == "int8"
    assert after.manifest.precisions() == "int8 in ONNX Runtime and Triton, fp32 in the hot path"
    step = network.step_function(network.load(folder))
    assert check_golden(step, after.golden, 1e-5, "the hot path") <= 1e-5


def test_arms_of_different_families_decide_as_each_alone(write_seeded_bundle, tmp_path: Path) -> None:
    events = events_of_market(Market(seconds=40.0))
    instrument = instruments.find("sim-usdm.BTCUSDT")
    models = [
        network.load(write_seeded_bundle(tmp_path / family, family=family, registry_version=i + 1, hidden=20))
        for i, family in enumerate(sorted(FAMILIES))
    ]
    alone = [HotPath([model], PolicyConfig(), instrument).run(events) for model in models]
    assert np.isfinite(alone[0]["probs"][:, 0]).any()
    for one in range(len(models)):
        for other in range(len(models)):
            both = HotPath([models[one], models[other]], PolicyConfig(), instrument).run(events)
            for arm, mine in ((0, one), (1, other)):
                assert both["probs"][:, arm].tobytes() == alone[mine]["probs"][:, 0].tobytes()
            assert all(
                both[name].tobytes() == alone[one][name].tobytes()
                for name in ("bid_price", "ask_price", "bid_size", "ask_size", "reasons")
            )


def test_a_challenger_of_another_family_joins_a_running_loop(write_seeded_bundle, tmp_path: Path) -> None:
    events = events_of_market(Market(seconds=40.0))
    instrument = instruments.find("sim-usdm.BTCUSDT")
    first, second = (
        network.load(write_seeded_bundle(tmp_path / family, family=family, registry_version=i + 1, hidden=20))
        for i, family in enumerate(sorted(FAMILIES)[:2])
    )
    alone = HotPath([first], PolicyConfig(), instrument).run(events)
    loop = HotPath([first], PolicyConfig(), instrument)
    half = len(events) // 2
    begun = loop.run(events[:half])
    loop.line_up([first, second])
    gone_on = loop.run(events[half:])
    probs = np.concatenate([begun["probs"][:, 0], gone_on["probs"][:, 0]])
    assert probs.tobytes() == alone["probs"][:, 0].tobytes()
    assert np.isfinite(gone_on["probs"][-1, 1]).all()
