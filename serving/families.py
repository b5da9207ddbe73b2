"""The families of networks that can be served: what the weights of each are called and how they are shaped.

A row a family; the manifest's ``network.kind`` names one. What a family computes is elsewhere, under the same name:
its compiled step in :mod:`serving.hotpath.families`, its training form in :mod:`training.models`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from market.errors import ManifestError

Shapes = dict[str, tuple[int, ...]]

DEFAULT: Final = "gru"  # what is trained where the settings name no family, and what a plan without a family is of


@dataclass(frozen=True, kw_only=True)
class Family:
    """``tensors(F, H, P)``: shapes of the float32 weights by exported name, the head's beside them. ``state(H)``: how
    many numbers are carried from one step to the next, at least 1.

    Why at least 1: Triton refuses a tensor of width 0, and empty buffers are a corner of every runtime. A family
    without memory carries one number that stays as it came, 0 from the start.
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
        ManifestError: no such family is served by this code.
    """
    if kind not in FAMILIES:
        raise ManifestError(
            f"expected a network of a family that this code serves ({', '.join(sorted(FAMILIES))}), saw {kind!r}; "
            f"serve it with the code it was exported by, or train one of these (keel train --set model.family=...)"
        )
    return FAMILIES[kind]
