"""Training on Ray: one cluster a process, a fit is a group of workers on it."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.fit import fit
from training.models.gru import StreamingGru
from training.plan import Plan
from training.sequences import Share

OBJECT_STORE_BYTES = 200 * 1024 * 1024
_LOOPBACK = "127.0.0.1"
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    # the controller looks after its workers this often; its default of 2 s is most of a short fit
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


def connect(cpus: int) -> None:
    """Be connected to a cluster: the one already connected to, the one at ``RAY_ADDRESS``, or a new local one.

    The local one listens on loopback only and stays up until the process ends, for all fits of the process.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
        return
    ray.init(
        address="local",
        num_cpus=cpus,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=True,
        dashboard_host=_LOOPBACK,
        _node_ip_address=_LOOPBACK,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )


def disconnect() -> None:
    """Stop the local cluster, if this process started one."""
    import ray

    ray.shutdown()


def fit_on_ray(run_folder: Path, plan: Plan, workers: int) -> Path:
    """Run the plan in ``run_folder`` on ``workers`` workers; goes on from its checkpoints when there are any.

    Returns:
        folder of the last checkpoint.
    """
    connect(workers)
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = plan.recipe.device == "cuda"
    trainer = TorchTrainer(
        _worker_loop,
        train_loop_config={"run_folder": str(run_folder)},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
        run_config=RunConfig(
            name="fit",
            storage_path=str(run_folder / "ray"),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=1),
        ),
    )
    # fit() leaves its own handler of Ctrl-C behind
    before = signal.getsignal(signal.SIGINT)
    try:
        result = trainer.fit()
    finally:
        signal.signal(signal.SIGINT, before)
    return Path(result.checkpoint.path)


def _worker_loop(config: dict[str, str]) -> None:
    fit(Path(config["run_folder"]), RayWorker())


class RayWorker:
    """One of the workers of a Ray fit; see :class:`training.fit.Worker`."""

    def __init__(self) -> None:
        import ray.train
        from ray.train.torch import get_device

        context = ray.train.get_context()
        self.share = Share(rank=context.get_world_rank(), world=context.get_world_size())
        self.device: torch.device = get_device()

    def prepare(self, model: StreamingGru) -> nn.Module:
        from ray.train.torch import prepare_model

        # the buffers never change, so there is nothing to broadcast before each step
        return prepare_model(model, parallel_strategy_kwargs={"broadcast_buffers": False})  # type: ignore[no-any-return]

    def total(self, values: Tensor) -> Tensor:
        moved = values.to(self.device)
        torch.distributed.all_reduce(moved)
        return moved.cpu()

    def latest(self) -> Path | None:
        import ray.train

        found: Any = ray.train.get_checkpoint()
        return Path(found.path) if found is not None else None

    def report(self, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        import ray.train

        if self.share.rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory(prefix="keel-epoch-") as folder:
            write(Path(folder))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
