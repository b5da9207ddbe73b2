"""One pass over the data: chunks through the network, gradients accumulated, steps taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from training.data.datasets import Dataset
from training.data.sequences import Chunk
from training.fitting.objective import task_losses, weighted
from training.fitting.optimizer import AdamW
from training.fitting.plan import Recipe
from training.models.family import StreamingNetwork


@dataclass(frozen=True, kw_only=True)
class Material:
    """A dataset as tensors on the device that trains: features (n, F), labels (n, K, 3)."""

    features: Tensor
    labels: Tensor

    @classmethod
    def of(cls, data: Dataset, device: torch.device) -> Material:
        return cls(features=torch.from_numpy(data.features).to(device), labels=torch.from_numpy(data.labels).to(device))

    def take(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Inputs (B, T, F) and labels (B, T, K, 3), unknown where the chunk counts nothing."""
        rows = torch.from_numpy(np.ascontiguousarray(chunk.rows)).to(self.features.device)
        counts = torch.from_numpy(np.ascontiguousarray(chunk.counts)).to(self.features.device)
        return self.features[rows], self.labels[rows].masked_fill(~counts[..., None, None], -1)


def rate(done: float, recipe: Recipe) -> float:
    """Learning rate when a share ``done`` of the training is over: linear warm-up, then a cosine down to a tenth."""
    if done < recipe.warm_up:
        return recipe.learning_rate * (done + 1e-3) / (recipe.warm_up + 1e-3)
    rest = (done - recipe.warm_up) / (1 - recipe.warm_up)
    return recipe.learning_rate * (0.55 + 0.45 * math.cos(math.pi * min(rest, 1.0)))


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """A model with its optimizer; ``average`` makes the gradients of all workers their mean."""

    model: StreamingNetwork
    optimizer: AdamW
    recipe: Recipe
    material: Material
    average: Callable[[nn.Module], None]

    def learn(self, chunks: Iterator[Chunk], total: int, done: Callable[[float], float]) -> tuple[float, int]:
        """Train on ``total`` chunks; ``done`` turns the share of this epoch into the share of the whole training.

        Returns:
            mean objective over the chunks, and how many labelled steps they had.
        """
        self.model.train()
        losses, steps = 0.0, 0
        state = self.model.start(1)
        for i, chunk in enumerate(chunks):
            if chunk.fresh:
                state = self.model.start(len(chunk.rows))
            window = min(self.recipe.accumulate, total - i + i % self.recipe.accumulate)
            last = (i + 1) % self.recipe.accumulate == 0 or i + 1 == total
            loss, state = self._forward(chunk, state)
            (loss / window).backward()
            losses += float(loss.detach())
            steps += int(chunk.counts.sum())
            if last:
                self._update(rate(done((i + 1) / total), self.recipe))
        return losses / max(total, 1), steps

    @torch.no_grad()
    def judge(self, chunks: Iterator[Chunk]) -> Tensor:
        """Losses and label counts (2, K, 3) over ``chunks``, in fp32."""
        self.model.eval()
        tally = torch.zeros(2, *self.material.labels.shape[1:], dtype=torch.float64)
        state = self.model.start(1)
        for chunk in chunks:
            x_BTF, labels = self.material.take(chunk)
            state = self.model.start(len(chunk.rows)) if chunk.fresh else state
            logits, state = self.model(x_BTF, state)
            sums, counts = task_losses(logits, labels)
            tally += torch.stack((sums.double(), counts.double())).cpu()
        return tally

    def _forward(self, chunk: Chunk, state: Tensor) -> tuple[Tensor, Tensor]:
        x_BTF, labels = self.material.take(chunk)
        bf16 = self.recipe.precision == "bf16"
        with torch.autocast(x_BTF.device.type, torch.bfloat16, enabled=bf16):
            logits, state = self.model(x_BTF, state)
        # the state goes on into the next chunk, the gradient does not
        return weighted(*task_losses(logits, labels)), state.detach().float()

    def _update(self, learning_rate: float) -> None:
        self.average(self.model)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_gradient)
        self.optimizer.update(learning_rate)
