"""No room for a table: a sentence that says what to do, nothing half-written, and the next run completes the work."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest
from kit.forked import Forked
from kit.landed_lake import contents
from kit.wire_frames import ToyExchange, stamped, write_lines

from market.errors import LakeError
from market.lake.lake import Lake
from pipelines.ingestion.ingest import IngestConfig, ingest
from pipelines.workspace import Workspace

FREE = 1_500_000  # bytes


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    lines = stamped(ToyExchange(seed=5).session(seconds=900, rate=40))
    return write_lines(tmp_path_factory.mktemp("recording") / "toy.gz", lines)


@pytest.fixture(scope="module")
def undisturbed(recording, tmp_path_factory):
    workspace = Workspace(home=tmp_path_factory.mktemp("undisturbed"))
    ingest(IngestConfig(files=(str(recording),)), workspace=workspace)
    return contents(Lake(workspace.lake))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with hardly any room."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = os.geteuid() == 0 and _run("mount", "-t", "tmpfs", "-o", f"size={FREE}", "tmpfs", str(folder))
    if not mounted:
        pytest.skip("mounting a small file system is not allowed here; the limit on file size is tested instead")
    yield folder
    _run("umount", str(folder))


def _run(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_a_full_disk_stops_ingest_with_a_sentence_and_room_lets_it_go_on(recording, undisturbed, small_disk):
    workspace = Workspace(home=small_disk / "home")
    with pytest.raises(LakeError, match=r"no space left on its disk. Free some space and run the same command again"):
        ingest(IngestConfig(files=(str(recording),)), workspace=workspace)
    assert len(contents(Lake(workspace.lake))["raw"]) < len(undisturbed["raw"])
    assert _run("mount", "-o", "remount,size=64m", str(small_disk))
    result = ingest(IngestConfig(files=(str(recording),)), workspace=workspace)
    assert 0 < result.landed[0].new_frames < len(undisturbed["raw"])
    assert contents(Lake(workspace.lake)) == undisturbed


def test_a_full_disk_stops_compaction_with_a_sentence_and_harms_nothing(recording, undisturbed, small_disk):
    assert _run("mount", "-o", "remount,size=64m", str(small_disk))
    workspace = Workspace(home=small_disk / "home")
    ingest(IngestConfig(files=(str(recording),)), workspace=workspace)
    lake = Lake(workspace.lake)
    assert len(lake.files("raw")) > 1
    used = os.statvfs(small_disk)
    taken = (used.f_blocks - used.f_bfree) * used.f_frsize
    assert _run("mount", "-o", f"remount,size={taken + 16_384}", str(small_disk))
    with pytest.raises(LakeError, match=r"no space left on its disk. Free some space and run the same command again"):
        lake.compact("raw")
    assert contents(lake) == undisturbed
    assert _run("mount", "-o", "remount,size=64m", str(small_disk))
    lake.compact("raw")
    assert len(lake.files("raw")) == 2  # the recording runs past midnight
    assert contents(lake) == undisturbed


def ingest_limited(home: Path, recording: Path, limit: int) -> tuple[int, str]:
    """Exit code and sentence of a run whose files may have so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        ingest(IngestConfig(files=(str(recording),)), workspace=Workspace(home=home))
    except LakeError as error:
        return error.exit_code, str(error)
    return 0, ""


def test_a_limit_on_file_size_is_said_and_lifting_it_lets_ingest_go_on(recording, undisturbed, tmp_path):
    workspace = Workspace(home=tmp_path / "home")
    code, said = Forked(ingest_limited, workspace.home, recording, 20_000).answer()
    assert code == LakeError.exit_code, said
    assert "no space left on its disk" in said
    ingest(IngestConfig(files=(str(recording),)), workspace=workspace)
    assert contents(Lake(workspace.lake)) == undisturbed
