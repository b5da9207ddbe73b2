"""Whoever calls a stage, a DAG task, a DVC stage or Feast, speaks of parameters and columns that exist."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import os
import re
from pathlib import Path
from unittest import mock

import pytest
import typer.main
import yaml

from market.features import catalog, meaning
from pipelines import stages
from pipelines.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
DAGS = sorted((ROOT / "dags").glob("*.py"))
DVC = yaml.safe_load((ROOT / "pipelines" / "dvc.yaml").read_text())["stages"]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def calls(path: Path) -> list[tuple[str, list[str]]]:
    """(stage, names of the overrides) of every ``run_as_task`` in a DAG file; for whom it is, is no override."""
    return [
        (node.args[0].value, [word.arg for word in node.keywords if word.arg not in (None, "author")])
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "run_as_task"
        and isinstance(node.args[0], ast.Constant)
    ]


@pytest.mark.parametrize("path", DAGS, ids=lambda path: path.stem)
def test_a_dag_overrides_only_what_its_stages_know(path: Path) -> None:
    for verb, names in calls(path):
        known = {field.name for field in dataclasses.fields(stages.table()[verb].config)}
        assert set(names) <= known, f"{path.name} gives {verb} {sorted(set(names) - known)}"


@pytest.mark.parametrize("name", DVC)
def test_a_dvc_stage_gives_a_verb_options_it_has(name: str) -> None:
    words = re.findall(r"keel (\w+)(.*?)(?:>|$)", DVC[name]["cmd"])
    assert words
    for verb, rest in words:
        known = {option for param in COMMANDS[verb].params for option in param.opts}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known


def test_feast_holds_the_whole_catalog() -> None:
    with mock.patch.dict(os.environ, {"KEEL_FEAST_HOME": "/nonexistent"}):
        views = importlib.import_module("feature_repo.definitions")
    assert {field.name for field in views.tick_features.features} == set(catalog.tick_names())
    assert {field.name for field in views.slow_features.features} == set(catalog.slow_names())
    assert views.tick_features.tags["feature_set"] == meaning.feature_set()
