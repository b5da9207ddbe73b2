"""Training on Ray: one cluster a process, a fit is a group of workers on it."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from market.errors import ModelError
from training.data.sequences import Share
from training.fitting.loop import fit
from training.fitting.plan import Plan

OBJECT_STORE_BYTES = 200 * 1024 * 1024
_LOOPBACK = "127.0.0.1"
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # the controller looks after its workers this often; its default of 2 s is most of a short fit
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
# Ray binds all its servers to loopback where it believes that it cannot be part of a larger cluster
_LOCAL_SETTINGS = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# a path to a Unix socket may have 107 characters, of which Ray's session folder takes these
_SOCKET_ROOM = 107 - len("/session_2026-11-21_07-27-00_123456_1234567/sockets/plasma_store")


def connect(cpus: int, folder: Path | None = None) -> None:
    """Be connected to a cluster: the one already connected to, the one at ``RAY_ADDRESS``, or a new local one.

    The local one listens on loopback only and stays up until the process ends, for all fits of the process. Its logs
    and sockets lie under ``folder`` where that path is short enough for sockets, else in the system's temporary folder.
    """
    remote = os.environ.get("RAY_ADDRESS")
    for name, value in (_SETTINGS if remote else {**_SETTINGS, **_LOCAL_SETTINGS}).items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    if remote:
        ray.init(log_to_driver=False)
        return
    short = folder is not None and len(str(folder.absolute())) <= _SOCKET_ROOM
    ray.init(
        address="local",
        num_cpus=cpus,
        object_store_memory=OBJECT_STORE_BYTES,
        # the dashboard is nine more processes, half the start on a small machine
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        _node_ip_address=_LOOPBACK,
        _temp_dir=str(folder.absolute()) if folder is not None and short else None,
    )


def disconnect() -> None:
    """Stop the local cluster, if this process started one."""
    import ray

    ray.shutdown()


def fit_on_ray(run_folder: Path, plan: Plan, workers: int, cluster_folder: Path | None = None) -> Path:
    """Run the plan in ``run_folder`` on ``workers`` workers; resumes from its checkpoints if there are any.

    Returns:
        folder of the last checkpoint.

    Raises:
        ModelError: a worker failed, and failed again after a restart.
    """
    connect(workers, cluster_folder)
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = plan.recipe.device == "cuda"
    trainer = (TorchTrainer if os.environ.get("RAY_ADDRESS") else _lean(TorchTrainer))(
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
    result = _run(trainer, run_folder)
    if result.checkpoint is None:
        raise ModelError(f"the fit in {run_folder} ended without a checkpoint; is `epochs` at least 1?")
    return Path(result.checkpoint.path)


def _run(trainer: Any, run_folder: Path) -> Any:
    """Fit, with the workers' errors raised as ours."""
    from ray.train import TrainingFailedError

    # fit() leaves its own handler of Ctrl-C behind
    before = signal.getsignal(signal.SIGINT)
    try:
        return trainer.fit()
    except TrainingFailedError as error:
        raise ModelError(
            f"training on Ray failed in {run_folder}: {error}; rerun it to resume from its checkpoints"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _lean(trainer: Any) -> Any:
    """``trainer`` without two helper actors that a cluster of our own has no need of; each is a process that imports
    all of Ray Train, on two cores two seconds of every fit.

    One deals out Ray Data sets (our workers read their files themselves), one frees the resources of a controller that
    died (our cluster ends with this process).
    """
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class LeanTrainer(trainer):
        def _create_default_callbacks(self) -> list[Any]:
            dropped = (DatasetsCallback, PlacementGroupCleanerCallback)
            return [c for c in super()._create_default_callbacks() if not isinstance(c, dropped)]

    return LeanTrainer


def _worker_loop(config: dict[str, str]) -> None:
    fit(Path(config["run_folder"]), RayWorker())


class RayWorker:
    """One of the workers of a Ray fit; see :class:`training.fitting.loop.Worker`."""

    def __init__(self) -> None:
        import ray.train
        from ray.train.torch import get_device

        context = ray.train.get_context()
        self.share = Share(rank=context.get_world_rank(), world=context.get_world_size())
        self.device: torch.device = get_device()

    def average(self, model: nn.Module) -> None:
        # one message for all gradients: a small network's are small, and each message costs a round trip
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.share.world
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

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
