"""One step of the multilayer perceptron in compiled code: two layers of tanh units on the newest row, no memory.

The arithmetic of :mod:`training.models.mlp`. The one number of its state is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    tanh,
)
from serving.manifest import Manifest


def lay_out(number: int, tensors: Mapping[str, Floats], manifest: Manifest) -> Packed:
    """Weights by their exported names in the order of the inner loop, padded to ``F`` rows, ``H`` units, ``P`` outputs.

    First layer (F, H) and bias (H,), second (H, H) and (H,), head (H, P) and (P,), already divided by the temperatures;
    what :func:`normalise` reads. Memory: room for the state, inputs (F,), both layers (H,), logits (P,).
    """
    network = manifest.network
    units, width = round_up(network.hidden, UNITS), round_up(network.outputs, UNITS)
    rows = round_up(len(network.inputs), PASS)
    divisor = divisors(manifest.temperature)
    weights = (
        padded(tensors["mlp.w1"].T, rows, units),
        padded(tensors["mlp.b1"][None], 1, units),
        padded(tensors["mlp.w2"].T, units, units),
        padded(tensors["mlp.b2"][None], 1, units),
        padded((tensors["head.w"] / divisor[:, None]).T, units, width),
        padded((tensors["head.b"] / divisor)[None], 1, width),
        *scaling(manifest, rows),
    )
    return packed(number, (rows, units, width), weights, UNITS + rows + 2 * units + width)


@compiled
def step(layout: Int64s, weights: Floats, memory: Floats, features: Floats, probs: Floats) -> None:
    """Write ``probs`` (P,) for one row of raw ``features`` (F,)."""
    _layers(layout, weights, memory, features)
    answer(memory[len(memory) - layout[3] :], probs)


@compiled_fast
def _layers(layout: Int64s, weights: Floats, memory: Floats, features: Floats) -> None:
    rows, units, width = layout[1], layout[2], layout[3]
    b1 = rows * units
    w2 = b1 + units
    b2 = w2 + units * units
    head = b2 + units
    head_bias = head + units * width
    mean = head_bias + width
    x, logits = memory[UNITS : UNITS + rows], memory[UNITS + rows + 2 * units :]
    first, second = memory[UNITS + rows :][:units], memory[UNITS + rows + units :][:units]
    normalise(features, weights[mean:], x)
    first[:] = weights[b1:w2]
    multiply(weights[:b1].reshape((rows, units)), x, first)
    for i in range(units):
        first[i] = tanh(first[i])
    second[:] = weights[b2:head]
    multiply(weights[w2:b2].reshape((units, units)), first, second)
    for i in range(units):
        second[i] = tanh(second[i])
    logits[:] = weights[head_bias:mean]
    multiply(weights[head:head_bias].reshape((units, width)), second, logits)
