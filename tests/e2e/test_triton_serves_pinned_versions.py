"""A real Triton on loopback: versions are loaded, proven, swapped under load, refused and revived."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from market.errors import ManifestError, ModelError, PortInUseError, ServiceError
from market.features import catalog, meaning
from serving.bundle import Bundle, check_golden, load_bundle
from serving.manifest import MODEL_FILE
from serving.triton.client import TritonClient
from serving.triton.repository import ModelRepository, config_text
from serving.triton.server import (
    TritonConfig,
    TritonServer,
    default_install,
    find_running,
    record_path,
    running_triton,
    stop_recorded,
)

MODEL = "keel-sim-usdm.BTCUSDT"
NOW_NS = 1_800_000_000_000_000_000

LoadSeeded = Callable[..., Bundle]


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory, write_seeded_bundle: Callable[..., Path]) -> LoadSeeded:
    folder = tmp_path_factory.mktemp("bundles")

    def bundle(version: int, hidden: int = 64) -> Bundle:
        place = folder / f"{version}-{hidden}"
        if not place.exists():
            write_seeded_bundle(place, seed=version, hidden=hidden, registry_version=version)
        return load_bundle(place, now_ns=NOW_NS, feature_set=meaning.feature_set())

    return bundle


@contextmanager
def running(folder: Path) -> Iterator[TritonServer]:
    if not (default_install() / "installed").is_file():
        pytest.skip("no Triton server here; run infra/triton/install.sh")
    config = TritonConfig(install=default_install(), repository=folder / "triton" / "repository", logs=folder / "logs")
    with TritonServer(config) as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """One server for all tests that leave it running."""
    with running(tmp_path_factory.mktemp("served")) as started:
        yield started


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[TritonServer]:
    """For a test that stops it."""
    with running(tmp_path) as started:
        yield started


@pytest.fixture
def client(server: TritonServer) -> Iterator[TritonClient]:
    with TritonClient(server.running.endpoint) as connected:
        yield connected
        if connected.served(MODEL):
            connected.unload(MODEL)
        shutil.rmtree(server.config.repository / MODEL, ignore_errors=True)


@pytest.fixture
def repository(server: TritonServer) -> ModelRepository:
    return ModelRepository(server.config.repository)


def left_in_memory(prefix: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{prefix}*"))  # noqa: S108


class Traffic:
    """A client that keeps asking one version until the block ends."""

    def __init__(self, server: TritonServer, version: int) -> None:
        self._server, self._version = server, version
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.answered = 0
        self.failures: list[str] = []

    def _ask(self) -> None:
        features, state = np.zeros((1, catalog.N_INPUTS), np.float32), np.zeros((1, 64), np.float32)
        with TritonClient(self._server.running.endpoint) as client:
            while not self._stop.is_set():
                try:
                    client.predict(MODEL, self._version, features, state, timeout_s=10.0)
                    self.answered += 1
                except ServiceError as error:
                    self.failures.append(str(error))

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def serve(repository: ModelRepository, client: TritonClient, *bundles: Bundle) -> None:
    for bundle in bundles:
        repository.put(bundle)
    versions = [bundle.manifest.registry_version for bundle in bundles]
    repository.publish(MODEL, versions)
    client.load(MODEL, versions)


@pytest.mark.heavy
def test_a_loaded_version_reproduces_its_golden_vectors_over_grpc(
    repository: ModelRepository, client: TritonClient, seeded: LoadSeeded
) -> None:
    serve(repository, client, seeded(1))
    assert check_golden(client.step(MODEL, 1), seeded(1).golden, 1e-5, "Triton") <= 1e-5
    # many lanes in one request are the same as one after the other
    golden = seeded(1).golden
    state = np.vstack([np.zeros((1, 64), np.float32), golden.state[:63]])
    probs, state_out = client.predict(MODEL, 1, golden.features[:64], state)
    np.testing.assert_allclose(probs, golden.probs[:64], atol=1e-5)
    np.testing.assert_allclose(state_out, golden.state[:64], atol=1e-5)


@pytest.mark.heavy
def test_a_new_version_is_loaded_beside_the_old_one_without_a_failed_request(
    server: TritonServer, repository: ModelRepository, client: TritonClient, seeded: LoadSeeded
) -> None:
    serve(repository, client, seeded(1))
    with Traffic(server, 1) as traffic:
        serve(repository, client, seeded(1), seeded(2))
        before = traffic.answered
        check_golden(client.step(MODEL, 2), seeded(2).golden, 1e-5, "Triton")
    assert traffic.failures == []
    assert 0 < before < traffic.answered
    assert client.served(MODEL) == (1, 2)


@pytest.mark.heavy
def test_a_damaged_version_is_refused_by_the_server_and_the_old_one_goes_on_serving(
    repository: ModelRepository, client: TritonClient, seeded: LoadSeeded
) -> None:
    serve(repository, client, seeded(1))
    model = repository.put(seeded(2)) / MODEL_FILE
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    repository.publish(MODEL, [1, 2])
    with pytest.raises(ServiceError, match="sha256"):
        client.load(MODEL, [1, 2])
    client.check(MODEL, 1)
    assert client.served(MODEL) == (1,)


@pytest.mark.heavy
def test_a_model_process_that_was_killed_is_found_out_and_revived(own_server: TritonServer, seeded: LoadSeeded) -> None:
    with TritonClient(own_server.running.endpoint) as client:
        serve(ModelRepository(own_server.config.repository), client, seeded(1), seeded(2))
        stubs = psutil.Process(own_server.running.pid).children()
        victim = next(p for p in stubs if f"{MODEL}/2/model.py" in " ".join(p.cmdline()))
        os.kill(victim.pid, signal.SIGKILL)
        with pytest.raises(ServiceError):
            client.check(MODEL, 2)
        assert client.served(MODEL) == (1, 2), "the server still calls it ready: that is why it is asked"
        assert client.revive(MODEL, [1, 2]) == (2,)
        check_golden(client.step(MODEL, 2), seeded(2).golden, 1e-5, "Triton")
    areas = own_server.running.shm
    assert left_in_memory(areas)
    own_server.stop()
    assert not left_in_memory(areas), "not even the dead process's"


@pytest.mark.heavy
def test_versions_of_different_width_are_served_side_by_side(
    repository: ModelRepository, client: TritonClient, seeded: LoadSeeded
) -> None:
    serve(repository, client, seeded(1), seeded(3, hidden=32))
    for version, bundle in ((1, seeded(1)), (3, seeded(3, hidden=32))):
        check_golden(client.step(MODEL, version), bundle.golden, 1e-5, "Triton")


@pytest.mark.heavy
def test_unloading_takes_a_model_out_of_service(
    repository: ModelRepository, client: TritonClient, seeded: LoadSeeded
) -> None:
    serve(repository, client, seeded(1))
    client.unload(MODEL)
    assert client.served(MODEL) == ()
    with pytest.raises(ServiceError):
        client.check(MODEL, 1)


@pytest.mark.heavy
def test_a_taken_port_is_said(tmp_path: Path) -> None:
    if not (default_install() / "installed").is_file():
        pytest.skip("no Triton server here; run infra/triton/install.sh")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        config = TritonConfig(
            install=default_install(),
            repository=tmp_path / "other" / "repository",
            logs=tmp_path / "logs",
            grpc_port=port,
        )
        with pytest.raises(PortInUseError, match=str(port)):
            TritonServer(config).start()
        assert not record_path(config.repository).exists()


@pytest.mark.heavy
def test_a_server_left_by_a_killed_run_is_found_and_stopped(own_server: TritonServer) -> None:
    repository = own_server.config.repository
    left = find_running(repository)
    assert left == own_server.running
    successor = TritonServer(own_server.config)
    with successor:
        assert not left.alive
        assert find_running(repository) == successor.running
    assert find_running(repository) is None
    assert not stop_recorded(repository)


@pytest.mark.heavy
def test_a_server_whose_owner_was_killed_is_replaced_and_leaves_nothing_behind(tmp_path: Path) -> None:
    if not (default_install() / "installed").is_file():
        pytest.skip("no Triton server here; run infra/triton/install.sh")
    repository = tmp_path / "triton" / "repository"
    script = (
        "import time, sys; from pathlib import Path; from serving.triton.server import running_triton\n"
        "with running_triton(Path(sys.argv[1]), logs=Path(sys.argv[2])): print('up', flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(repository), str(tmp_path / "logs")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    left = find_running(repository)
    assert left is not None
    owner.kill()
    owner.communicate()
    assert left.alive
    assert find_running(repository) is None, "nobody would stop it"
    with running_triton(repository, logs=tmp_path / "logs"):
        assert not left.alive
    assert not left_in_memory(left.shm)


def test_a_missing_installation_is_said(tmp_path: Path) -> None:
    config = TritonConfig(install=tmp_path / "nothing", repository=tmp_path / "repository", logs=tmp_path / "logs")
    with pytest.raises(ServiceError, match=r"infra/triton/install\.sh"):
        TritonServer(config).start()


def test_a_record_of_a_process_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    repository = tmp_path / "triton" / "repository"
    repository.mkdir(parents=True)
    mine = {"pid": os.getpid(), "born": 1, "owner": os.getpid(), "owner_born": 1, "shm": "keel-triton-none-"}
    record = json.dumps({**mine, "grpc": 1, "http": 1, "metrics": 1, "log": ""})
    record_path(repository).write_text(record)
    assert find_running(repository) is None
    assert not stop_recorded(repository), "this process has the number, but was not born then"
    record_path(repository).write_text("{")
    assert find_running(repository) is None


def test_a_server_that_is_away_is_said() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with TritonClient(f"127.0.0.1:{nobody.getsockname()[1]}") as client:
            assert not client.ready()
            with pytest.raises(ServiceError, match="did not load"):
                client.load(MODEL, [1], timeout_s=2.0)


def test_an_unregistered_bundle_has_no_place_in_the_repository(
    tmp_path: Path, write_seeded_bundle: Callable[..., Path]
) -> None:
    folder = write_seeded_bundle(tmp_path / "bundle", registry_version=0)
    bundle = load_bundle(folder, now_ns=NOW_NS, feature_set=meaning.feature_set())
    with pytest.raises(ModelError, match="keel register"):
        ModelRepository(tmp_path / "repository").put(bundle)


def test_the_configuration_names_versions_and_never_the_latest(tmp_path: Path, seeded: LoadSeeded) -> None:
    repository = ModelRepository(tmp_path / "repository")
    for version in (4, 2):
        repository.put(seeded(version))
    assert repository.versions(MODEL) == (2, 4)
    repository.publish(MODEL, [4, 2])
    text = (repository.root / MODEL / "config.pbtxt").read_text()
    assert "versions: 2" in text
    assert "versions: 4" in text
    assert "latest" not in text
    assert "kind: KIND_CPU" in text
    repository.remove(MODEL, 2)
    with pytest.raises(ModelError, match="deploy it first"):
        repository.publish(MODEL, [4, 2])
    with pytest.raises(ModelError, match="no version"):
        repository.publish(MODEL, [])


def test_a_draft_of_a_version_is_never_seen_in_the_repository(tmp_path: Path, seeded: LoadSeeded) -> None:
    repository = ModelRepository(tmp_path / "repository")
    repository.put(seeded(1))
    place = repository.put(seeded(1))
    assert sorted(p.name for p in place.iterdir()) == ["golden.safetensors", "manifest.json", "model.onnx", "model.py"]
    assert [p.name for p in repository.root.iterdir()] == [MODEL]
    assert [p.name for p in place.parent.iterdir()] == ["1"]


@pytest.mark.parametrize(("platform", "word"), [("onnxruntime", "onnxruntime_onnx"), ("tensorrt", "tensorrt_plan")])
def test_a_gpu_configuration_is_text_that_triton_would_read(seeded: LoadSeeded, platform: str, word: str) -> None:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    manifests = {v: seeded(v).manifest for v in (1, 2)}
    read = text_format.Parse(config_text(MODEL, manifests, platform), model_config_pb2.ModelConfig())
    assert read.platform == word
    assert read.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert [t.dims[0] for t in read.input] == [catalog.N_INPUTS, 64]
    assert list(read.version_policy.specific.versions) == [1, 2]
    with pytest.raises(ModelError, match="differ"):
        config_text(MODEL, {**manifests, 3: seeded(3, hidden=32).manifest}, platform)


def test_a_damaged_manifest_in_the_repository_is_said(tmp_path: Path, seeded: LoadSeeded) -> None:
    repository = ModelRepository(tmp_path / "repository")
    (repository.put(seeded(1)) / "manifest.json").write_text("{")
    with pytest.raises(ManifestError, match="deploy the version again"):
        repository.publish(MODEL, [1])
