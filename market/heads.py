"""The layout of the output vector: what stands where for each horizon. The only place that knows it.

For horizon ``k`` of ``K`` five numbers follow each other: the mid moves down, not, up (probabilities that sum to 1; as
logits, a softmax makes them so), bid depth falls, ask depth falls (a probability each; as logits, a sigmoid). They are
the answers of three *heads*, in the order of the labels (n, K, 3): direction, bid falls, ask falls.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

OUTPUTS: Final = ("down", "none", "up", "bid_falls", "ask_falls")
GROUP: Final = len(OUTPUTS)  # outputs of one horizon
DIRECTIONS: Final = 3
DOWN: Final = 0  # also the value of a direction label
NONE: Final = 1
UP: Final = 2
BID_FALLS: Final = 3
ASK_FALLS: Final = 4

HEADS: Final = ("direction", "bid_falls", "ask_falls")
CLASSES: Final = (DIRECTIONS, 2, 2)  # of each head

_Floats = NDArray[np.floating[Any]]


def width(horizons: int) -> int:
    """Length ``P`` of the output vector."""
    return GROUP * horizons


def horizons_in(outputs: int) -> int:
    """How many horizons a vector of ``outputs`` numbers covers."""
    return outputs // GROUP


def column(k: int, output: int) -> int:
    """Where ``output`` (:data:`DOWN` to :data:`ASK_FALLS`) of horizon ``k`` stands."""
    return GROUP * k + output


def columns(k: int, head: int) -> slice:
    """Where the outputs of one head of horizon ``k`` stand."""
    if head == 0:
        return slice(column(k, DOWN), column(k, DIRECTIONS))
    return slice(column(k, DIRECTIONS + head - 1), column(k, DIRECTIONS + head))


def by_horizon(vectors: Any) -> Any:
    """Arrays or tensors (..., P) as (..., K, 5)."""
    return vectors.reshape(*vectors.shape[:-1], -1, GROUP)


def class_probs(probs: _Floats, k: int, head: int) -> NDArray[np.float64]:
    """Class probabilities (n, C) of one head from ``probs`` (n, P): three directions, or (does not fall, falls)."""
    mine = np.asarray(probs[:, columns(k, head)], np.float64)
    if head == 0:
        return np.asarray(mine / mine.sum(axis=1, keepdims=True))  # float32 sums to 1 only nearly
    return np.hstack([1 - mine, mine])


def put_class_probs(probs: _Floats, k: int, head: int, classes: _Floats) -> None:
    """Write class probabilities (n, C), as :func:`class_probs` returns them, into ``probs`` (n, P)."""
    probs[:, columns(k, head)] = classes if head == 0 else classes[:, 1:]


def divisors(temperature: tuple[float, ...]) -> NDArray[np.float32]:
    """One divisor an output (P,) from one a head (``[direction, bid, ask]`` per horizon): directions share theirs."""
    per_head = np.asarray(temperature, np.float32).reshape(-1, len(HEADS))
    return np.repeat(per_head, (DIRECTIONS, *[1] * (GROUP - DIRECTIONS)), axis=1).reshape(-1)
