"""Permission denied, and a recording that somebody still writes: a sentence, an unharmed lake, and the rest later."""

from __future__ import annotations

import gzip
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.forked import Forked
from kit.landed_lake import contents
from kit.wire_frames import ToyExchange, stamped, write_lines

from market.errors import EmptyDataError, InputError, KeelError, LakeError
from market.feeds.landing import Lander, unfinished
from market.lake.lake import Lake
from pipelines.ingestion.ingest import IngestConfig, ingest
from pipelines.workspace import Workspace


def lines(seconds: float = 300) -> list[bytes]:
    return list(stamped(ToyExchange(seed=12).session(seconds=seconds, rate=10)))


def rows(lake: Lake) -> dict[str, list[dict]]:
    """What was landed, but for the source's name."""
    return {table: [{**row, "source": ""} for row in found] for table, found in contents(lake).items()}


# -- permission denied ------------------------------------------------------------------------------------------------


def run_by_nobody(home: Path, recording: Path, verb: str) -> tuple[int, str]:
    """Exit code and sentence of a run by an account that owns nothing; it does not come back from there."""
    workspace = Workspace(home=home)
    with tempfile.TemporaryDirectory() as elsewhere:  # imports and loads all that it needs while it may read it
        path = Path(elsewhere) / "toy.gz"
        path.write_bytes(recording.read_bytes())
        ingest(IngestConfig(files=(str(path),)), workspace=Workspace(home=Path(elsewhere)))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        if verb == "compact":
            Lake(workspace.lake).compact("raw")
        else:
            ingest(IngestConfig(files=(str(recording),)), workspace=workspace)
    except KeelError as error:
        return error.exit_code, f"{type(error).__name__} {error}"
    return 0, ""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that others may pass through, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def by_nobody(home: Path, recording: Path, verb: str = "ingest") -> tuple[int, str]:
    code, said = Forked(run_by_nobody, home, recording, verb).answer()
    return int(code), str(said)


def given(place: Path, *, landed: float = 0) -> tuple[Workspace, Path]:
    """A home whose lake holds the first ``landed`` seconds, and a recording of more."""
    workspace = Workspace(home=place / "home")
    if landed:
        ingest(IngestConfig(files=(str(write_lines(place / "first.gz", lines(landed))),)), workspace=workspace)
    return workspace, write_lines(place / "toy.gz", lines())


def forbid(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.mark.parametrize("landed", [0, 120], ids=["an empty lake", "a lake with data"])
def test_a_lake_that_may_not_be_written_is_said_and_stays_as_it_was(place, landed):
    workspace, recording = given(place, landed=landed)
    Path(workspace.lake).mkdir(parents=True, exist_ok=True)
    before = rows(Lake(workspace.lake))
    forbid(workspace.home)
    code, said = by_nobody(workspace.home, recording)
    assert code == LakeError.exit_code, said
    assert "permission denied" in said.lower()
    assert "KEEL_HOME" in said
    assert rows(Lake(workspace.lake)) == before


@pytest.mark.parametrize("table", ["raw", "ticks", "quarantine"])
def test_a_table_that_may_not_be_written_is_said_and_once_it_may_the_rest_is_landed(place, table):
    workspace, recording = given(place, landed=120)
    bad = lines()
    bad[1500] = bad[1500][:70]
    write_lines(recording, bad)
    undisturbed = Workspace(home=place / "undisturbed")
    for each in (place / "first.gz", recording):
        ingest(IngestConfig(files=(str(each),)), workspace=undisturbed)
    (Path(workspace.lake) / table).mkdir(exist_ok=True)
    for path in (workspace.home, *workspace.home.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    forbid(Path(workspace.lake) / table)
    code, said = by_nobody(workspace.home, recording)
    assert code == LakeError.exit_code, said
    assert "permission denied" in said.lower()
    assert table in said
    for path in (Path(workspace.lake) / table, *(Path(workspace.lake) / table).rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    assert by_nobody(workspace.home, recording) == (0, "")
    assert contents(Lake(workspace.lake)) == contents(Lake(undisturbed.lake))
    assert unfinished(Lake(workspace.lake)) == []


def test_a_recording_that_may_not_be_read_is_said_before_anything_is_landed(place):
    workspace, recording = given(place)
    recording.chmod(0o000)  # root reads it all the same
    workspace.home.mkdir()
    workspace.home.chmod(0o777)
    code, said = by_nobody(workspace.home, recording)
    assert code == InputError.exit_code
    assert "permission denied" in said.lower()
    assert str(recording) in said
    assert not Path(workspace.lake).exists() or contents(Lake(workspace.lake))["raw"] == []


def test_compaction_of_what_may_not_be_written_is_said_and_changes_nothing(place):
    workspace, recording = given(place, landed=120)
    ingest(IngestConfig(files=(str(recording),)), workspace=workspace)
    lake = Lake(workspace.lake)
    before, version = contents(lake), lake.version("raw")
    assert len(lake.files("raw")) > 1
    forbid(Path(workspace.lake))
    code, said = by_nobody(workspace.home, recording, "compact")
    assert code == LakeError.exit_code, said
    assert "permission denied" in said.lower()
    assert (contents(lake), lake.version("raw")) == (before, version)


# -- a file that grows ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def landed_at_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("at-once")
    workspace = Workspace(home=folder / "home")
    ingest(IngestConfig(files=(str(write_lines(folder / "toy.gz", lines())),)), workspace=workspace)
    return rows(Lake(workspace.lake))


def as_text(data: bytes) -> bytes:
    return data


def as_members(data: bytes) -> bytes:
    half = len(data) // 2
    return gzip.compress(data[:half], mtime=0) + gzip.compress(data[half:], mtime=0)


def as_flushed(data: bytes) -> bytes:
    """One member that is flushed now and then, as a recorder writes it."""
    packer = zlib.compressobj(wbits=31)
    packed = b"".join(
        packer.compress(data[at : at + 20_000]) + packer.flush(zlib.Z_SYNC_FLUSH) for at in range(0, len(data), 20_000)
    )
    return packed + packer.flush()


@pytest.mark.parametrize("packed", [as_text, as_members, as_flushed])
def test_a_growing_recording_is_landed_once_in_as_many_parts_as_it_is_read(packed, landed_at_once, tmp_path):
    data = packed(b"".join(line + b"\n" for line in lines()))
    workspace, path = Workspace(home=tmp_path / "home"), tmp_path / "toy.txt"
    lake, seen = Lake(workspace.lake), []
    for share in (0.2, 0.2, 0.431, 0.777, 0.9999):
        path.write_bytes(data[: int(len(data) * share)])
        [one] = ingest(IngestConfig(files=(str(path),), growing="still"), workspace=workspace).landed
        seen.append(one.new_frames)
        assert (one.quarantined, one.truncated) == ({}, False), "half a line is no bad frame"
        raw = rows(lake)["raw"]
        assert raw == landed_at_once["raw"][: len(raw)]
    path.write_bytes(data)
    [one] = ingest(IngestConfig(files=(str(path),), growing="ended"), workspace=workspace).landed
    assert rows(lake) == landed_at_once
    assert seen[1] == 0
    assert sum(seen) + one.new_frames == len(landed_at_once["raw"])
    assert unfinished(lake) == []


def test_what_grows_after_its_end_is_refused_and_what_has_ended_may_be_given_again(landed_at_once, tmp_path):
    workspace, path = Workspace(home=tmp_path / "home"), tmp_path / "toy.txt"
    write_lines(path, lines())
    for growing in ("ended", "ended", "still"):
        ingest(IngestConfig(files=(str(path),), growing=growing), workspace=workspace)
    assert rows(Lake(workspace.lake)) == landed_at_once
    with path.open("ab") as file:
        file.write(lines()[-1] + b"\n")
    with pytest.raises(InputError, match="has grown after it was said to have ended"):
        ingest(IngestConfig(files=(str(path),), growing="still"), workspace=workspace)
    assert rows(Lake(workspace.lake)) == landed_at_once


def test_a_recording_without_a_whole_line_is_waited_for(tmp_path):
    path = tmp_path / "toy.txt"
    path.write_bytes(lines()[0])  # its end is not there
    with pytest.raises(EmptyDataError):
        ingest(IngestConfig(files=(str(path),), growing="still"), workspace=Workspace(home=tmp_path / "home"))


def test_a_recording_that_grows_while_it_is_read_is_said(tmp_path, monkeypatch):
    workspace, path = Workspace(home=tmp_path / "home"), tmp_path / "toy.txt"
    write_lines(path, lines())
    feed = Lander.feed

    def feed_and_grow(lander, number, recv_ns, payload):
        if number == 100:
            with path.open("ab") as file:
                file.write(lines()[-1] + b"\n")
        return feed(lander, number, recv_ns, payload)

    monkeypatch.setattr(Lander, "feed", feed_and_grow)
    with pytest.raises(InputError, match=r"toy.txt was written to while it was read.*growing=still"):
        ingest(IngestConfig(files=(str(path),)), workspace=workspace)


def test_a_table_cannot_be_landed_while_it_grows(tmp_path):
    path = tmp_path / "MSFT_2012-06-21_34200000_57600000_message_50.csv"
    path.write_text("34200.1,1,7,100,308700,1\n")
    with pytest.raises(InputError, match="only lines"):
        ingest(IngestConfig(files=(str(path),), growing="still"), workspace=Workspace(home=tmp_path / "home"))
