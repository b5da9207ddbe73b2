"""A ring of records in shared memory: one writer, any number of readers, no locks, callable from compiled code.

Record ``k`` (from 1) is in slot ``(k - 1) % slots`` behind a *sequence word*. The writer sets the word to ``2k - 1``,
``2k - 1``, copies the record, then sets it to ``2k``; a reader of record ``k`` accepts the bytes only if the word was
``2k`` before and after copying. A larger word means that the writer has wrapped around: the reader counts what it lost
and resumes half a ring behind the writer. (A sequence lock per slot; see Boehm, "Can Seqlocks Get Along with
Programming Language Memory Models?", 2012, for why the fences are where they are.)

The ring is a file in memory (``/dev/shm``), not :mod:`multiprocessing.shared_memory`, whose tracker in Python 3.11
removes a segment as soon as any process that attached to it ends.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from market.bus.atomics import copy_bytes, fence, load_acquire, store_release
from market.bus.protocol import Records, layout_of
from market.compiled import compiled
from market.errors import InputError, ServiceError

# header words; those that change have their own cache line
_MAGIC: Final = 0
_SLOTS: Final = 1
_STRIDE: Final = 2
_SIZE: Final = 3
_DTYPE: Final = 4
_OWNER: Final = 5
_HEAD: Final = 8  # records published
_STOP: Final = 16
_HEADER: Final = 24
_READY: Final = 0x6B65656C72696E67  # "keelring", written last

# a reader's cursor: three int64 words
NEXT: Final = 0  # the record it reads next, from 1
LOST: Final = 1
CURSOR: Final = 2


@compiled
def push(ring: int, record: int) -> int:
    """Append the record at address ``record`` to the ring mapped at address ``ring``; returns its number."""
    k: int = load_acquire(ring + 8 * _HEAD) + 1
    size = load_acquire(ring + 8 * _SIZE)
    slot = ring + 8 * _HEADER + ((k - 1) & (load_acquire(ring + 8 * _SLOTS) - 1)) * load_acquire(ring + 8 * _STRIDE)
    store_release(slot, 2 * k - 1)
    fence()
    copy_bytes(slot + 8, record, size)
    store_release(slot, 2 * k)
    store_release(ring + 8 * _HEAD, k)
    return k


@compiled
def pop(ring: int, cursor: NDArray[np.int64], record: int) -> bool:
    """Copy the next record to address ``record``; False when there is none. Advances ``cursor`` and counts losses."""
    slots = load_acquire(ring + 8 * _SLOTS)
    stride = load_acquire(ring + 8 * _STRIDE)
    size = load_acquire(ring + 8 * _SIZE)
    while True:
        k = cursor[NEXT]
        slot = ring + 8 * _HEADER + ((k - 1) & (slots - 1)) * stride
        word = load_acquire(slot)
        if word < 2 * k:
            return False
        if word == 2 * k:
            copy_bytes(record, slot + 8, size)
            fence()
            if load_acquire(slot) == word:
                cursor[NEXT] = k + 1
                return True
        # the writer has wrapped around: it will not reach the slot half a ring behind it at once
        oldest = max(load_acquire(ring + 8 * _HEAD) - slots // 2, k) + 1
        cursor[LOST] += oldest - k
        cursor[NEXT] = oldest


@compiled
def is_stopped(ring: int) -> bool:
    """Whether the writer has closed the ring (there may be records left to read)."""
    return bool(load_acquire(ring + 8 * _STOP) != 0)


@compiled
def _push_all(ring: int, records: int, count: int, itemsize: int) -> None:
    for i in range(count):
        push(ring, records + i * itemsize)


@compiled
def _pop_all(ring: int, cursor: NDArray[np.int64], records: int, count: int, itemsize: int) -> int:
    for i in range(count):
        if not pop(ring, cursor, records + i * itemsize):
            return i
    return count


class ShmRing:
    """A named ring. Make it with :meth:`create` in the writer, :meth:`attach` in readers, and close it.

    ``address`` is where it is mapped in this process, for compiled code.
    """

    def __init__(self, path: Path, memory: mmap.mmap, dtype: np.dtype[np.void], *, owner: bool) -> None:
        self.path = path
        self.dtype = dtype
        self._memory = memory
        self._owner = owner
        self._words = np.frombuffer(memory, dtype=np.int64)
        self.address = int(self._words.ctypes.data)

    @classmethod
    def create(cls, name: str, dtype: np.dtype[np.void], slots: int) -> ShmRing:
        """A new ring with room for ``slots`` records of ``dtype``, rounded up to a power of two.

        A ring that a dead process left under this name is replaced.

        Raises:
            InputError: ``slots`` is below 2.
            ServiceError: a running process owns the name, or there is not enough memory.
        """
        if slots < 2:
            raise InputError(f"expected at least 2 slots for ring {name!r}, saw {slots}")
        slots = 1 << (slots - 1).bit_length()
        path = _path(name)
        _remove_left_over(path)
        stride = 8 + -(-dtype.itemsize // 8) * 8
        try:
            memory = _map_new(path, 8 * _HEADER + slots * stride)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise ServiceError(
                f"cannot make ring {name!r} of {slots} x {stride} bytes: {error.strerror}; choose fewer slots"
            ) from None
        ring = cls(path, memory, dtype, owner=True)
        header = {_SLOTS: slots, _STRIDE: stride, _SIZE: dtype.itemsize, _DTYPE: layout_of(dtype), _OWNER: os.getpid()}
        for word, value in header.items():
            ring._words[word] = value
        ring._words[_MAGIC] = _READY
        return ring

    @classmethod
    def attach(cls, name: str, dtype: np.dtype[np.void]) -> ShmRing:
        """Attach to the ring that another process (or this one) created.

        Raises:
            ServiceError: there is no such ring, or it is not ready.
            InputError: it holds records of another dtype.
        """
        path = _path(name)
        try:
            with path.open("r+b") as file:
                memory = mmap.mmap(file.fileno(), 0)
        except (OSError, ValueError):
            raise ServiceError(f"there is no ring {name!r}; start its writer first") from None
        ring = cls(path, memory, dtype, owner=False)
        if ring._words[_MAGIC] != _READY:
            ring.close()
            raise ServiceError(f"ring {name!r} is not ready; try again, or start its writer")
        if ring._words[_DTYPE] != layout_of(dtype):
            ring.close()
            raise InputError(f"ring {name!r} does not carry {dtype.names}; writer and reader are of different versions")
        return ring

    @property
    def slots(self) -> int:
        return int(self._words[_SLOTS])

    @property
    def published(self) -> int:
        """How many records have been published."""
        return int(self._words[_HEAD])

    def publish(self, records: Records) -> None:
        """Append ``records`` (n,). Never waits; readers that fall behind lose the oldest."""
        records = np.ascontiguousarray(records, dtype=self.dtype)
        _push_all(self.address, int(records.ctypes.data), len(records), self.dtype.itemsize)

    def stop(self) -> None:
        """Tell readers that no more records will come."""
        self._words[_STOP] = 1

    def subscribe(self, *, from_start: bool = False) -> ShmSubscriber:
        """A reader that starts with the next record, or with the oldest that may still be there."""
        return ShmSubscriber(self, 1 if from_start else self.published + 1)

    def close(self) -> None:
        """Unmap; the owner also removes the name. Attached processes keep their mapping."""
        if self._owner:
            self.path.unlink(missing_ok=True)
            self._owner = False
        self.address = 0
        self._words = np.empty(0, dtype=np.int64)
        with contextlib.suppress(BufferError):  # a view of it is still in use: unmapped with its last user
            self._memory.close()

    def __enter__(self) -> ShmRing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ShmSubscriber:
    """One reader's place in a ring. ``cursor`` is what compiled readers use."""

    def __init__(self, ring: ShmRing, first: int) -> None:
        self.ring = ring
        self.cursor = np.array([first, 0], dtype=np.int64)

    def poll(self, limit: int) -> Records:
        out = np.empty(min(limit, self.ring.slots), dtype=self.ring.dtype)
        n = _pop_all(self.ring.address, self.cursor, int(out.ctypes.data), len(out), out.itemsize)
        return out[:n]

    @property
    def lost(self) -> int:
        return int(self.cursor[LOST])

    @property
    def stopped(self) -> bool:
        return is_stopped(self.ring.address) and int(self.cursor[NEXT]) > self.ring.published


def _path(name: str) -> Path:
    if not name or not all(c.isalnum() or c in "-_." for c in name):
        raise InputError(f"expected a ring name of letters, digits and -_. , saw {name!r}")
    memory = Path("/dev/shm")  # noqa: S108
    return (memory if memory.is_dir() else Path(tempfile.gettempdir())) / f"quotekeel-{name}"


def _map_new(path: Path, size: int) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)  # fail now, rather than with a bus error when memory runs out later
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def _remove_left_over(path: Path) -> None:
    try:
        header = np.frombuffer(path.read_bytes()[: 8 * _HEADER], dtype=np.int64)
    except FileNotFoundError:
        return
    owner = int(header[_OWNER]) if len(header) == _HEADER else 0
    if owner > 0 and _alive(owner):
        raise ServiceError(f"{path.name} is in use by process {owner}; stop it, or choose another name")
    path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
