"""Take a challenger out of service that has lost its test: the champion quotes alone again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import orjson

from market.errors import InputError
from pipelines.experiments.compare import COMPARE_FILE
from pipelines.promotion import trials
from pipelines.promotion.trials import Desk
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace
from training.registry.registry import Registry


@dataclass(frozen=True, kw_only=True)
class WithdrawConfig(StageConfig):
    """``compare_id``: the test that was lost."""

    instrument: str = "sim-usdm.BTCUSDT"
    compare_id: str


@dataclass(frozen=True, kw_only=True)
class WithdrawResult:
    """``version`` plays no role any more; 0: ``why`` nothing was done."""

    instrument: str
    compare_id: str
    version: int
    champion: int
    why: str = ""

    def line(self) -> str:
        if not self.version:
            return f"nothing was changed: {self.why}"
        return (
            f"version {self.version} of {self.instrument} has lost its test ({self.compare_id}) and is out of service; "
            f"version {self.champion} quotes alone"
        )


def withdraw(config: WithdrawConfig, *, workspace: Workspace) -> WithdrawResult:
    """Withdraw the challenger of a test that says keep, if it is in that test still. It is put on record.

    Raises:
        InputError: there is no such test, it is of another instrument, or it was not lost.
        ServiceError: registry or Triton is away, or another change is under way.
        GateError: the audit record is broken.
    """
    path = workspace.reports / config.compare_id / COMPARE_FILE
    if not path.is_file():
        raise InputError(f"expected a test at {path}, saw none; run keel compare first")
    test = orjson.loads(path.read_bytes())
    if (test["instrument"], test["verdict"]) != (config.instrument, "keep"):
        raise InputError(
            f"expected a test of {config.instrument} that says keep, saw {test['verdict']} of {test['instrument']} in "
            f"{config.compare_id}; only a challenger that is worse is withdrawn"
        )
    desk = Desk(workspace=workspace, registry=Registry(workspace.tracking), instrument=config.instrument)
    nothing = WithdrawResult(
        instrument=config.instrument, compare_id=config.compare_id, version=0, champion=test["champion"]
    )
    with trials.patiently(desk.state):
        roles = desk.roles
        if (roles.champion, roles.challenger, roles.test) != (test["champion"], test["challenger"], test["test"]):
            return replace(nothing, why=f"version {test['challenger']} is not in that test any more")
        if roles.canary is not None and roles.canary.version == roles.challenger:
            return replace(
                nothing, why=f"version {roles.challenger} was approved and is a canary; its guardrails judge it now"
            )
        worse = [
            metric["name"] for metric in test["metrics"] if metric["says"] == "worse" and metric["role"] != "shown"
        ]
        trials.stop_test(desk, roles.challenger, {"evidence": config.compare_id, "worse": worse})
    return replace(nothing, version=roles.challenger)
