"""Files and folders are replaced whole or not at all, and drafts of killed processes are removed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from market.files import drafting, replacing, replacing_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from market.files import replacing_folder
with replacing_folder(Path(sys.argv[1])) as draft:
    (draft / "new").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    place = tmp_path / "models" / "1"
    for text in ("old", "new"):
        with replacing_folder(place) as draft:
            assert not list(draft.iterdir())
            (draft / text).write_text(text)
        assert contents(tmp_path) == {f"models/1/{text}": text}


def test_an_error_leaves_the_old_folder_and_no_draft(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "docs") as draft:
        (draft / "old").write_text("old")

    def fail() -> None:
        with replacing_folder(tmp_path / "docs") as draft:
            (draft / "new").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert contents(tmp_path) == {"docs/old": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["docs"]


def test_drafts_wait_where_the_readers_of_the_place_do_not_look(tmp_path: Path) -> None:
    place, beside = tmp_path / "repository" / "1", tmp_path / ".drafts" / "1"
    for text in ("old", "new"):
        with replacing_folder(place, beside=beside) as draft:
            assert draft.parent == beside.parent
            (draft / "file").write_text(text)
    assert contents(tmp_path) == {"repository/1/file": "new"}


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    place = tmp_path / "docs"
    with replacing_folder(place) as draft:
        (draft / "old").write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(place)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert contents(place) == {"old": "old"}
    assert len(list(tmp_path.iterdir())) == 2
    with replacing(tmp_path / "card.json") as file:
        file.write_text("{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "docs"]


def test_a_draft_folder_that_was_not_renamed_is_gone_afterwards(tmp_path: Path) -> None:
    with drafting(tmp_path / "bundle") as draft:
        (draft / "file").write_text("wanted")
        (draft / "file").replace(tmp_path / "file")
    assert contents(tmp_path) == {"file": "wanted"}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
