"""What the compiled steps of several families share: products, tanh and sigmoid, heads, and how weights are packed.

Sums are reordered and contracted, and tanh is a rational function, so results equal ONNX Runtime's to about 1e-6, not
to the bit; the golden vectors of a bundle hold it to 1e-5.

Why it is fast: weights are kept transposed, so that one input multiplies a contiguous row for all units at once, and
eight rows are taken in a pass, so that a sum is loaded and stored once for eight products. Widths are padded with zeros
to whole vectors; a padded unit stays exactly 0 and touches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from market.compiled import compiled, compiled_fast
from market.heads import DIRECTIONS, GROUP
from serving.manifest import Manifest

Floats = NDArray[np.float32]
Int64s = NDArray[np.int64]

UNITS: Final = 16  # widths are padded to a multiple of this
PASS: Final = 8  # rows taken in one pass

# tanh(x) = x p(x^2) / q(x^2) for |x| <= 7.9, beyond that +-1 in float32 (the rational minimax fit of Eigen's ptanh)
_TANH_END: Final = np.float32(7.90531110763549805)
_P13: Final = np.float32(-2.76076847742355e-16)
_P11: Final = np.float32(2.00018790482477e-13)
_P9: Final = np.float32(-8.60467152213735e-11)
_P7: Final = np.float32(5.12229709037114e-08)
_P5: Final = np.float32(1.48572235717979e-05)
_P3: Final = np.float32(6.37261928875436e-04)
_P1: Final = np.float32(4.89352455891786e-03)
_Q6: Final = np.float32(1.19825839466702e-06)
_Q4: Final = np.float32(1.18534705686654e-04)
_Q2: Final = np.float32(2.26843463243900e-03)
_Q0: Final = np.float32(4.89352518554385e-03)
_HALF: Final = np.float32(0.5)


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """A network as compiled code takes it: all weights in one float32 array, ``layout`` (int64) says where what lies
    and begins with the family's number, ``memory`` floats are carried and worked in, the state first."""

    layout: Int64s
    weights: Floats
    memory: int


def packed(number: int, widths: tuple[int, ...], weights: tuple[Floats, ...], memory: int) -> Packed:
    """``weights`` one after the other, on a cache line."""
    flat = _on_cache_line(sum(each.size for each in weights))
    flat[:] = np.concatenate([each.ravel() for each in weights])
    return Packed(layout=np.array((number, *widths), np.int64), weights=flat, memory=memory)


def fresh_memory(size: int) -> Floats:
    """Room for a network that has seen nothing."""
    return _on_cache_line(size)


def _on_cache_line(size: int) -> Floats:
    room = np.zeros(size + 16, np.float32)
    skip = -(room.ctypes.data // 4) % 16
    return room[skip : skip + size]


def round_up(n: int, to: int) -> int:
    """The least multiple of ``to`` that is not below ``n``."""
    return -(-n // to) * to


def padded(matrix: NDArray[Any], rows: int, columns: int) -> Floats:
    """``matrix`` with zeros below and on the right."""
    out = np.zeros((rows, columns), np.float32)
    out[: matrix.shape[0], : matrix.shape[1]] = matrix
    return out


def scaling(manifest: Manifest, rows: int) -> tuple[Floats, Floats, Floats]:
    """What :func:`normalise` reads: mean (rows,), scale (rows,), clip (1,)."""
    mean, scale = (padded(np.array([each]), 1, rows) for each in (manifest.norm_mean, manifest.norm_scale))
    return mean, scale, np.array([manifest.norm_clip], np.float32)


@compiled_fast
def normalise(features: Floats, scaling: Floats, x: Floats) -> None:
    """Write normalised ``features`` (F,) into the head of ``x`` (rows,); ``scaling``: see :func:`scaling`."""
    rows = len(x)
    clip = scaling[2 * rows]
    for i in range(len(features)):
        x[i] = min(max((features[i] - scaling[i]) * scaling[rows + i], -clip), clip)


@compiled_fast
def multiply(rows: Floats, x: Floats, sums: Floats) -> None:
    """Add ``x @ rows`` to ``sums``; the number of rows is a multiple of PASS."""
    for j in range(0, len(x), 8):
        a, b, c, d = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
        e, f, g, h = rows[j + 4], rows[j + 5], rows[j + 6], rows[j + 7]
        xa, xb, xc, xd = x[j], x[j + 1], x[j + 2], x[j + 3]
        xe, xf, xg, xh = x[j + 4], x[j + 5], x[j + 6], x[j + 7]
        for i in range(len(sums)):
            first = a[i] * xa + b[i] * xb + c[i] * xc + d[i] * xd
            sums[i] += first + (e[i] * xe + f[i] * xf + g[i] * xg + h[i] * xh)


@compiled_fast
def tanh(x: Any) -> Any:
    """Hyperbolic tangent of one float32."""
    x = min(max(x, -_TANH_END), _TANH_END)
    s = x * x
    p = ((((((_P13 * s + _P11) * s + _P9) * s + _P7) * s + _P5) * s + _P3) * s + _P1) * x
    return p / (((_Q6 * s + _Q4) * s + _Q2) * s + _Q0)


@compiled_fast
def sigmoid(x: Any) -> Any:
    """Logistic function of one float32."""
    return _HALF + _HALF * tanh(_HALF * x)


@compiled
def answer(logits: Floats, probs: Floats) -> None:
    """Softmax over the three directions of each horizon, a sigmoid for each fall of depth."""
    for k in range(0, len(probs), GROUP):
        top = max(logits[k], logits[k + 1], logits[k + 2])
        total = 0.0
        for i in range(k, k + DIRECTIONS):
            share = exp(logits[i] - top)
            probs[i] = share
            total += share
        for i in range(k, k + DIRECTIONS):
            probs[i] /= total
        for i in range(k + DIRECTIONS, k + GROUP):
            probs[i] = 1.0 / (1.0 + exp(-logits[i]))
