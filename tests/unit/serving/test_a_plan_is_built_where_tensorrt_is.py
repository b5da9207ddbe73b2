"""Deploying for another backend of Triton: the plan by trtexec (a program that records its words), the configuration,
and a sentence where there is no builder. No GPU runs any of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from market.errors import ModelError, ServiceError, SettingsError
from market.features import catalog, meaning
from pipelines.deployment.deploy import DeployConfig
from pipelines.settings import stage_config
from serving.bundle import Bundle, load_bundle
from serving.triton.repository import MAX_BATCH, ModelRepository

MODEL = "keel-sim-usdm.BTCUSDT"
NOW_NS = 1_780_000_000_000_000_000

BUILDER = """#!{python}
import json, pathlib, sys
words = dict(word.partition("=")[::2] for word in sys.argv[1:])
pathlib.Path(__file__).with_name("asked.json").write_text(json.dumps(words))
if {fails}:
    sys.exit("[E] Error[4]: no CUDA-capable device is detected")
assert pathlib.Path(words["--onnx"]).is_file()
pathlib.Path(words["--saveEngine"]).write_bytes(b"plan")
"""


def builder(folder: Path, monkeypatch: pytest.MonkeyPatch, *, fails: bool = False) -> Path:
    """A ``trtexec`` alone on the PATH; answers the file in which it says what it was asked."""
    folder.mkdir()
    program = folder / "trtexec"
    program.write_text(BUILDER.format(python=sys.executable, fails=fails))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder / "asked.json"


@pytest.fixture
def bundle(tmp_path: Path, write_seeded_bundle: Callable[..., Path]) -> Bundle:
    folder = write_seeded_bundle(tmp_path / "bundle")
    return load_bundle(folder, now_ns=NOW_NS, feature_set=meaning.feature_set())


def published(repository: ModelRepository) -> model_config_pb2.ModelConfig:
    text = (repository.root / MODEL / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_a_version_for_tensorrt_holds_a_plan_for_every_batch_that_is_served(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = builder(tmp_path / "bin", monkeypatch)
    repository = ModelRepository(tmp_path / "repository", "tensorrt")
    place = repository.put(bundle)
    assert (place / "model.plan").read_bytes() == b"plan"
    assert not (place / "model.py").exists()
    words = json.loads(asked.read_text())
    width = f"{catalog.N_INPUTS},state:"
    assert words["--minShapes"] == f"features:1x{width}1x64"
    assert words["--maxShapes"] == f"features:{MAX_BATCH}x{width}{MAX_BATCH}x64"
    assert "--noTF32" in words
    repository.publish(MODEL, [1])
    found = published(repository)
    assert (found.platform, found.backend, found.default_model_filename) == ("tensorrt_plan", "tensorrt", "model.plan")
    assert list(found.version_policy.specific.versions) == [1]
    assert found.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU


def test_a_model_stays_on_its_platform_until_it_is_deployed_for_another(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "repository"
    assert ModelRepository(root).platform_of(MODEL) == "python"
    for platform, seen in (("onnxruntime", "onnxruntime"), (None, "onnxruntime"), ("python", "python")):
        repository = ModelRepository(root, platform)  # type: ignore[arg-type]
        place = repository.put(bundle)
        repository.publish(MODEL, [1])
        assert published(repository).backend == ModelRepository(root).published_platform(MODEL) == seen
        assert (place / "model.py").exists() == (seen == "python")
    builder(tmp_path / "bin", monkeypatch)
    ModelRepository(root, "tensorrt").publish(MODEL, [1])  # of what lies there already
    assert (root / MODEL / "1" / "model.plan").is_file()
    assert ModelRepository(root).published_platform(MODEL) == "tensorrt"


def test_without_a_builder_a_sentence_says_what_to_do_and_nothing_is_left(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    repository = ModelRepository(tmp_path / "repository", "tensorrt")
    with pytest.raises(SettingsError, match=r"expected trtexec on the PATH .* saw none\. Install TensorRT"):
        repository.put(bundle)
    assert repository.versions(MODEL) == ()
    assert repository.published_platform(MODEL) is None


def test_a_builder_that_fails_is_quoted(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    builder(tmp_path / "bin", monkeypatch, fails=True)
    with pytest.raises(ServiceError, match=r"ended with 1 .* no CUDA-capable device is detected"):
        ModelRepository(tmp_path / "repository", "tensorrt").put(bundle)


def test_a_configuration_of_a_foreign_backend_is_reported(tmp_path: Path) -> None:
    place = tmp_path / MODEL / "config.pbtxt"
    place.parent.mkdir()
    place.write_text('backend: "pytorch"')
    with pytest.raises(ModelError, match="names backend 'pytorch', expected one of python, onnxruntime, tensorrt"):
        ModelRepository(tmp_path).platform_of(MODEL)


def test_a_platform_is_one_of_tritons_names() -> None:
    assert stage_config("deploy", DeployConfig, {"platform": "tensorrt"}).platform == "tensorrt"
    with pytest.raises(SettingsError, match="'python', 'onnxruntime' or 'tensorrt'"):
        stage_config("deploy", DeployConfig, {"platform": "tensorrt-plan"})
