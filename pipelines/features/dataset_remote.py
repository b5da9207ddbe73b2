"""Datasets to and from a DVC remote: a folder, or ``s3://bucket/prefix``.

A dataset is its file and its card. Both are under DVC, and the remote holds them as DVC lays them out; next to them,
``datasets/<id>.json`` says which objects a dataset is made of, with their sha256. That entry is written last, so what
is listed is complete. Getting one back fetches into DVC's cache, checks every file out into a draft folder,
checks it against its sha256 and only then renames the folder into its place.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow.fs as pafs
import yaml

from market.errors import InputError, LakeError, SettingsError
from market.files import drafting, replacing
from market.lake import storage
from market.lake.errors import sentences
from pipelines.features import dataset_versions
from pipelines.features.featurize import CARD_FILE, DATASET_FILE
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace

FILES: Final = (DATASET_FILE, CARD_FILE)
_INDEX: Final = "datasets"
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_SHORTEST: Final = 4


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file of a dataset: DVC finds it by its md5, we check it against its sha256."""

    name: str
    md5: str
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What is known of a dataset without reading it. ``here``: on this machine; ``stored``: on the remote."""

    dataset_id: str
    dataset_revision: str
    instrument: str
    rows: int
    here: bool = False
    stored: bool = False


@dataclass(frozen=True, kw_only=True)
class ListResult:
    """Result of ``ls``: datasets here and on the remote."""

    remote: str
    datasets: tuple[Dataset, ...]

    def line(self) -> str:
        if not self.datasets:
            return f"no datasets here, and none on {self.remote or 'a remote (KEEL_DATA_REMOTE is not set)'}"
        return "\n".join(
            f"{each.dataset_id}  {each.dataset_revision}  {each.rows:>10,} rows  {each.instrument:<24} "
            + ("here and stored" if each.here and each.stored else "here" if each.here else "stored")
            for each in self.datasets
        )


@dataclass(frozen=True, kw_only=True)
class PutConfig(StageConfig):
    """``dataset`` is an id, or a unique prefix of it. ``pointer``: a file to write for Git, as DVC writes them."""

    dataset: str
    pointer: str = ""


@dataclass(frozen=True, kw_only=True)
class GetConfig(StageConfig):
    """``revision``: a dataset id (or its beginning), a DVC revision, ``INSTRUMENT@VERSION`` of a registered model, or
    with ``pointer`` a Git revision: the pointer file as it was committed then says which dataset it was.
    """

    revision: str
    pointer: str = ""


@dataclass(frozen=True, kw_only=True)
class PutResult:
    """What lies on the remote now."""

    dataset_id: str
    dataset_revision: str
    remote: str
    files: tuple[StoredFile, ...]
    pointer: str = ""

    def line(self) -> str:
        size = sum(file.size for file in self.files)
        said = f"dataset {self.dataset_id} ({size / 1e6:,.1f} MB) is on {self.remote}, DVC revision "
        said += self.dataset_revision
        return said + (f"; {self.pointer} points to it, commit it to Git" if self.pointer else "")


@dataclass(frozen=True, kw_only=True)
class GetResult:
    """What is here now; ``fetched``: it was not before."""

    dataset_id: str
    dataset_revision: str
    path: str
    files: tuple[StoredFile, ...]
    fetched: bool

    def line(self) -> str:
        how = "restored, every file has its sha256" if self.fetched else "is here already, every file has its sha256"
        return f"dataset {self.dataset_id} {how}: {self.path}"


def listed(*, workspace: Workspace) -> ListResult:
    """Datasets of this machine and, where ``KEEL_DATA_REMOTE`` names one, of the remote.

    Raises:
        LakeError: the remote cannot be read.
    """
    found = {each.dataset_id: each for each in _here(workspace)}
    if workspace.data_remote:
        for entry in _entries(workspace.data_remote):
            known = found.get(entry["dataset_id"])
            found[entry["dataset_id"]] = _dataset(entry, here=known is not None, stored=True)
    return ListResult(remote=workspace.data_remote, datasets=tuple(found[each] for each in sorted(found)))


def put(config: PutConfig, *, workspace: Workspace) -> PutResult:
    """Push a dataset; what is there already is not sent again.

    Raises:
        InputError: there is no such dataset here, or several begin so.
        LakeError: its files are not those that it was cut as, or the remote cannot be written.
    """
    remote = _remote(workspace)
    dataset_id = _one([each.dataset_id for each in _here(workspace)], config.dataset, f"in {workspace.datasets}")
    folder = workspace.datasets / dataset_id
    card = _card(folder)
    files = []
    for name in FILES:
        md5 = dataset_versions.commit(workspace.datasets, folder / name)
        sha256 = _sha256(folder / name)
        files.append(StoredFile(name=name, md5=md5, sha256=sha256, size=(folder / name).stat().st_size))
    if not files[0].sha256.startswith(dataset_id):
        raise LakeError(
            f"{folder / DATASET_FILE} is not the file that the dataset was cut as (sha256 {files[0].sha256[:16]}); "
            "remove the folder and get or featurize it again"
        )
    dataset_versions.push(workspace.datasets, [folder / name for name in FILES], remote)
    entry = {
        "dataset_id": dataset_id,
        "dataset_revision": files[0].md5,
        "instrument": card["instrument"],
        "rows": card["rows"],
        "files": [asdict(file) for file in files],
    }
    with sentences(remote, "written"):
        filesystem = storage.storage_of(remote).filesystem()
        _write(filesystem, remote, f"{_INDEX}/{dataset_id}.json", msgspec.json.encode(entry))
    if config.pointer:
        _write_pointer(Path(config.pointer), dataset_id, files[0])
    return PutResult(
        dataset_id=dataset_id,
        dataset_revision=files[0].md5,
        remote=remote,
        files=tuple(files),
        pointer=config.pointer,
    )


def get(config: GetConfig, *, workspace: Workspace) -> GetResult:
    """Restore a dataset byte for byte.

    Raises:
        InputError: nothing that the remote has is meant, or several are; or Git does not know the revision.
        LakeError: an object is missing or damaged: nothing of the dataset is left here then.
    """
    remote = _remote(workspace)
    entry = _found(config, workspace, remote)
    files = tuple(msgspec.convert(entry["files"], tuple[StoredFile, ...]))
    place = workspace.datasets / entry["dataset_id"]
    fetched = not all((place / file.name).is_file() and _sha256(place / file.name) == file.sha256 for file in files)
    if fetched:
        _restore(workspace.datasets, place, files, remote)
    return GetResult(
        dataset_id=entry["dataset_id"],
        dataset_revision=entry["dataset_revision"],
        path=str(place),
        files=files,
        fetched=fetched,
    )


# -- which dataset is meant ---------------------------------------------------------------------------------------


def _found(config: GetConfig, workspace: Workspace, remote: str) -> dict[str, Any]:
    revision = config.revision
    if config.pointer:
        revision = _pointed_at(Path(config.pointer), revision)
    elif "@" in revision:
        revision = _of_version(revision, workspace)
    entries = {entry["dataset_id"]: entry for entry in _entries(remote)}
    if _MD5.fullmatch(revision):
        revision = next((id_ for id_, entry in entries.items() if entry["dataset_revision"] == revision), revision)
    return entries[_one(list(entries), revision, f"on {remote}")]


def _one(known: list[str], begins: str, where: str) -> str:
    """The one id that is meant by its beginning."""
    meant = [each for each in known if each.startswith(begins)] if len(begins) >= _SHORTEST else []
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise InputError(f"{begins!r} is the beginning of {', '.join(sorted(meant))}; write more of it")
    raise InputError(
        f"no dataset {begins!r} {where}; `keel data ls` lists them. Expected an id, or {_SHORTEST} signs or more of it"
    )


def _of_version(text: str, workspace: Workspace) -> str:
    """The dataset that a registered model was trained on."""
    from training.registry.registry import Registry, model_name

    instrument, _, number = text.rpartition("@")
    if not number.isdigit():
        raise InputError(f"expected INSTRUMENT@VERSION like sim-usdm.BTCUSDT@3, saw {text!r}")
    return Registry(workspace.tracking).tags(model_name(instrument), int(number)).get("dataset_id", "")


def _pointed_at(pointer: Path, revision: str) -> str:
    """The DVC revision that a pointer file named, as Git has it at a revision."""
    asked = ["git", "-C", str(pointer.absolute().parent), "show", "--end-of-options", f"{revision}:./{pointer.name}"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)
    if said.returncode:
        raise InputError(f"Git has no {pointer} at {revision!r}: {said.stderr.strip().splitlines()[0]}")
    try:
        return str(yaml.safe_load(said.stdout)["outs"][0]["md5"])
    except (yaml.YAMLError, LookupError, TypeError):
        raise InputError(f"{pointer} at {revision!r} is not a pointer that `keel data put --pointer` wrote") from None


def _write_pointer(pointer: Path, dataset_id: str, file: StoredFile) -> None:
    """A ``.dvc`` file: what DVC itself would write for the dataset's file, and the id."""
    if pointer.suffix != ".dvc":
        raise SettingsError(f"expected a pointer that ends in .dvc, saw {pointer}")
    out = {"md5": file.md5, "size": file.size, "hash": "md5", "path": pointer.stem}
    with replacing(pointer) as draft:
        draft.write_text(yaml.safe_dump({"meta": {"dataset_id": dataset_id}, "outs": [out]}, sort_keys=False))


# -- here ---------------------------------------------------------------------------------------------------------


def _here(workspace: Workspace) -> Iterator[Dataset]:
    for card in sorted(workspace.datasets.glob(f"[!.]*/{CARD_FILE}")):
        yield _dataset(_card(card.parent), here=True)


def _card(folder: Path) -> dict[str, Any]:
    path = folder / CARD_FILE
    try:
        return dict(msgspec.json.decode(path.read_bytes()))
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise LakeError(f"{path} cannot be read: {error}; remove its folder and featurize or get it again") from None


def _dataset(entry: dict[str, Any], *, here: bool = False, stored: bool = False) -> Dataset:
    names = ("dataset_id", "dataset_revision", "instrument", "rows")
    return Dataset(**{name: entry[name] for name in names}, here=here, stored=stored)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _restore(datasets: Path, place: Path, files: tuple[StoredFile, ...], remote: str) -> None:
    """Fetch into a draft next to ``place``, verify every byte, and only then move it into place."""
    try:
        with drafting(place) as draft:
            paths = [draft / file.name for file in files]
            for path, file in zip(paths, files, strict=True):
                dataset_versions.write_pointer(path, md5=file.md5, size=file.size)
            dataset_versions.fetch(datasets, paths, remote)
            for path, file in zip(paths, files, strict=True):
                if _sha256(path) != file.sha256:
                    dataset_versions.forget(datasets, file.md5)
                    raise LakeError(
                        f"{file.name} of dataset {place.name} is damaged on {remote}: its sha256 is not {file.sha256}; "
                        "nothing of it was kept. Put it there again from a machine that has it"
                    )
            if not place.exists():
                draft.replace(place)
                return
            for name in sorted(path.name for path in draft.iterdir()):  # over what is damaged or not whole here
                (draft / name).replace(place / name)
    except OSError as error:
        raise LakeError(f"dataset {place.name} cannot be restored: {error}; make room and run again") from error


# -- the remote ---------------------------------------------------------------------------------------------------


def _remote(workspace: Workspace) -> str:
    if not workspace.data_remote:
        raise SettingsError("expected KEEL_DATA_REMOTE: a folder or s3://bucket/prefix to keep datasets in")
    return storage.storage_of(workspace.data_remote).uri


def _entries(remote: str) -> Iterator[dict[str, Any]]:
    """What the remote says of each of its datasets."""
    with sentences(remote, "read"):
        filesystem = storage.storage_of(remote).filesystem()
        selector = pafs.FileSelector(_INDEX, allow_not_found=True)
        for info in filesystem.get_file_info(selector):
            if info.path.endswith(".json"):
                with filesystem.open_input_stream(info.path) as opened:
                    yield _checked(info.path, opened.read())


def _checked(path: str, content: bytes) -> dict[str, Any]:
    try:
        entry = dict(msgspec.json.decode(content))
        names = tuple(file["name"] for file in entry["files"])
        right = names == FILES and f"{entry['dataset_id']}.json" == path.rpartition("/")[2] and entry["rows"] >= 0
    except (ValueError, LookupError, TypeError, msgspec.DecodeError):
        right = False
    if not right:
        raise LakeError(f"{path} on the remote is not an entry that `keel data put` wrote; put the dataset there again")
    return entry


def _write(filesystem: pafs.FileSystem, remote: str, path: str, content: bytes) -> None:
    """At once: an object is there when it was sent as a whole, a file is renamed into its place."""
    folder = storage.storage_of(remote).folder
    if folder is None:
        with filesystem.open_output_stream(path) as opened:
            opened.write(content)
    else:
        with replacing(folder / path) as draft:
            draft.write_bytes(content)
