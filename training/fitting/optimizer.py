"""AdamW, written out.

``torch.optim`` and ``DistributedDataParallel`` import PyTorch's whole compiler on first use: 3.5 s of processor time in
every worker, more than a small network trains for. These lines give the same numbers (a test holds them against
``torch.optim.AdamW``), and the workers average gradients in one call (see :mod:`training.fitting.distributed`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class AdamW:
    """Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2; biases do not decay.

    ``first`` and ``second`` are the moments by parameter name, ``steps`` how many updates were made.
    """

    def __init__(self, model: nn.Module, weight_decay: float) -> None:
        self._parameters = dict(model.named_parameters())
        self._weight_decay = weight_decay
        self.first: dict[str, Tensor] = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        self.second: dict[str, Tensor] = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        self.steps = 0

    @torch.no_grad()
    def update(self, learning_rate: float) -> None:
        """Move every parameter against its gradient, then forget the gradients."""
        self.steps += 1
        size = learning_rate / (1 - _BETA1**self.steps)
        correction = (1 - _BETA2**self.steps) ** 0.5
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            if gradient is None:
                continue
            if parameter.ndim > 1:
                parameter.mul_(1 - learning_rate * self._weight_decay)
            self.first[name].lerp_(gradient, 1 - _BETA1)
            self.second[name].mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
            parameter.addcdiv_(self.first[name], self.second[name].sqrt() / correction + _EPSILON, value=-size)
            parameter.grad = None
