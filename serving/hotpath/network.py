"""One step of the streaming GRU in compiled code: raw features and state in, probabilities and state out.

The arithmetic of :mod:`training.models.gru`, gates in torch's order r, z, n, the reset gate applied after the recurrent
product. Sums are reordered and contracted, and tanh is a rational function, so results equal ONNX Runtime's to about
1e-6, not to the bit; the golden vectors of a bundle hold it to 1e-5.

Why it is fast: weights are kept transposed, so that one input multiplies a contiguous row for all units at once, and
eight rows are taken in a pass, so that a sum is loaded and stored once for eight products. Widths are padded with zeros
to whole vectors; a padded unit stays exactly 0 and touches nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from market.compiled import compiled, compiled_fast
from market.errors import ManifestError, TamperedError
from serving.manifest import MANIFEST_FILE, WEIGHTS_FILE, Manifest

Floats = NDArray[np.float32]

_UNITS: Final = 16  # widths are padded to a multiple of this
_PASS: Final = 8  # rows taken in one pass
_GROUP: Final = 5  # outputs of one horizon: down, none, up, bid falls, ask falls
_DIRECTIONS: Final = 3

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


class Weights(NamedTuple):
    """A network as :func:`step` takes it, float32 and padded: ``F`` inputs, ``H`` units, ``P`` outputs.

    ``inputs`` (F, 3H): columns n, r, z. ``recurrent`` (H, 3H): columns r, z, n. ``bias`` (4H,): n of the inputs, r, z,
    n of the recurrence. ``head`` (H, P) and ``head_bias`` (P,) are already divided by the temperatures.
    """

    inputs: Floats
    recurrent: Floats
    bias: Floats
    head: Floats
    head_bias: Floats
    mean: Floats
    scale: Floats
    clip: np.float32


class Memory(NamedTuple):
    """What one network carries: ``state`` (H,), all zeros before anything was seen, and room to work in."""

    state: Floats
    x: Floats
    sums: Floats
    logits: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A loaded network: whose it is, ``version`` in the registry, true widths, padded weights."""

    instrument: str
    version: int
    inputs: int
    hidden: int
    outputs: int
    weights: Weights

    def memory(self) -> Memory:
        """The zero state."""
        rows, columns = self.weights.inputs.shape
        padded = columns // 3
        return Memory(
            state=np.zeros(padded, np.float32),
            x=np.zeros(rows, np.float32),
            sums=np.zeros(4 * padded, np.float32),
            logits=np.zeros(len(self.weights.head_bias), np.float32),
        )


def load(folder: Path) -> Model:
    """The network of a bundle; the bytes that are read are held against the manifest's sha256.

    What else must be true of a bundle, :func:`serving.bundle.load_bundle` checks.

    Raises:
        ManifestError: the manifest or the weights cannot be read.
        TamperedError: the weights are not the ones that were written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as read

    try:
        manifest = msgspec.json.decode((folder / MANIFEST_FILE).read_bytes(), type=Manifest)
        contents = (folder / WEIGHTS_FILE).read_bytes()
        if hashlib.sha256(contents).hexdigest() != manifest.files.get(WEIGHTS_FILE):
            raise TamperedError(f"{folder / WEIGHTS_FILE} is not what the manifest lists; fetch the version again")
        return lay_out(read(contents), manifest)
    except (OSError, msgspec.DecodeError, SafetensorError, KeyError) as error:
        raise ManifestError(f"cannot read the bundle in {folder}: {error}; fetch the version again") from None


def lay_out(tensors: Mapping[str, Floats], manifest: Manifest) -> Model:
    """Weights by their exported names (see :mod:`training.models.gru`) in the order of the inner loop."""
    network = manifest.network
    hidden, padded = network.hidden, _round_up(network.hidden, _UNITS)
    rows = _round_up(len(network.inputs), _PASS)
    w_in, w_rec = (_gates(tensors[name], hidden, padded) for name in ("gru.w_ih", "gru.w_hh"))
    b_in, b_rec = (_gates(tensors[name][:, None], hidden, padded)[:, :, 0] for name in ("gru.b_ih", "gru.b_hh"))
    r, z, n = range(3)
    divisor = _divisors(manifest.temperature)
    width = _round_up(network.outputs, _UNITS)
    return Model(
        instrument=manifest.instrument,
        version=manifest.registry_version,
        inputs=len(network.inputs),
        hidden=hidden,
        outputs=network.outputs,
        weights=Weights(
            inputs=_padded(np.concatenate([w_in[n], w_in[r], w_in[z]]).T, rows, 3 * padded),
            recurrent=_padded(np.concatenate([w_rec[r], w_rec[z], w_rec[n]]).T, padded, 3 * padded),
            bias=np.concatenate([b_in[n], b_in[r] + b_rec[r], b_in[z] + b_rec[z], b_rec[n]]).astype(np.float32),
            head=_padded((tensors["head.w"] / divisor[:, None]).T, padded, width),
            head_bias=_padded((tensors["head.b"] / divisor)[None], 1, width)[0],
            mean=_padded(np.array([manifest.norm_mean]), 1, rows)[0],
            scale=_padded(np.array([manifest.norm_scale]), 1, rows)[0],
            clip=np.float32(manifest.norm_clip),
        ),
    )


def step_function(model: Model) -> Callable[[Floats, Floats], tuple[Floats, Floats]]:
    """``model`` as checks call it: features (1, F) and state (1, H) to probabilities (1, P) and state (1, H)."""
    memory = model.memory()

    def call(features: Floats, state: Floats) -> tuple[Floats, Floats]:
        probs = np.empty(model.outputs, np.float32)
        memory.state[: model.hidden] = state[0]
        step(model.weights, memory, np.ascontiguousarray(features[0], np.float32), probs)
        return probs[None], memory.state[None, : model.hidden].copy()

    return call


@compiled
def step(weights: Weights, memory: Memory, features: Floats, probs: Floats) -> None:
    """Advance ``memory`` by one row of raw ``features`` (F,) and write ``probs`` (P,)."""
    _recur(weights, memory, features)
    _answer(memory.logits, probs)


@compiled_fast
def _recur(weights: Weights, memory: Memory, features: Floats) -> None:
    """Normalise, both products, the gates, the head's logits."""
    state, x, sums = memory.state, memory.x, memory.sums
    clip = weights.clip
    for i in range(len(features)):
        x[i] = min(max((features[i] - weights.mean[i]) * weights.scale[i], -clip), clip)
    units = len(state)
    sums[:] = weights.bias
    _multiply(weights.inputs, x, sums[: 3 * units])
    _multiply(weights.recurrent, state, sums[units:])
    n_in, r, z, n_rec = sums[:units], sums[units : 2 * units], sums[2 * units : 3 * units], sums[3 * units :]
    for i in range(units):
        n = _tanh(n_in[i] + _sigmoid(r[i]) * n_rec[i])
        state[i] = n + _sigmoid(z[i]) * (state[i] - n)
    memory.logits[:] = weights.head_bias
    _multiply(weights.head, state, memory.logits)


@compiled_fast
def _multiply(rows: Floats, x: Floats, sums: Floats) -> None:
    """Add ``x @ rows`` to ``sums``; the number of rows is a multiple of _PASS."""
    for j in range(0, len(x), 8):
        a, b, c, d = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
        e, f, g, h = rows[j + 4], rows[j + 5], rows[j + 6], rows[j + 7]
        xa, xb, xc, xd = x[j], x[j + 1], x[j + 2], x[j + 3]
        xe, xf, xg, xh = x[j + 4], x[j + 5], x[j + 6], x[j + 7]
        for i in range(len(sums)):
            first = a[i] * xa + b[i] * xb + c[i] * xc + d[i] * xd
            sums[i] += first + (e[i] * xe + f[i] * xf + g[i] * xg + h[i] * xh)


@compiled_fast
def _tanh(x: Any) -> Any:
    x = min(max(x, -_TANH_END), _TANH_END)
    s = x * x
    p = ((((((_P13 * s + _P11) * s + _P9) * s + _P7) * s + _P5) * s + _P3) * s + _P1) * x
    return p / (((_Q6 * s + _Q4) * s + _Q2) * s + _Q0)


@compiled_fast
def _sigmoid(x: Any) -> Any:
    return _HALF + _HALF * _tanh(_HALF * x)


@compiled
def _answer(logits: Floats, probs: Floats) -> None:
    """Softmax over the three directions of each horizon, a sigmoid for each fall of depth."""
    for k in range(0, len(probs), _GROUP):
        top = max(logits[k], logits[k + 1], logits[k + 2])
        total = 0.0
        for i in range(k, k + _DIRECTIONS):
            share = exp(logits[i] - top)
            probs[i] = share
            total += share
        for i in range(k, k + _DIRECTIONS):
            probs[i] /= total
        for i in range(k + _DIRECTIONS, k + _GROUP):
            probs[i] = 1.0 / (1.0 + exp(-logits[i]))


def _round_up(n: int, to: int) -> int:
    return -(-n // to) * to


def _gates(tensor: Floats, hidden: int, padded: int) -> Floats:
    """(3H, K) by gate and padded to (3, padded, K)."""
    out = np.zeros((3, padded, tensor.shape[1]), np.float32)
    out[:, :hidden] = tensor.reshape(3, hidden, -1)
    return out


def _padded(matrix: NDArray[Any], rows: int, columns: int) -> Floats:
    out = np.zeros((rows, columns), np.float32)
    out[: matrix.shape[0], : matrix.shape[1]] = matrix
    return out


def _divisors(temperature: tuple[float, ...]) -> Floats:
    """One divisor an output (P,): a horizon has one for its directions and one for each side's depth."""
    by_head = np.asarray(temperature, np.float32).reshape(-1, _GROUP - _DIRECTIONS + 1)
    return np.hstack([np.repeat(by_head[:, :1], _DIRECTIONS, axis=1), by_head[:, 1:]]).reshape(-1)
