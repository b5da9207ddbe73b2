"""Files and folders that appear atomically: written next to their target under a draft name, then renamed over it.

A draft's name ends in the id of the process that writes it. The next process that writes into the same folder removes
the drafts of dead processes, so the leftovers of a kill -9 do not stay.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def draft_of(path: Path) -> Path:
    """The path of a draft that will be renamed to ``path``; nothing exists there. Creates the parent folder.

    Only processes of this machine may write into the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    for left in path.parent.glob(".*.tmp"):
        if left == draft or _writer_is_gone(left):
            remove_draft(left)
    return draft


def remove_draft(draft: Path) -> None:
    """Remove an unwanted draft, file or folder; does nothing if there is none."""
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file so that no reader sees half of it: yields a sibling to write, then renames it over ``path``."""
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
