"""A monitor's report in MLflow: under the run it speaks of, later where MLflow is away, and never twice."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict
from pathlib import Path

import orjson
import pytest
from kit.empty_registry import empty_registry

from market.clock import ManualClock
from pipelines.monitoring.report_archive import REPORT_FILE, WAITING_FILE, Links, forget_pages, keep
from pipelines.workspace import Workspace
from training.registry import tracking


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def workspace(home: Path) -> Workspace:
    return Workspace(home=home, clock=ManualClock())


@pytest.fixture(scope="module")
def run_id(workspace: Workspace) -> str:
    client = empty_registry(workspace.tracking)
    return str(client.create_run(tracking.experiment(client, "keel", workspace.artifacts)).info.run_id)


def report(workspace: Workspace, name: str) -> Path:
    folder = workspace.reports / name
    folder.mkdir(parents=True)
    for file in ("evidently.html", "drift.png", "monitor.json"):
        (folder / file).write_text(f"{name} {file}")
    (folder / "drift.png.1.tmp").write_text("half a picture")
    return folder


def writer(folder: Path, *, drifted: bool = True, failing: bool = False) -> tuple[list[Links], object]:
    told: list[Links] = []
    found = {"drifted": drifted, "checks": [{"verdict": "fail" if failing else "pass"}]}

    def write(links: Links) -> None:
        told.append(links)
        (folder / REPORT_FILE).write_bytes(orjson.dumps({"links": asdict(links), **found}))

    return told, write


def kept(workspace: Workspace, run_id: str, name: str) -> list[str]:
    client = tracking.client(workspace.tracking)
    return sorted(Path(each.path).name for each in client.list_artifacts(run_id, f"monitoring/{name}"))


def test_the_report_lies_under_the_run_with_its_own_links_in_it(workspace: Workspace, run_id: str) -> None:
    folder = report(workspace, "monitor-1")
    told, write = writer(folder)
    links = keep(workspace, folder, run_id, write)  # type: ignore[arg-type]
    assert links == Links(artifacts=f"runs:/{run_id}/monitoring/monitor-1")
    assert told == [links]
    assert kept(workspace, run_id, "monitor-1") == ["drift.png", "evidently.html", "monitor.json"]
    client = tracking.client(workspace.tracking)
    fetched = Path(client.download_artifacts(run_id, "monitoring/monitor-1/monitor.json"))
    assert orjson.loads(fetched.read_bytes())["links"] == asdict(links)
    assert not (folder / WAITING_FILE).exists()


def test_a_quiet_look_leaves_its_figures_and_a_failing_check_its_page_too(workspace: Workspace, run_id: str) -> None:
    for name, failing in (("monitor-quiet", False), ("monitor-failing", True)):
        folder = report(workspace, name)
        _, write = writer(folder, drifted=False, failing=failing)
        keep(workspace, folder, run_id, write)  # type: ignore[arg-type]
        assert (folder / "evidently.html").is_file(), "here it can still be read"
    assert kept(workspace, run_id, "monitor-quiet") == ["drift.png", "monitor.json"]
    assert kept(workspace, run_id, "monitor-failing") == ["drift.png", "evidently.html", "monitor.json"]


def test_of_quiet_looks_only_the_newest_pages_stay(tmp_path: Path) -> None:
    workspace = Workspace(home=tmp_path, clock=ManualClock())
    for i in range(6):
        folder = report(workspace, f"monitor-{i}")
        writer(folder, drifted=i == 0)[1](Links(artifacts=""))  # type: ignore[operator]
        os.utime(folder / "evidently.html", ns=(i, i))
    forget_pages(workspace, 2)
    assert [(workspace.reports / f"monitor-{i}" / "evidently.html").is_file() for i in range(6)] == [
        True,  # a drift's, and the oldest
        False,
        False,
        False,
        True,
        True,
    ]
    assert len(list(workspace.reports.glob("*/drift.png"))) == 6


def test_a_registry_that_is_away_is_said_and_the_report_goes_with_the_next_one(
    workspace: Workspace, run_id: str, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = Workspace(home=workspace.home, clock=ManualClock(), tracking_uri=f"http://127.0.0.1:{free_port}")
    folder = report(workspace, "monitor-2")
    told, write = writer(folder)
    links = keep(away, folder, run_id, write)  # type: ignore[arg-type]
    assert f"127.0.0.1:{free_port}" in links.waiting
    assert told[-1] == links
    assert (folder / WAITING_FILE).exists()

    next_one = report(workspace, "monitor-3")
    keep(workspace, next_one, run_id, writer(next_one)[1])  # type: ignore[arg-type]
    for name in ("monitor-2", "monitor-3"):
        assert kept(workspace, run_id, name) == ["drift.png", "evidently.html", "monitor.json"]
        assert not (workspace.reports / name / WAITING_FILE).exists()
        assert orjson.loads((workspace.reports / name / REPORT_FILE).read_bytes())["links"]["waiting"] == ""


def test_a_run_that_is_not_there_holds_nobody_else_up(workspace: Workspace, run_id: str) -> None:
    lost = report(workspace, "monitor-4")
    links = keep(workspace, lost, "0" * 32, writer(lost)[1])  # type: ignore[arg-type]
    assert "0" * 32 in links.waiting
    fine = report(workspace, "monitor-5")
    assert not keep(workspace, fine, run_id, writer(fine)[1]).waiting  # type: ignore[arg-type]
    assert (lost / WAITING_FILE).exists()


def test_a_page_names_no_password() -> None:
    class Info:
        experiment_id = "7"

    class Run:
        info = Info()

    class Server:
        """Answers as a client of a server with a login does."""

        tracking_uri = "https://ada:secret@mlflow.example/"

        def get_run(self, _run_id: str) -> Run:
            return Run()

    page = tracking.page(Server(), "r1", "monitoring/monitor-1")
    assert page == "https://mlflow.example/#/experiments/7/runs/r1/artifacts/monitoring/monitor-1"
