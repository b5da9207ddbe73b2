"""The DAG files: they parse, quickly and without heavy imports, and every stage they name exists."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

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


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("airflow")
    return {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }


def test_all_dags_parse_without_an_error(airflow_home: dict[str, str]) -> None:
    code = (
        "from airflow.dag_processing.dagbag import DagBag;"
        f"bag = DagBag({str(ROOT / 'dags')!r});"
        "print(bag.import_errors); print(sorted(bag.dags))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=airflow_home, check=True)
    errors, names = done.stdout.strip().splitlines()[-2:]
    assert errors == "{}"
    assert names == str(sorted(path.stem for path in DAGS))


@pytest.mark.parametrize("path", DAGS, ids=lambda p: p.stem)
def test_parsing_a_dag_loads_no_heavy_library(path: Path, airflow_home: dict[str, str]) -> None:
    code = (
        "import sys, runpy; import airflow.sdk, airflow.providers.standard.operators.hitl;"
        "before = set(sys.modules);"
        f"runpy.run_path({str(path)!r});"
        f"print(sorted(set({HEAVY!r}) & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=airflow_home, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


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
    assert named or "from pipelines.stages import" in path.read_text()
    assert named <= set(stages.table())


def test_only_what_time_mends_is_tried_again(airflow_home: dict[str, str]) -> None:
    code = (
        "from market.errors import ApprovalError, LakeError, ServiceError;"
        "from pipelines.orchestration.assets import TASK_DEFAULTS;"
        "judge = TASK_DEFAULTS['retry_policy'].evaluate;"
        "errors = ServiceError('away'), LakeError('full'), TimeoutError(), ApprovalError('no'), TypeError();"
        "print([judge(error, 1, 2).action.value for error in errors])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=airflow_home, check=True)
    assert done.stdout.strip().splitlines()[-1] == "['retry', 'retry', 'retry', 'fail', 'fail']"


def test_every_task_but_a_question_is_tried_again(airflow_home: dict[str, str]) -> None:
    code = (
        "from airflow.dag_processing.dagbag import DagBag;"
        f"dags = DagBag({str(ROOT / 'dags')!r}).dags.values();"
        "tasks = [t for dag in dags for t in dag.tasks];"
        "print(sorted({t.retries for t in tasks}), sorted({t.task_id for t in tasks if not t.retries}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=airflow_home, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[0, 2] ['ask']"
