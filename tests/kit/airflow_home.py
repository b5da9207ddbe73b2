"""Airflow's embedded default in a folder, one for all tests: its database, a process that runs DAGs, and where people
answer.

A DAG runs with ``dag.test()`` in that process, one after the other, each run with the lifecycle's variables of its
test. It parks at a question until somebody answers; people do so through Airflow's own API server, signed in, as its
approval screen does.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
PEOPLE = ("ada", "grace", "mallory")
RESULT, WAITING = "RESULT ", "Waiting for Human-in-the-loop input"
START_SECONDS = 600.0  # a machine may be busy

# What the scheduler does once a question is older than its time-out, with the day having gone by in the database.
SWEEP = """
from airflow._shared.timezones import timezone
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
with create_session() as session:
    (asked,) = session.query(TaskInstance).filter_by(state="awaiting_input").all()
    print(asked.trigger_timeout - asked.start_date)
    asked.trigger_timeout = timezone.utcnow()
SchedulerJobRunner(job=Job()).check_awaiting_input_timeouts()
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: its state, ``task -> state``, how often each task was tried, what it returned, and the assets it
    made anew: name, partition, what was said about it."""

    state: str
    tasks: dict[str, str]
    tries: dict[str, int]
    returned: dict[str, Any]
    events: list[list[Any]]


class Worker:
    """The process that runs DAGs: what it imports for one of them it has for the others."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "kit" / "run_dag.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def read_to(self, mark: str, log: list[str]) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            log.append(line)
            if mark in line:
                return line
        raise AssertionError(f"the process ended before it said {mark!r}:\n{''.join(log[-80:])}")

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


class Dag:
    """One DAG with variables of the lifecycle, to be run as often as one likes. ``log``: what was said meanwhile."""

    def __init__(self, name: str, airflow: Airflow, variables: dict[str, str]) -> None:
        self._name, self._airflow, self._variables = name, airflow, variables
        self._worker: Worker | None = None  # that runs it now
        self.log: list[str] = []

    def run(self, **conf: Any) -> Run:
        self.start(**conf)
        return self.finish()

    def start(self, **conf: Any) -> None:
        self._worker = self._airflow.worker()
        self._worker.ask({"dag_id": self._name, "conf": conf, "variables": self._variables})

    def wait_until_it_asks(self) -> None:
        self._read_to(WAITING)

    def finish(self) -> Run:
        told = json.loads(self._read_to(RESULT).removeprefix(RESULT))
        self._worker = None
        return Run(
            state=told["state"],
            tasks={name: task["state"] for name, task in told["tasks"].items()},
            tries={name: task["tries"] for name, task in told["tasks"].items()},
            returned=told["returned"],
            events=told["events"],
        )

    def said(self, words: str) -> bool:
        return any(words in line for line in self.log)

    def break_off(self) -> None:
        """End a run that is under way, if one is: it may be waiting for an answer that nobody gives any more."""
        if self._worker is not None:
            self._worker.kill()

    def _read_to(self, mark: str) -> str:
        assert self._worker is not None, "start it first"
        return self._worker.read_to(mark, self.log)


class Airflow:
    """A migrated database, the process that runs DAGs on it and, once somebody is to answer, the API server."""

    def __init__(self, environment: dict[str, str], url: str) -> None:
        self.environment, self.url = environment, url
        self._worker: Worker | None = None
        self._api_server: subprocess.Popen[bytes] | None = None

    def worker(self) -> Worker:
        if self._worker is None or not self._worker.alive:
            self._worker = Worker(self.environment)
        return self._worker

    def start_api_server(self) -> None:
        _, _, port = self.url.rpartition(":")
        log = Path(self.environment["AIRFLOW_HOME"]) / "api-server.log"
        words = ["airflow", "api-server", "--host", "127.0.0.1", "--port", port, "--workers", "1", "--apps", "core"]
        if self._api_server is None:
            with log.open("wb") as sink:
                self._api_server = subprocess.Popen(
                    [sys.executable, "-m", *words], env=self.environment, cwd=ROOT, stdout=sink, stderr=sink
                )
        self._wait_for(self._api_server, log)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.kill()
        if self._api_server is not None:
            self._api_server.terminate()
            self._api_server.wait()

    def _wait_for(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.get(f"{self.url}/api/v2/version").is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.2)
        raise AssertionError(f"Airflow's API server did not come up:\n{log.read_text()[-4000:]}")


@dataclass(frozen=True, kw_only=True)
class AirflowHome:
    """Airflow with the lifecycle's own ``variables`` (``KEEL_HOME`` and so on)."""

    airflow: Airflow
    variables: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        return {**self.airflow.environment, **self.variables}

    def of(self, **variables: str) -> AirflowHome:
        """The same Airflow with other variables."""
        return AirflowHome(airflow=self.airflow, variables=variables)

    @contextmanager
    def dag(self, dag_id: str, **variables: str) -> Iterator[Dag]:
        dag = Dag(dag_id, self.airflow, {**self.variables, **variables})
        try:
            yield dag
        finally:
            dag.break_off()
            print("".join(dag.log))  # pytest shows it with a failure

    def assets(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Which assets each DAG makes, and which ones start it."""
        worker = self.airflow.worker()
        worker.ask({})
        made, waits = json.loads(worker.read_to(RESULT, []).removeprefix(RESULT))
        return made, waits

    def start_api_server(self) -> None:
        """Airflow's API server, which is where a person answers; it stays up."""
        self.airflow.start_api_server()

    def answer(self, who: str, choice: str, reason: str, field: str = "reason") -> dict[str, Any]:
        """What ``who`` does at the one open question; returns the question as it was shown."""
        login = httpx.post(f"{self.airflow.url}/auth/token", json={"username": who, "password": f"password of {who}"})
        bearer = {"Authorization": f"Bearer {login.raise_for_status().json()['access_token']}"}
        api = httpx.Client(base_url=f"{self.airflow.url}/api/v2", headers=bearer, timeout=60)
        with api:
            pending = api.get("/dags/~/dagRuns/~/hitlDetails", params={"response_received": False}).raise_for_status()
            (question,) = pending.json()["hitl_details"]
            task = question["task_instance"]
            path = f"/dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}/-1/hitlDetails"
            api.patch(path, json={"chosen_options": [choice], "params_input": {field: reason}}).raise_for_status()
        return dict(question)

    def let_the_question_time_out(self) -> str:
        """Returns how long the question would have waited."""
        return run(self.environment, "-c", SWEEP).stdout.strip().splitlines()[0]


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowHome]:
    """One migrated database for all tests; a test's own are its variables (:meth:`AirflowHome.of`)."""
    home = make_airflow_home(tmp_path_factory.mktemp("airflow") / "home")
    try:
        yield home
    finally:
        home.airflow.close()


def make_airflow_home(folder: Path, **variables: str) -> AirflowHome:
    """Migrate a new database under ``folder``. Of the ``variables`` those of Airflow hold from its start on."""
    folder.mkdir(parents=True)
    passwords = folder / "passwords.json"
    passwords.write_text(json.dumps({who: f"password of {who}" for who in PEOPLE}))
    url = f"http://127.0.0.1:{_free_port()}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("KEEL_", "AIRFLOW"))}
    environment |= {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{who}:user" for who in PEOPLE),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API_AUTH__JWT_SECRET": "a secret that is as long as the longest of its hashes wants it to be",
        "PYTHONPATH": str(ROOT),
    }
    environment |= {name: value for name, value in variables.items() if name.startswith("AIRFLOW")}
    run(environment, "-m", "airflow", "db", "migrate")
    return AirflowHome(airflow=Airflow(environment, url), variables=variables)


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *words], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
