"""Featurize is killed (kill -9) again and again in the middle of its work; the next run ends as if undisturbed."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from kit.forked import Forked
from kit.small_lake import INSTRUMENT, Market, later, workspace_with

from market.features import meaning
from market.lake.lake import Lake
from pipelines.features.featurize import FeaturizeConfig, featurize
from pipelines.workspace import Workspace
from training.data import datasets

MARKET = Market(seconds=100, frames=10)
MARKETS = (MARKET, later(MARKET, 240, source="file-two", seed=2))


def featurize_doomed(home: Path, event: str, text: str) -> None:
    """Kills itself right before the first thing of this kind happens: an audit event with this text in its first or
    second argument, or the commit of a lake table."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def watch(name: str, arguments: tuple[object, ...]) -> None:
        if name == event and any(text in str(argument) for argument in arguments[:2]):
            die()

    if event == "replace":
        replace = Lake.replace
        Lake.replace = lambda self, table, *rest, **more: (  # type: ignore[method-assign]
            die() if table == text else replace(self, table, *rest, **more)  # type: ignore[func-returns-value]
        )
    else:
        sys.addaudithook(watch)
    featurize(FeaturizeConfig(), workspace=Workspace(home=home))


MOMENTS = [
    ("replace", "features"),  # nothing was written yet
    ("replace", "labels"),  # features of the first source are in, its labels are not
    ("sqlite3.connect", "online.db"),  # applied, not materialized
    ("open", "dataset.parquet.dvc"),  # the dataset lies in its place, DVC is at work
    ("os.rename", "dataset.json"),  # all but the card
]


@pytest.mark.heavy
def test_featurize_killed_anywhere_ends_as_if_undisturbed(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path / "killed", *MARKETS)
    for event, text in MOMENTS:
        assert Forked(featurize_doomed, workspace.home, event, text).ended() == -signal.SIGKILL, (event, text)
        assert not list(workspace.datasets.glob("*/dataset.json"))
    calm = workspace_with(tmp_path / "calm", *MARKETS)
    killed, undisturbed = (featurize(FeaturizeConfig(), workspace=w) for w in (workspace, calm))
    assert killed.dataset_id == undisturbed.dataset_id
    assert killed.dataset_revision == undisturbed.dataset_revision
    assert contents(workspace) == contents(calm)


def contents(workspace: Workspace) -> dict[str, object]:
    """All that a reader can see."""
    lake = Lake(workspace.lake)
    tables = {name: lake.read(name, instrument=INSTRUMENT.key).to_pydict() for name in ("features", "labels")}
    (folder,) = (path.parent for path in workspace.datasets.glob("*/dataset.json"))
    card = json.loads((folder / "dataset.json").read_text())
    for varies in ("created_ns", "lake_versions"):
        del card[varies]
    assert len(datasets.load(folder)) == card["rows"]
    exported = {path.name: pq.read_table(path).to_pydict() for path in sorted(workspace.feast.rglob("*.parquet"))}
    drafts = [path.name for path in workspace.datasets.glob(".draft*")]
    return {**tables, "card": card, "feast": exported, "drafts": drafts, "feature_set": meaning.feature_set()}
