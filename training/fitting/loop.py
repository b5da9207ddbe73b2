"""The training loop, the same in one process and on many workers.

What differs between the two is behind :class:`Worker`: :class:`Alone` here, the Ray worker in
:mod:`training.fitting.distributed`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from market.errors import SettingsError
from market.files import replacing_folder
from market.heads import HEADS
from training.data import datasets
from training.data.sequences import Share, count_chunks, epoch_chunks, plain_chunks
from training.fitting import checkpoint
from training.fitting.checkpoint import Epoch, Standing, Tensors
from training.fitting.objective import weighted
from training.fitting.optimizer import AdamW
from training.fitting.plan import Plan, Recipe, read_plan
from training.fitting.step import Material, Stepper, rate
from training.models import registry
from training.models.family import StreamingNetwork, Widths
from training.models.heads import Network

_KEEP = 2


class Worker(Protocol):
    """One of the processes that train together."""

    @property
    def share(self) -> Share: ...

    @property
    def device(self) -> torch.device: ...

    def average(self, model: nn.Module) -> None:
        """Replace every gradient by its mean over the workers."""
        ...

    def total(self, values: Tensor) -> Tensor:
        """Sum of ``values`` over the workers."""
        ...

    def latest(self) -> Path | None:
        """Folder of the newest whole checkpoint."""
        ...

    def report(self, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        """Report an epoch's metrics and keep the checkpoint that ``write`` puts into a folder."""
        ...


class Alone:
    """The only worker, in this process; checkpoints lie in ``folder`` as ``epoch-0001`` and so on."""

    def __init__(self, folder: Path, device: torch.device | None = None) -> None:
        self._folder = folder
        self.share = Share()
        self.device = device or torch.device("cpu")

    def average(self, model: nn.Module) -> None:
        """Nothing to do: one worker's gradient is the mean."""

    def total(self, values: Tensor) -> Tensor:
        return values

    def latest(self) -> Path | None:
        return max(self._folder.glob("epoch-*"), default=None)

    def report(self, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        target = self._folder / f"epoch-{int(metrics['epoch']) + 1:04d}"
        with replacing_folder(target) as draft:
            write(draft)
        for old in sorted(self._folder.glob("epoch-*"))[:-_KEEP]:
            shutil.rmtree(old)


def device_of(recipe: Recipe) -> torch.device:
    """The device of this process that the recipe asks for.

    Raises:
        SettingsError: it asks for a GPU and there is none.
    """
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "expected a CUDA device for device=cuda, saw none in this process; train with device=cpu, or where "
            "torch.cuda.is_available()"
        )
    return torch.device(recipe.device)


def fit(run_folder: Path, worker: Worker) -> None:
    """Follow the plan in ``run_folder`` from the newest checkpoint to the last epoch."""
    plan = read_plan(run_folder)
    data = datasets.load(Path(plan.dataset))
    with one_thread(), torch.random.fork_rng(devices=[]):
        model = build(plan, data).to(worker.device)
        stepper = Stepper(
            model=model,
            optimizer=AdamW(model, plan.recipe.weight_decay),
            recipe=plan.recipe,
            material=Material.of(data, worker.device),
            average=worker.average,
        )
        best, standing = checkpoint.snapshot(model), Standing(plan=plan.digest())
        latest = worker.latest()
        if latest is not None:
            best, standing = checkpoint.restore(latest, model, stepper.optimizer, plan.digest())
        for epoch in range(standing.epochs_done, plan.recipe.epochs):
            best, standing = _one_epoch(epoch, (plan, data), (stepper, worker), (best, standing))


def build(plan: Plan, data: datasets.Dataset) -> StreamingNetwork:
    """The untrained network of a plan: seeded, its head starting from the frequencies of the labels."""
    widths = Widths(inputs=len(data.inputs), hidden=plan.recipe.hidden, outputs=len(plan.head_bias))
    family = registry.find(plan.recipe.family)
    return family.untrained(widths, plan.normalisation, seed=plan.recipe.seed, head_bias=plan.head_bias)


def trained(plan: Plan, data: datasets.Dataset, folder: Path) -> tuple[Network, Standing]:
    """The best network of a finished fit, from its last checkpoint in ``folder``."""
    from safetensors.torch import load_file

    standing = checkpoint.read_standing(folder)
    model = build(plan, data)
    checkpoint.put_back(model, load_file(folder / checkpoint.BEST_FILE))
    plain = (1.0,) * (len(HEADS) * data.horizons)
    return registry.find(plan.recipe.family).freeze(model, plan.normalisation, plain), standing


def _one_epoch(
    epoch: int,
    task: tuple[Plan, datasets.Dataset],
    means: tuple[Stepper, Worker],
    so_far: tuple[Tensors, Standing],
) -> tuple[Tensors, Standing]:
    (plan, data), (stepper, worker), (best, standing) = task, means, so_far
    began = time.perf_counter()
    seed, epochs, share = plan.recipe.seed, plan.recipe.epochs, worker.share
    runs = plan.runs(data, "train")
    total = count_chunks(runs, plan.layout, share.world, seed=seed, epoch=epoch)
    chunks = epoch_chunks(runs, plan.layout, share, seed=seed, epoch=epoch)
    loss, steps = stepper.learn(chunks, total, lambda part: (epoch + part) / epochs)
    learned = worker.total(torch.tensor([loss, steps], dtype=torch.float64))
    tally = worker.total(stepper.judge(plain_chunks(plan.runs(data, "valid"), plan.layout, share)))
    entry = Epoch(
        epoch=epoch,
        train_loss=float(learned[0]) / share.world,
        valid_loss=float(weighted(tally[0].float(), tally[1].float())),
        tasks=tuple((a, b, c) for a, b, c in (tally[0] / tally[1].clamp_min(1)).tolist()),
        learning_rate=rate((epoch + 1) / epochs, plan.recipe),
        labelled_steps=int(learned[1]),
        seconds=time.perf_counter() - began,
    )
    if entry.valid_loss < standing.best_loss:
        best = checkpoint.snapshot(stepper.model)
    standing = _after(standing, entry, stepper.optimizer.steps)
    worker.report(
        {"epoch": epoch, "train_loss": entry.train_loss, "valid_loss": entry.valid_loss},
        lambda folder: checkpoint.save(folder, stepper.model, stepper.optimizer, best, standing),
    )
    return best, standing


def _after(standing: Standing, entry: Epoch, updates: int) -> Standing:
    better = entry.valid_loss < standing.best_loss
    return Standing(
        plan=standing.plan,
        epochs_done=entry.epoch + 1,
        updates=updates,
        best_epoch=entry.epoch if better else standing.best_epoch,
        history=(*standing.history, entry),
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread per worker: the matrices are small, and sums in one order make a run repeatable to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
