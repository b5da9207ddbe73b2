"""Datasets under DVC: each is put under version control the moment it is cut, and its revision travels with the model.

The datasets folder is a DVC repository of its own, without Git, and a revision is the md5 by which DVC addresses the
file. Few large files, as DVC likes them. ``keel data put`` and ``get`` push and fetch
(:mod:`pipelines.features.dataset_remote`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from market.errors import LakeError
from market.files import replacing

# A repository is this file: `dvc init --no-scm` would do no more, but cannot be interrupted and run again.
_CONFIG = """[core]
    no_scm = true
    analytics = false
    check_update = false
    site_cache_dir = {site_cache}
"""
_REMOTE = "keel"  # the name of the remote, while a command runs


def commit(repository: Path, file: Path) -> str:
    """Put ``file``, somewhere under ``repository``, under DVC and return its revision (md5, 32 hex digits).

    The repository is made when there is none. A file that is under DVC already, unchanged, keeps its revision.

    Raises:
        LakeError: DVC could not store it (most often: no space).
    """
    advice = "the dataset itself is untouched. Make room and run featurize again"
    with _opened(repository, f"DVC could not store {file}", advice) as repo:
        repo.add(str(file))
    return revision(file)


def push(repository: Path, files: Sequence[Path], remote: str) -> None:
    """Send files that are under DVC to a remote, a folder or ``s3://bucket/prefix``; what is there is not sent again.

    The remote is in no file: its keys stay in the environment.

    Raises:
        LakeError: the remote cannot be written.
    """
    advice = "look at KEEL_DATA_REMOTE and its keys, and run the same command again: it goes on"
    with _opened(repository, f"DVC could not push to {remote}", advice, remote) as repo:
        repo.push(targets=[_pointer(file) for file in files], remote=_REMOTE)


def fetch(repository: Path, files: Sequence[Path], remote: str) -> None:
    """Bring files whose ``.dvc`` file is there (:func:`write_pointer`) from a remote, by way of DVC's cache.

    Raises:
        LakeError: an object is missing or damaged, or the remote cannot be read.
    """
    advice = "an object is missing or damaged there, or it cannot be reached; nothing was kept"
    with _opened(repository, f"DVC could not fetch from {remote}", advice, remote) as repo:
        targets = [_pointer(file) for file in files]
        repo.fetch(targets=targets, remote=_REMOTE)
        repo.checkout(targets=targets, force=True)


def write_pointer(file: Path, *, md5: str, size: int) -> None:
    """The ``.dvc`` file of a file that is to be fetched."""
    out = {"md5": md5, "size": size, "hash": "md5", "path": file.name}
    Path(_pointer(file)).write_text(yaml.safe_dump({"outs": [out]}, sort_keys=False))


def forget(repository: Path, md5: str) -> None:
    """Remove an object from DVC's cache: it is not what its name says."""
    with _opened(repository, "DVC's cache cannot be changed", "remove .dvc/cache") as repo:
        held = Path(repo.cache.local.oid_to_path(md5))
        held.unlink(missing_ok=True)


@contextmanager
def _opened(repository: Path, trouble: str, advice: str, remote: str = "") -> Iterator[Any]:
    """DVC at work in ``repository``, which is made when there is none."""
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    _ensure_repository(repository)
    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    from pipelines.features import dvc_s3

    dvc_s3.register()
    config = {"remote": {_REMOTE: {"url": remote, "verify": True}}} if remote else None
    try:
        with Repo(str(repository), config=config) as repo:
            yield repo
    except (DvcException, OSError) as error:
        raise LakeError(f"{trouble}: {error}; {advice}") from error


def _pointer(file: Path) -> str:
    return str(file.with_name(f"{file.name}.dvc"))


def revision(file: Path) -> str:
    """The revision that DVC knows ``file`` by.

    Raises:
        LakeError: it is not under DVC, or its ``.dvc`` file is not readable.
    """
    path = Path(_pointer(file))
    try:
        stage: Any = yaml.safe_load(path.read_text())
        return str(stage["outs"][0]["md5"])
    except (OSError, yaml.YAMLError, LookupError, TypeError) as error:
        raise LakeError(f"{path} does not say which revision {file.name} is: {error!r}; run featurize again") from error


def _ensure_repository(repository: Path) -> None:
    config = repository / ".dvc" / "config"
    if config.exists():
        return
    with replacing(config) as draft:
        draft.write_text(_CONFIG.format(site_cache=(repository / ".dvc" / "site").absolute()))
