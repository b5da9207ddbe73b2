"""One step of the streaming GRU in compiled code: raw features and state in, probabilities and state out.

The arithmetic of :mod:`training.models.gru`, gates in torch's order r, z, n, the reset gate applied after the recurrent
product.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from market.compiled import compiled, compiled_fast
from market.heads import divisors
from serving.hotpath.families.arithmetic import (
    PASS,
    UNITS,
    Floats,
    Int64s,
    Packed,
    answer,
    multiply,
    normalise,
    packed,
    padded,
    round_up,
    scaling,
    sigmoid,
    tanh,
)
from serving.manifest import Manifest


def lay_out(number: int, tensors: Mapping[str, Floats], manifest: Manifest) -> Packed:
    """Weights by their exported names in the order of the inner loop, padded to ``F`` rows, ``H`` units, ``P`` outputs.

    Inputs (F, 3H): columns n, r, z. Recurrent (H, 3H): columns r, z, n. Bias (4H,): n of the inputs, r, z, n of the
    recurrence. Head (H, P) and its bias (P,), already divided by the temperatures. What :func:`normalise` reads.
    Memory: state (H,), inputs (F,), sums (4H,), logits (P,).
    """
    network = manifest.network
    hidden, units = network.hidden, round_up(network.hidden, UNITS)
    rows, width = round_up(len(network.inputs), PASS), round_up(network.outputs, UNITS)
    w_in, w_rec = (_gates(tensors[name], hidden, units) for name in ("gru.w_ih", "gru.w_hh"))
    b_in, b_rec = (_gates(tensors[name][:, None], hidden, units)[:, :, 0] for name in ("gru.b_ih", "gru.b_hh"))
    r, z, n = range(3)
    divisor = divisors(manifest.temperature)
    weights = (
        padded(np.concatenate([w_in[n], w_in[r], w_in[z]]).T, rows, 3 * units),
        padded(np.concatenate([w_rec[r], w_rec[z], w_rec[n]]).T, units, 3 * units),
        np.concatenate([b_in[n], b_in[r] + b_rec[r], b_in[z] + b_rec[z], b_rec[n]]).astype(np.float32),
        padded((tensors["head.w"] / divisor[:, None]).T, units, width),
        padded((tensors["head.b"] / divisor)[None], 1, width),
        *scaling(manifest, rows),
    )
    return packed(number, (rows, units, width), weights, units + rows + 4 * units + width)


@compiled
def step(layout: Int64s, weights: Floats, memory: Floats, features: Floats, probs: Floats) -> None:
    """Advance ``memory`` by one row of raw ``features`` (F,) and write ``probs`` (P,)."""
    _recur(layout, weights, memory, features)
    answer(memory[len(memory) - layout[3] :], probs)


@compiled_fast
def _recur(layout: Int64s, weights: Floats, memory: Floats, features: Floats) -> None:
    """Normalise, both products, the gates, the head's logits."""
    rows, units, width = layout[1], layout[2], layout[3]
    recurrent = rows * 3 * units
    bias = recurrent + units * 3 * units
    head = bias + 4 * units
    head_bias = head + units * width
    mean = head_bias + width
    state, x = memory[:units], memory[units : units + rows]
    sums, logits = memory[units + rows : 5 * units + rows], memory[5 * units + rows :]
    normalise(features, weights[mean:], x)
    sums[:] = weights[bias:head]
    multiply(weights[:recurrent].reshape((rows, 3 * units)), x, sums[: 3 * units])
    multiply(weights[recurrent:bias].reshape((units, 3 * units)), state, sums[units:])
    n_in, r, z, n_rec = sums[:units], sums[units : 2 * units], sums[2 * units : 3 * units], sums[3 * units :]
    for i in range(units):
        n = tanh(n_in[i] + sigmoid(r[i]) * n_rec[i])
        state[i] = n + sigmoid(z[i]) * (state[i] - n)
    logits[:] = weights[head_bias:mean]
    multiply(weights[head:head_bias].reshape((units, width)), state, logits)


def _gates(tensor: Floats, hidden: int, units: int) -> Floats:
    """(3H, K) by gate and padded to (3, units, K)."""
    out = np.zeros((3, units, tensor.shape[1]), np.float32)
    out[:, :hidden] = tensor.reshape(3, hidden, -1)
    return out
