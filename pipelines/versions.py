"""Datasets under DVC: each is put under version control the moment it is cut, and its revision travels with the model.

The datasets folder is a DVC repository of its own, without Git: ``dvc push`` and ``dvc pull`` work in it once a remote
is configured, and a revision is the md5 by which DVC addresses the file. Few large files, as DVC likes them.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import yaml

from market.errors import LakeError
from pipelines.workspace import replacing

# A repository is this file: `dvc init --no-scm` would do no more, but cannot be interrupted and run again.
_CONFIG = """[core]
    no_scm = true
    analytics = false
    check_update = false
    site_cache_dir = {site_cache}
"""


def commit(repository: Path, file: Path) -> str:
    """Put ``file``, somewhere under ``repository``, under DVC and answer its revision (md5, 32 hex digits).

    The repository is made when there is none. A file that is under DVC already, unchanged, keeps its revision.

    Raises:
        LakeError: DVC could not store it (most often: no space).
    """
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    _ensure_repository(repository)
    logging.getLogger("dvc").setLevel(logging.ERROR)
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(repository)) as repo:
            repo.add(str(file))
    except (DvcException, OSError) as error:
        raise LakeError(
            f"DVC could not store {file}: {error}; the dataset itself is untouched. Make room and run featurize again"
        ) from error
    return revision(file)


def revision(file: Path) -> str:
    """The revision that DVC knows ``file`` by.

    Raises:
        LakeError: it is not under DVC, or its ``.dvc`` file is not readable.
    """
    path = file.with_name(f"{file.name}.dvc")
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
