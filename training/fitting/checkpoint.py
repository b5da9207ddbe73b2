"""Checkpoints: tensors in safetensors, the rest in JSON; nothing in them can execute code.

A checkpoint holds all that the next epoch depends on: weights, both moments and the step count of AdamW, the best
weights so far and the history. Random numbers need no place in it: each epoch draws its own from seed and epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from market.errors import ModelError
from training.fitting.optimizer import AdamW

MODEL_FILE = "model.safetensors"
BEST_FILE = "best.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Result of one epoch. Losses are the objective; ``tasks`` is the validation loss (K, 3) by horizon and head."""

    epoch: int
    train_loss: float
    valid_loss: float
    tasks: tuple[tuple[float, float, float], ...]
    learning_rate: float
    labelled_steps: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Progress of a fit. ``plan`` is the digest of the plan it follows, ``updates`` counts optimizer steps."""

    plan: str
    epochs_done: int = 0
    updates: int = 0
    best_epoch: int = -1
    history: tuple[Epoch, ...] = field(default_factory=tuple)

    @property
    def best_loss(self) -> float:
        return self.history[self.best_epoch].valid_loss if self.best_epoch >= 0 else float("inf")


Tensors = dict[str, Tensor]


def save(folder: Path, model: nn.Module, optimizer: AdamW, best: Tensors, standing: Standing) -> None:
    """Write a checkpoint into ``folder``; the caller makes it appear as a whole."""
    from safetensors.torch import save_file

    save_file(snapshot(model), folder / MODEL_FILE)
    save_file(best, folder / BEST_FILE)
    moments = {
        f"{key}.{name}": value.detach().cpu().contiguous()
        for key, tensors in (("first", optimizer.first), ("second", optimizer.second))
        for name, value in tensors.items()
    }
    save_file(moments, folder / OPTIMIZER_FILE)
    (folder / STATE_FILE).write_bytes(msgspec.json.encode(standing))


def restore(folder: Path, model: nn.Module, optimizer: AdamW, plan: str) -> tuple[Tensors, Standing]:
    """Set model and optimizer to a checkpoint; returns the best weights and the standing.

    Raises:
        ModelError: the checkpoint belongs to another plan.
    """
    from safetensors.torch import load_file

    standing = read_standing(folder)
    if standing.plan != plan:
        raise ModelError(
            f"checkpoint {folder} follows plan {standing.plan}, this fit follows {plan}; train into a new run"
        )
    put_back(model, load_file(folder / MODEL_FILE))
    moments = load_file(folder / OPTIMIZER_FILE)
    for name, parameter in model.named_parameters():
        optimizer.first[name] = moments[f"first.{name}"].to(parameter.device)
        optimizer.second[name] = moments[f"second.{name}"].to(parameter.device)
    optimizer.steps = standing.updates
    return load_file(folder / BEST_FILE), standing


def read_standing(folder: Path) -> Standing:
    """Progress of the checkpoint in ``folder``."""
    return msgspec.json.decode((folder / STATE_FILE).read_bytes(), type=Standing)


def snapshot(model: nn.Module) -> Tensors:
    """A copy of the trainable weights on the CPU."""
    return {name: p.detach().cpu().clone().contiguous() for name, p in model.named_parameters()}


def put_back(model: nn.Module, tensors: Tensors) -> None:
    """Set the trainable weights to a copy taken by :func:`snapshot`."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
