"""The network families that can be served: the names and shapes of each family's weights.

One row per family; the manifest's ``network.kind`` names one. What a family computes is elsewhere, under the same name:
its compiled step in :mod:`serving.hotpath.families`, its training form in :mod:`training.models`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from market.errors import ManifestError

Shapes = dict[str, tuple[int, ...]]

DEFAULT: Final = "gru"  # trained when the settings name no family, and assumed for a plan that names none


@dataclass(frozen=True, kw_only=True)
class Family:
    """``tensors(F, H, P)``: shapes of the float32 weights by exported name, without the head's. ``state(H)``: how
    many numbers are carried from one step to the next, at least 1.

    Why at least 1: Triton refuses a tensor of width 0, and empty buffers are a corner case in every runtime. A family
    without memory carries one number that never changes: 0 from the start.
    """

    name: str
    tensors: Callable[[int, int, int], Shapes]
    state: Callable[[int], int]

    def shapes(self, inputs: int, hidden: int, outputs: int) -> Shapes:
        """Shapes of all weights, those of the head included."""
        return {**self.tensors(inputs, hidden, outputs), "head.w": (outputs, hidden), "head.b": (outputs,)}


def _gru(inputs: int, hidden: int, _: int) -> Shapes:
    gates = 3 * hidden
    return {"gru.w_ih": (gates, inputs), "gru.w_hh": (gates, hidden), "gru.b_ih": (gates,), "gru.b_hh": (gates,)}


def _mlp(inputs: int, hidden: int, _: int) -> Shapes:
    return {"mlp.w1": (hidden, inputs), "mlp.b1": (hidden,), "mlp.w2": (hidden, hidden), "mlp.b2": (hidden,)}


FAMILIES: Final[Mapping[str, Family]] = {
    row.name: row
    for row in (
        Family(name="gru", tensors=_gru, state=lambda hidden: hidden),
        Family(name="mlp", tensors=_mlp, state=lambda _: 1),
    )
}


def find(kind: str) -> Family:
    """The row of a family.

    Raises:
        ManifestError: this code serves no such family.
    """
    if kind not in FAMILIES:
        raise ManifestError(
            f"expected a network of a family that this code serves ({', '.join(sorted(FAMILIES))}), saw {kind!r}; "
            f"serve it with the code it was exported by, or train one of these (keel train --set model.family=...)"
        )
    return FAMILIES[kind]
