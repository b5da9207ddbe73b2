"""`keel data`: a dataset is pushed, lost, and restored to the byte; through a folder and through a real S3 server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from itertools import count
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import yaml
from kit.seaweed import needs_seaweed, seaweed
from kit.small_lake import Market, workspace_with
from typer.testing import CliRunner

from market.errors import InputError, KeelError, LakeError, SettingsError
from market.lake import storage
from pipelines.cli.main import app
from pipelines.features.featurize import FeaturizeConfig, featurize
from training.registry.registry import model_name

__all__ = ["seaweed"]
_PREFIXES = count(1)


def keel(*words: str) -> dict:
    done = CliRunner().invoke(app, ["data", *words, "--json"])
    if isinstance(done.exception, KeelError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one dataset."""
    workspace = workspace_with(tmp_path_factory.mktemp("cut") / "home", Market(seconds=150, frames=10))
    featurize(FeaturizeConfig(), workspace=workspace)
    return workspace.home


@pytest.fixture
def home(cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copied = shutil.copytree(cut, tmp_path / "home")
    monkeypatch.setenv("KEEL_HOME", str(copied))
    return copied


@pytest.fixture(params=["folder", pytest.param("s3", marks=needs_seaweed)])
def remote(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "folder":
        address = str(tmp_path / "remote")
    else:
        server = request.getfixturevalue("seaweed")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        address = server.new_prefix("s3://datasets/", next(_PREFIXES))
    monkeypatch.setenv("KEEL_DATA_REMOTE", address)
    return address


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("dataset.parquet", "dataset.json")}


def only_dataset(home: Path) -> Path:
    (card,) = (home / "datasets").glob("[!.]*/dataset.json")
    return card.parent


def objects(remote: str) -> list[str]:
    selector = pafs.FileSelector("files/md5", recursive=True)
    found = storage.storage_of(remote).filesystem().get_file_info(selector)
    return [each.path for each in found if each.is_file]


def test_a_dataset_that_was_lost_is_restored_to_the_byte(home, remote, tmp_path, monkeypatch) -> None:
    folder = only_dataset(home)
    before = files_of(folder)
    put = keel("put", folder.name[:6])
    assert (put["dataset_id"], len(put["files"])) == (folder.name, 2)
    assert len(objects(remote)) == 2
    assert keel("put", folder.name) == put, "a second time nothing is sent"
    (listed,) = keel("ls")["datasets"]
    assert (listed["here"], listed["stored"]) == (True, True)

    other = tmp_path / "another-machine"
    monkeypatch.setenv("KEEL_HOME", str(other))
    (listed,) = keel("ls")["datasets"]
    assert (listed["here"], listed["stored"]) == (False, True)
    for revision in (folder.name, folder.name[:4], put["dataset_revision"]):
        got = keel("get", revision)
        assert got["fetched"]
        assert files_of(Path(got["path"])) == before
        assert not keel("get", revision)["fetched"]
        shutil.rmtree(other)


def test_a_file_that_was_changed_here_is_put_right(home, remote) -> None:
    folder = only_dataset(home)
    before = files_of(folder)
    keel("put", folder.name)
    for name in before:
        damaged = folder / name
        damaged.unlink()
        damaged.write_bytes(b"something else")
    with pytest.raises(LakeError, match=r"cannot be read|is not the file"):
        keel("put", folder.name)
    assert keel("get", folder.name)["fetched"]
    assert files_of(folder) == before


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_an_object_that_is_missing_or_damaged_is_said_and_nothing_is_left(
    home, remote, harm, tmp_path, monkeypatch
) -> None:
    folder = only_dataset(home)
    keel("put", folder.name)
    filesystem = storage.storage_of(remote).filesystem()
    largest = max(objects(remote), key=lambda path: filesystem.get_file_info(path).size)
    whole = filesystem.open_input_stream(largest).read()
    filesystem.delete_file(largest)
    if harm == "damaged":
        with filesystem.open_output_stream(largest) as opened:
            opened.write(whole[:-1] + bytes([whole[-1] ^ 1]))
    other = tmp_path / "another-machine"
    monkeypatch.setenv("KEEL_HOME", str(other))
    with pytest.raises(LakeError, match=r"missing or damaged|is damaged"):
        keel("get", folder.name)
    assert [path.name for path in (other / "datasets").iterdir()] == [".dvc"]

    if remote.startswith("/"):
        (Path(remote) / largest).unlink(missing_ok=True)
    with filesystem.open_output_stream(largest) as opened:
        opened.write(whole)
    assert keel("get", folder.name)["fetched"], "with the right bytes there it works, whatever was cached"


def test_a_git_revision_says_which_dataset_it_was(home, remote, tmp_path, monkeypatch) -> None:
    code = tmp_path / "code"
    code.mkdir()
    monkeypatch.chdir(code)

    def git(*words: str) -> str:
        people = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        done = subprocess.run(["git", *words], check=True, capture_output=True, text=True, env=os.environ | people)
        return done.stdout.strip()

    git("init", "-q")
    folder = only_dataset(home)
    put = keel("put", folder.name, "--pointer", "btc.dvc")
    assert yaml.safe_load(Path("btc.dvc").read_text())["outs"][0]["md5"] == put["dataset_revision"]
    git("add", "btc.dvc")
    git("commit", "-qm", "the dataset of the release")
    git("tag", "v1")
    Path("btc.dvc").write_text("outs: []\n")
    git("commit", "-qam", "another one")
    before = files_of(folder)
    shutil.rmtree(folder)
    assert keel("get", "v1", "--pointer", "btc.dvc")["fetched"]
    assert files_of(folder) == before
    with pytest.raises(InputError, match=r"is not a pointer that"):
        keel("get", "HEAD", "--pointer", "btc.dvc")
    with pytest.raises(InputError, match=r"Git has no btc.dvc at 'v9'"):
        keel("get", "v9", "--pointer", "btc.dvc")


def test_a_registered_version_says_which_dataset_it_was_trained_on(home, tmp_path, monkeypatch) -> None:
    import mlflow

    monkeypatch.setenv("KEEL_DATA_REMOTE", str(tmp_path / "remote"))
    folder = only_dataset(home)
    keel("put", folder.name)
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    name = model_name("sim-usdm.BTCUSDT")
    client.create_registered_model(name)
    client.create_model_version(name, str(tmp_path), tags={"dataset_id": folder.name})
    before = files_of(folder)
    shutil.rmtree(folder)
    assert keel("get", "sim-usdm.BTCUSDT@1")["fetched"]
    assert files_of(folder) == before


def test_what_is_not_there_is_said(home, remote, monkeypatch) -> None:
    with pytest.raises(InputError, match=r"no dataset 'ffff' on .*keel data ls"):
        keel("get", "ffff")
    with pytest.raises(InputError, match="no dataset '' "):
        keel("get", "")
    with pytest.raises(InputError, match="expected INSTRUMENT@VERSION"):
        keel("get", "sim-usdm.BTCUSDT@champion")
    with pytest.raises(InputError, match="no dataset 'ffff' in "):
        keel("put", "ffff")
    monkeypatch.delenv("KEEL_DATA_REMOTE")
    with pytest.raises(SettingsError, match="expected KEEL_DATA_REMOTE"):
        keel("get", "ffff")
    assert keel("ls")["datasets"][0]["stored"] is False


def test_an_entry_that_names_other_files_is_refused(home, remote) -> None:
    folder = only_dataset(home)
    keel("put", folder.name)
    filesystem = storage.storage_of(remote).filesystem()
    path = f"datasets/{folder.name}.json"
    entry = json.loads(filesystem.open_input_stream(path).read())
    entry["files"][0]["name"] = "../../escape"
    with filesystem.open_output_stream(path) as opened:
        opened.write(json.dumps(entry).encode())
    with pytest.raises(LakeError, match="is not an entry that"):
        keel("get", folder.name)


def test_no_key_is_written_anywhere(home, remote, request) -> None:
    keel("put", only_dataset(home).name)
    if remote.startswith("s3://"):
        secret = request.getfixturevalue("seaweed").secret.encode()
        assert not any(secret in path.read_bytes() for path in home.rglob("*") if path.is_file())
