"""The families that the hot path can step: a row each, and the one compiled step that takes any of them.

Which family an arm plays is looked up when it steps, not when the loop is compiled: a challenger of another family
joins a running loop without a compiler, and one body of the loop is cached on disk for all of them. The look-up costs a
comparison of integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from market.compiled import compiled
from serving import families
from serving.hotpath.families import gru, mlp
from serving.hotpath.families.arithmetic import Floats, Int64s, Packed
from serving.hotpath.families.gru import step as _step_gru
from serving.hotpath.families.mlp import step as _step_mlp
from serving.manifest import Manifest

_GRU: Final = 1
_MLP: Final = 2

LayOut = Callable[[int, Mapping[str, Floats], Manifest], Packed]

ROWS: Final[Mapping[str, tuple[int, LayOut]]] = {"gru": (_GRU, gru.lay_out), "mlp": (_MLP, mlp.lay_out)}


def lay_out(tensors: Mapping[str, Floats], manifest: Manifest) -> Packed:
    """The weights of a bundle as :func:`step` takes them.

    Raises:
        ManifestError: the manifest names a family that this code does not serve.
    """
    number, pack = ROWS[families.find(manifest.network.kind).name]
    return pack(number, tensors, manifest)


@compiled
def step(layout: Int64s, weights: Floats, memory: Floats, features: Floats, probs: Floats) -> None:
    """Advance ``memory`` by one row of raw ``features`` (F,) and write ``probs`` (P,)."""
    number = layout[0]
    if number == _GRU:
        _step_gru(layout, weights, memory, features, probs)
    elif number == _MLP:
        _step_mlp(layout, weights, memory, features, probs)
