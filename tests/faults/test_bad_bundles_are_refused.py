"""A bundle is believed only when every byte, every field and every number of it is what it should be."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from market.errors import FeatureSetError, GoldenError, ManifestError, ModelError, TamperedError
from market.features import catalog, meaning
from serving.bundle import load_bundle
from serving.manifest import GOLDEN_FILE, MANIFEST_FILE, MODEL_FILE, WEIGHTS_FILE

NOW_NS = 1_800_000_000_000_000_000


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, write_seeded_bundle: Callable[..., Path]) -> Path:
    return write_seeded_bundle(tmp_path_factory.mktemp("written") / "bundle")


@pytest.fixture
def bundle(tmp_path: Path, written: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "bundle"))


def load(folder: Path, **changes: Any) -> Any:
    return load_bundle(folder, **{"now_ns": NOW_NS, "feature_set": meaning.feature_set(), **changes})


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the manifest, with the sha256 of the files as they now are: a careful forger."""
    path = folder / MANIFEST_FILE
    fields = msgspec.json.decode(path.read_bytes())
    fields["files"] = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in fields["files"]}
    path.write_bytes(msgspec.json.encode({**fields, **changes}))


def test_a_bundle_as_it_was_written_is_loaded(bundle: Path) -> None:
    loaded = load(bundle)
    assert loaded.manifest.registry_version == 1
    assert loaded.golden.features.shape == (256, catalog.N_INPUTS)
    assert loaded.manifest_sha256 == hashlib.sha256((bundle / MANIFEST_FILE).read_bytes()).hexdigest()


@pytest.mark.parametrize("name", [MODEL_FILE, WEIGHTS_FILE, GOLDEN_FILE])
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_one_changed_byte_is_found_in_every_file(bundle: Path, name: str, where: float) -> None:
    path = bundle / name
    contents = bytearray(path.read_bytes())
    contents[int(where * (len(contents) - 1))] ^= 1
    path.write_bytes(contents)
    with pytest.raises(TamperedError, match=name):
        load(bundle)


def test_a_changed_manifest_is_not_the_one_the_registry_knows(bundle: Path) -> None:
    known = load(bundle).manifest_sha256
    rewrite(bundle, author="somebody else")
    load(bundle)
    with pytest.raises(TamperedError, match="the registry says"):
        load(bundle, manifest_sha256=known)


@pytest.mark.parametrize("name", [MODEL_FILE, WEIGHTS_FILE, GOLDEN_FILE])
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(TamperedError, match=name):
        load(bundle)


def test_a_missing_manifest_is_said(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        load(tmp_path)


def test_a_file_that_is_a_link_is_refused(bundle: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (bundle / MODEL_FILE).rename(elsewhere)
    (bundle / MODEL_FILE).symlink_to(elsewhere)
    with pytest.raises(TamperedError, match="plain file"):
        load(bundle)


def test_a_pickle_in_the_folder_is_refused_and_not_opened(bundle: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    (bundle / "model.pkl").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(TamperedError, match=r"model\.pkl"):
        load(bundle)
    assert not (tmp_path / "sprung").exists()


def test_a_manifest_that_lists_a_pickle_is_refused(bundle: Path) -> None:
    (bundle / "model.pkl").write_bytes(pickle.dumps(1))
    files = msgspec.json.decode((bundle / MANIFEST_FILE).read_bytes())["files"]
    rewrite(bundle, files={**files, "model.pkl": "0" * 64})
    with pytest.raises(ManifestError, match=r"model\.pkl"):
        load(bundle)


def test_a_model_of_another_feature_set_is_refused(bundle: Path) -> None:
    with pytest.raises(FeatureSetError, match="0123456789abcdef"):
        load(bundle, feature_set="0123456789abcdef")


def test_inputs_in_another_order_are_refused(bundle: Path) -> None:
    fields = msgspec.json.decode((bundle / MANIFEST_FILE).read_bytes())["network"]
    rewrite(bundle, network={**fields, "inputs": fields["inputs"][::-1]})
    with pytest.raises(FeatureSetError, match="other inputs"):
        load(bundle)


def test_an_expired_model_is_refused(tmp_path: Path, write_seeded_bundle: Callable[..., Path]) -> None:
    folder = write_seeded_bundle(tmp_path / "old", expires_ns=NOW_NS)
    load(folder, now_ns=NOW_NS - 1)
    with pytest.raises(ManifestError, match="expired"):
        load(folder, now_ns=NOW_NS)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"surprise": 1}, "surprise"),
        ({"schema_version": 2}, "schema version 2"),
        ({"tolerance": 0.5}, "tolerance"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"norm_clip": 0.0}, "not positive"),
        ({"norm_mean": [0.0]}, "another length"),
        ({"temperature": [1.0] * 3}, "temperatures"),
        ({"temperature": [-1.0] * 12}, "not positive"),
        ({"registry_version": "two"}, "not a manifest"),
    ],
)
def test_a_manifest_that_does_not_fit_this_code_is_refused(bundle: Path, changes: dict[str, Any], word: str) -> None:
    rewrite(bundle, **changes)
    with pytest.raises(ManifestError, match=word):
        load(bundle)


@pytest.mark.parametrize("changes", [{"outputs": 15}, {"state": 32}, {"hidden": 32, "state": 32}])
def test_a_signature_that_is_not_the_files_is_refused(bundle: Path, changes: dict[str, int]) -> None:
    network = msgspec.json.decode((bundle / MANIFEST_FILE).read_bytes())["network"]
    rewrite(bundle, network={**network, **changes})
    with pytest.raises(ManifestError):
        load(bundle)


@pytest.mark.parametrize("change", [1e-3, np.nan])
@pytest.mark.parametrize("tensor", ["probs", "state"])
def test_a_forged_answer_does_not_pass_the_golden_vectors(bundle: Path, tensor: str, change: float) -> None:
    tensors = load_file(bundle / GOLDEN_FILE)
    tensors[tensor] = tensors[tensor].copy()
    tensors[tensor][-1, -1] += change
    save_file(tensors, bundle / GOLDEN_FILE)
    rewrite(bundle)
    with pytest.raises(GoldenError, match="golden vectors"):
        load(bundle)


def test_golden_vectors_without_rows_prove_nothing(bundle: Path) -> None:
    save_file({name: array[:0].copy() for name, array in load_file(bundle / GOLDEN_FILE).items()}, bundle / GOLDEN_FILE)
    rewrite(bundle)
    with pytest.raises(ManifestError, match="no rows"):
        load(bundle)


@pytest.mark.parametrize("name", [MODEL_FILE, WEIGHTS_FILE, GOLDEN_FILE])
def test_a_file_of_another_format_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"not what it says")
    rewrite(bundle)
    with pytest.raises(ModelError):
        load(bundle)
