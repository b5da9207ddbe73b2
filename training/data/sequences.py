"""From runs of rows to the chunks a network trains on.

A run is cut into *pieces*, each with some rows of the same run before it (*burn-in*: they warm the state up and carry
no loss). Pieces go through the network in lanes side by side, chunk after chunk, the state carried from one chunk of a
piece to the next (truncated backpropagation through time). Which rows are where depends on seed and epoch alone, so an
epoch can be run again exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.data.datasets import Run


@dataclass(frozen=True, kw_only=True)
class Layout:
    """``seq_len`` steps a chunk, ``chunks`` chunks a piece (burn-in included), ``lanes`` pieces a worker."""

    seq_len: int = 64
    burn_in: int = 64
    chunks: int = 16
    lanes: int = 8

    @property
    def rows(self) -> int:
        """Rows of a piece that carry a loss."""
        return self.seq_len * self.chunks - self.burn_in


class Chunk(NamedTuple):
    """``rows`` (B, T) are row numbers, 0 where there is none; ``counts`` (B, T) says which steps carry a loss."""

    rows: NDArray[np.int64]
    counts: NDArray[np.bool_]
    fresh: bool  # the first chunk of its pieces: the state starts from zero


class _Piece(NamedTuple):
    first: int  # burn-in begins here
    start: int  # loss begins here
    stop: int


@dataclass(frozen=True, kw_only=True)
class Share:
    """The lanes of one worker: ``rank`` of ``world``."""

    rank: int = 0
    world: int = 1


def epoch_chunks(runs: list[Run], layout: Layout, share: Share, *, seed: int, epoch: int) -> Iterator[Chunk]:
    """One epoch's chunks of one worker; every worker gets the same number of them."""
    rng = np.random.default_rng([seed, epoch])
    pieces = _cut(runs, layout, offset=int(rng.integers(layout.rows)))
    order = rng.permutation(len(pieces))
    # pieces of like length go together, so that few lanes idle while the longest one ends
    order = order[np.argsort([_length(pieces[i], layout) for i in order], kind="stable")]
    wide = layout.lanes * share.world
    groups = [order[i : i + wide] for i in range(0, len(order), wide)]
    for g in rng.permutation(len(groups)):
        mine = groups[g][share.rank :: share.world]
        chunks = max(_length(pieces[i], layout) for i in groups[g])
        yield from _group([pieces[i] for i in mine], chunks, layout)


def plain_chunks(runs: list[Run], layout: Layout, share: Share) -> Iterator[Chunk]:
    """All rows once, in a fixed order: for validation."""
    pieces = sorted(_cut(runs, layout, offset=0), key=lambda p: _length(p, layout))
    wide = layout.lanes * share.world
    for i in range(0, len(pieces), wide):
        group = pieces[i : i + wide]
        yield from _group(group[share.rank :: share.world], max(_length(p, layout) for p in group), layout)


def count_chunks(runs: list[Run], layout: Layout, world: int, *, seed: int, epoch: int) -> int:
    """Chunks of an epoch, without making them."""
    rng = np.random.default_rng([seed, epoch])
    lengths = sorted(_length(p, layout) for p in _cut(runs, layout, offset=int(rng.integers(layout.rows))))
    wide = layout.lanes * world
    return sum(lengths[min(i + wide, len(lengths)) - 1] for i in range(0, len(lengths), wide))


def _cut(runs: list[Run], layout: Layout, *, offset: int) -> list[_Piece]:
    pieces = []
    for start, stop in runs:
        edges = [start, *range(start + (offset or layout.rows), stop, layout.rows), stop]
        for a, b in pairwise(edges):
            pieces.append(_Piece(first=max(start, a - layout.burn_in), start=a, stop=b))
    return pieces


def _length(piece: _Piece, layout: Layout) -> int:
    return -(-(piece.stop - piece.first) // layout.seq_len)


def _group(pieces: list[_Piece], chunks: int, layout: Layout) -> Iterator[Chunk]:
    lanes, steps = layout.lanes, chunks * layout.seq_len
    rows = np.zeros((lanes, steps), np.int64)
    counts = np.zeros((lanes, steps), bool)
    for lane, piece in enumerate(pieces):
        n = piece.stop - piece.first
        rows[lane, :n] = np.arange(piece.first, piece.stop)
        counts[lane, piece.start - piece.first : n] = True
    for c in range(chunks):
        part = slice(c * layout.seq_len, (c + 1) * layout.seq_len)
        yield Chunk(rows=rows[:, part], counts=counts[:, part], fresh=c == 0)
