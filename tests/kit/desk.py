"""A workspace with a registry and a Triton that is up, and what a person and a deployment do there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipelines.deployment.deploy import DeployConfig, DeployResult, deploy
from pipelines.deployment.inference_server import inference_server
from pipelines.governance.approve import ApproveConfig, approve
from pipelines.in_service import roles_of, state_path
from pipelines.promotion.promote import PromoteConfig, PromoteResult, promote
from pipelines.workspace import Workspace
from serving.rollout.roles import Roles
from training.registry import tracking
from training.registry.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry

KEY = "sim-usdm.BTCUSDT"
MODEL = f"keel-{KEY}"


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A workspace with a registry and a Triton that is up. ``registered`` maps a seed to its version, for all tests."""

    workspace: Workspace
    write: Callable[..., Path]
    registered: dict[object, int] = field(default_factory=dict)

    @property
    def registry(self) -> Registry:
        return Registry(self.workspace.tracking)

    def register(self, seed: int, **card: object) -> int:
        """The version of a seed, registered as training would; it becomes challenger."""
        key = (seed, *card.values())
        if key not in self.registered:
            client = tracking.client(self.workspace.tracking)
            experiment = tracking.experiment(client, "keel", self.workspace.artifacts)
            run_id = client.create_run(experiment).info.run_id
            place = self.workspace.runs / run_id / "bundle"
            bundle = self.write(place, seed=seed, run_id=run_id, registry_version=0, **card)
            self.registered[key] = self.registry.register(bundle, {"author": "ada"}).version
        self.registry.set_alias(MODEL, CHALLENGER, self.registered[key])
        return self.registered[key]

    def forget(self) -> None:
        """As if nothing had ever been decided; what is registered stays, and Triton is not told."""
        for alias in (CHAMPION, CHALLENGER, PREVIOUS):
            self.registry.drop_alias(MODEL, alias)
        state_path(self.workspace).unlink(missing_ok=True)
        shutil.rmtree(self.workspace.home / "audit", ignore_errors=True)
        shutil.rmtree(self.workspace.models, ignore_errors=True)

    def deploy(self, version: int | None = None) -> DeployResult:
        return deploy(DeployConfig(instrument=KEY, version=version), workspace=self.workspace)

    def approve(self, version: int, reason: str = "better calibrated") -> None:
        config = ApproveConfig(instrument=KEY, version=version, name="grace", reason=reason)
        approve(config, workspace=self.workspace)

    def promote(self, version: int, **settings: object) -> PromoteResult:
        config = PromoteConfig(instrument=KEY, version=version, **{"watch_seconds": 0.2, **settings})
        return promote(config, workspace=self.workspace)

    def candidate(self, seed: int, **card: object) -> int:
        """Registered, deployed and approved."""
        version = self.register(seed, **card)
        self.deploy(version)
        self.approve(version)
        return version

    def approved(self, seed: int, **card: object) -> int:
        """Registered and approved; never a challenger beside the champion."""
        version = self.register(seed, **card)
        self.approve(version)
        return version

    def crown(self, seed: int) -> int:
        """Everything from registration to champion."""
        version = self.candidate(seed)
        self.promote(version)
        return version

    @property
    def roles(self) -> Roles:
        return roles_of(self.workspace, KEY)

    @property
    def aliases(self) -> dict[str, int]:
        return self.registry.aliases(MODEL)

    def served(self) -> tuple[int, ...]:
        with inference_server(self.workspace) as client:
            return client.served(MODEL)


class Killed(BaseException):
    """As if the process had ended here."""


@contextmanager
def killed_at(target: object, name: str) -> Iterator[None]:
    """Let the process "end" where ``target.name`` is called: nothing but a clean-up of the operating system's runs."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(target, name, die)
        with pytest.raises(Killed):
            yield
