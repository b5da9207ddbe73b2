"""Files and folders that appear as a whole: written beside their place under a draft's name, then renamed over it.

A draft's name ends in the id of the process that writes it. Whoever writes into the same folder next removes the drafts
of processes that are gone, so what a kill -9 leaves behind does not stay.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def draft_of(path: Path) -> Path:
    """Where to write what is then renamed to ``path``; nothing is there. The folder around it is made.

    The folder must be one that only processes of this machine write into.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    for left in path.parent.glob(".*.tmp"):
        if left == draft or _writer_is_gone(left):
            remove_draft(left)
    return draft


def remove_draft(draft: Path) -> None:
    """Remove a draft that is not wanted, file or folder; nothing happens where it is not there."""
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file so that nobody reads half of it: yields a sibling to write, then renames it over ``path``."""
    draft = draft_of(path)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def drafting(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside ``path``, which is gone afterwards unless the caller renamed it."""
    draft = draft_of(path)
    try:
        draft.mkdir()
        yield draft
    finally:
        remove_draft(draft)


@contextmanager
def replacing_folder(path: Path, *, beside: Path | None = None) -> Iterator[Path]:
    """Write a folder so that nobody sees half of it: yields an empty folder to fill, then renames it to ``path``.

    A folder cannot be renamed over a full one: the old one steps aside first and is then removed, so a kill leaves the
    old folder, the new one, or for a moment none, and never a part of one. Both wait beside ``beside``, a place on the
    same file system, where a reader would take what lies beside ``path`` for its own.
    """
    beside = beside or path
    with drafting(beside) as draft:
        yield draft
        path.parent.mkdir(parents=True, exist_ok=True)
        old = beside.with_name(f".{beside.name}.old.{os.getpid()}.tmp")  # named as a draft, to be removed as one
        remove_draft(old)
        if path.exists():
            path.replace(old)
        draft.replace(path)
        remove_draft(old)


def _writer_is_gone(draft: Path) -> bool:
    pid = draft.name.split(".")[-2]
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
