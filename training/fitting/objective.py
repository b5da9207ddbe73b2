"""The loss at every step: cross-entropy of the direction, logistic loss of each depth fall, per horizon.

Classes are not re-weighted: that would buy recall with calibration, and the quoting policy acts on probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from market.heads import DIRECTIONS, GROUP

# one head decides the skew of the quotes, two share the decision about their size
_WEIGHTS = (1.0, 0.5, 0.5)


def task_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of losses and numbers of known labels, both (K, 3), of ``logits`` (..., 5K) and ``labels`` (..., K, 3).

    A label below 0 is unknown and carries no loss. Losses are computed in fp32 whatever the logits are.
    """
    horizons = labels.shape[-2]
    grouped = logits.float().reshape(-1, horizons, GROUP)
    labels = labels.reshape(-1, horizons, 3)
    known = labels >= 0
    target = labels.clamp_min(0)
    log_probs = grouped[..., :DIRECTIONS].log_softmax(-1)
    direction = -log_probs.gather(-1, target[..., :1].long())
    depth = functional.binary_cross_entropy_with_logits(
        grouped[..., DIRECTIONS:], target[..., 1:].float(), reduction="none"
    )
    losses = torch.cat((direction, depth), -1).masked_fill(~known, 0.0)
    return losses.sum(0), known.sum(0)


def weighted(sums: Tensor, counts: Tensor) -> Tensor:
    """One number of what :func:`task_losses` gives: the mean per task, averaged with the heads' weights."""
    weights = torch.tensor(_WEIGHTS, device=sums.device).expand_as(sums) * (counts > 0)
    means = sums / counts.clamp_min(1)
    return (weights * means).sum() / weights.sum().clamp_min(1e-9)
