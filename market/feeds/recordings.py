"""Recordings on disk: which venue they come from, which files they consist of, and what an archive of several holds."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from market.errors import CaptureError, EmptyDataError, InputError
from market.sources import source_of
from market.venues import registry
from market.venues.formats import archives
from market.venues.protocol import SEVERAL, Venue

_ID_DIGITS: Final = 16


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording of one venue; ``key`` is that of its instrument, with the symbol :data:`SEVERAL` where it has more.

    ``origin`` is its display name: its file name, and that of the archive which holds it.
    """

    path: Path
    origin: str
    venue: Venue
    key: str

    @property
    def several(self) -> bool:
        return self.key.partition(".")[2] == SEVERAL

    def source(self) -> str:
        """Its source id: of the bytes, not of the name.

        Raises:
            InputError: a file cannot be read.
        """
        ids = [source_of(part) for part in self.venue.parts(self.path)]
        if len(ids) == 1:
            return ids[0]
        return f"file-{hashlib.sha256(' '.join(ids).encode()).hexdigest()[:_ID_DIGITS]}"


@contextmanager
def opened(paths: Iterable[Path], venue: Venue | None = None) -> Iterator[list[Recording]]:
    """All recordings in the files; those in archives are unpacked for the duration of the block.

    A file that belongs to another file's recording is not a recording on its own.

    Raises:
        InputError: a file is missing or cannot be read.
        CaptureError: a file is neither a recording of a known venue (of ``venue``, if given) nor an archive of
            recordings.
        EmptyDataError: a file is empty.
    """
    with tempfile.TemporaryDirectory(prefix="keel-") as folder:
        found: list[Recording] = []
        for n, path in enumerate(dict.fromkeys(paths)):
            recording = _recording(path, path.name, venue)
            found += [recording] if recording else _inside(path, Path(folder) / str(n), venue)
        taken = {part.resolve() for each in found for part in each.venue.parts(each.path) if part != each.path}
        yield [each for path, each in {each.path.resolve(): each for each in found}.items() if path not in taken]


def _recording(path: Path, origin: str, asked: Venue | None) -> Recording | None:
    """The first venue that recognises the file; damage is reported only if none does."""
    problem: CaptureError | None = None
    for venue in (asked,) if asked else registry.VENUES:
        try:
            key = venue.recognise(path)
        except CaptureError as error:
            problem = error
            continue
        except EmptyDataError:
            raise EmptyDataError(f"{origin} holds no frames; give a recording that is not empty") from None
        if key is not None:
            first = venue.parts(path)[0]  # of several files, the one that identifies it
            return Recording(path=first, origin=origin.removesuffix(path.name) + first.name, venue=venue, key=key)
    if problem:
        raise problem
    return None


def _inside(path: Path, folder: Path, venue: Venue | None) -> list[Recording]:
    """The recordings in an archive; every member must belong to one."""
    unpacked = _unpacked(path, folder)
    found = {member: _recording(member, f"{path.name}:{name}", venue) for name, member in unpacked.items()}
    recordings = list({each.path: each for each in found.values() if each}.values())
    parts = {part for each in recordings for part in each.venue.parts(each.path)}
    strange = [member for member in found if member not in parts]
    if strange or not recordings:
        names = ", ".join(str(member.relative_to(folder)) for member in strange[:3]) or path.name
        wanted = venue.name if venue else "any known venue"
        raise CaptureError(
            f"{path.name if not unpacked else names} is not a recording of {wanted}; give a recorded capture as it "
            "came (docs/venues.md lists what can be read)"
        )
    return recordings


def _unpacked(path: Path, folder: Path) -> dict[str, Path]:
    """Every member of an archive as a file in ``folder``, by its name; none if it is not an archive of several."""
    files: dict[str, Path] = {}
    for name, member in archives.members(path):
        if name == path.name:
            return {}
        target = (folder / name).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise InputError(f"{path.name} has a member {name!r} outside the archive; unpack it by hand and check it")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            file.writelines(archives.pieces(path, member))
        files[name] = target
    return files
