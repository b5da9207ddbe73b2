"""The DAG files: they parse, quickly and without heavy imports, and every stage they name exists."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines import stages

ROOT = Path(__file__).resolve().parents[2]
DAGS = sorted((ROOT / "dags").glob("*.py"))
HEAVY = [
    "torch",
    "mlflow",
    "ray",
    "feast",
    "evidently",
    "great_expectations",
    "lightgbm",
    "matplotlib",
    "pandas",
    "numba",
]


# what Airflow makes of them, in one process of its own: importing it takes seconds
LOOK = """
import json, runpy, sys
import airflow.sdk, airflow.providers.standard.operators.hitl
folder, heavy = sys.argv[1], set(json.loads(sys.argv[2]))
found = {"heavy": {}}
for path in json.loads(sys.argv[3]):
    before = set(sys.modules)
    runpy.run_path(path)
    found["heavy"][path] = sorted(heavy & (set(sys.modules) - before))
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(folder)
tasks = [task for dag in bag.dags.values() for task in dag.tasks]
found |= {"errors": bag.import_errors, "dags": sorted(bag.dags)}
found |= {"retries": sorted({t.retries for t in tasks}), "once": sorted({t.task_id for t in tasks if not t.retries})}
from market.errors import ApprovalError, LakeError, ServiceError
from pipelines.orchestration.assets import TASK_DEFAULTS
judge = TASK_DEFAULTS["retry_policy"].evaluate
errors = ServiceError("away"), LakeError("full"), TimeoutError(), ApprovalError("no"), TypeError()
found["judged"] = [judge(error, 1, 2).action.value for error in errors]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    variables = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    words = [str(ROOT / "dags"), json.dumps(HEAVY), json.dumps([str(path) for path in DAGS])]
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *words], capture_output=True, text=True, env=variables, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def test_all_dags_parse_without_an_error(found: dict[str, Any]) -> None:
    assert found["errors"] == {}
    assert found["dags"] == sorted(path.stem for path in DAGS)


@pytest.mark.parametrize("path", DAGS, ids=lambda p: p.stem)
def test_parsing_a_dag_loads_no_heavy_library(path: Path, found: dict[str, Any]) -> None:
    assert found["heavy"][str(path)] == []


@pytest.mark.parametrize("path", DAGS, ids=lambda p: p.stem)
def test_a_dag_is_thin(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert len(path.read_text().splitlines()) <= 100
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name != path.stem:
            steps = [step for step in node.body if not isinstance(step, ast.FunctionDef | ast.ImportFrom)]
            assert len(steps) <= 5, f"{path.name}: {node.name} does work of its own"


@pytest.mark.parametrize("path", DAGS, ids=lambda p: p.stem)
def test_every_stage_a_dag_runs_exists(path: Path) -> None:
    named = {
        node.args[0].value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "run_as_task"
    }
    assert named or "from pipelines.orchestration.questions import" in path.read_text()
    assert named <= set(stages.table())


def test_only_what_time_mends_is_tried_again(found: dict[str, Any]) -> None:
    assert found["judged"] == ["retry", "retry", "retry", "fail", "fail"]


def test_every_task_but_a_question_is_tried_again(found: dict[str, Any]) -> None:
    assert (found["retries"], found["once"]) == ([0, 2], ["ask"])
