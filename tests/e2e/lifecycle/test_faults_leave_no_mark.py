"""A part of the stack is taken away in the middle of a run: what is there in the end is what would be there without.

A twin in a folder of its own, without a stack, lands the same recordings undisturbed. Every fault has a run of its own
under ``lifecycle``; what `make test` has is one run in which four servers are taken away.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
from kit.landed_lake import LANDED
from kit.live_ring import KEY, LiveRing
from kit.local_stack import LONG, leave_no_room, resize, until
from kit.wire_frames import START_NS, USDM, ToyExchange, stamped, write_lines

from market.clock import NS_PER_S
from market.features import meaning
from market.lake.lake import Lake
from pipelines import stages
from pipelines.features.store import read_slow
from pipelines.in_service import roles_of
from pipelines.stack.processes import environment_of, left_behind
from pipelines.stack.supervisor import Supervisor
from pipelines.workspace import Workspace
from serving.bundle import golden_gap, load_bundle
from serving.triton.client import TritonClient
from training.registry.registry import model_name

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800)]

TOY = USDM.key
TABLES = (*LANDED, "features", "labels")
SECONDS = 450


@dataclass
class Twins:
    """The stack, and its twin that nothing happens to. ``landed`` counts the recordings that both were given."""

    ring: LiveRing
    calm: Workspace
    landed: int = field(default=0)

    @contextmanager
    def landing(self) -> Iterator[str]:
        """Give both the next recording: within, Airflow's run is under way; afterwards both are the same."""
        start_ns = START_NS + self.landed * 2 * SECONDS * NS_PER_S
        lines = stamped(ToyExchange(seed=self.landed).session(seconds=SECONDS, rate=40, start_ns=start_ns))
        recording = write_lines(self.calm.home / f"toy-{self.landed}.gz", lines)
        self.landed += 1
        stages.run("ingest", workspace=self.calm, files=(str(recording),), instrument=TOY)
        stages.run("validate", workspace=self.calm)
        stages.run("refresh", workspace=self.calm, instrument=TOY)
        with self.ring.stack.airflow("engineer") as api:
            body = {"logical_date": None, "conf": {"files": [str(recording)], "instrument": TOY}}
            run = api.post("/dags/ingest_ticks/dagRuns", json=body).raise_for_status().json()["dag_run_id"]
        yield run
        self.ring.ends_well("ingest_ticks", dag_run_id=run)

        def featurized() -> bool:
            """build_features to have used every recording"""
            runs = self.ring.runs("build_features", partition_key=TOY)
            ended = [run["state"] for run in runs]
            assert "failed" not in ended, self.ring.tasks("build_features", runs[0]["dag_run_id"])
            return len(ended) >= self.landed and set(ended) == {"success"}

        until(featurized, LONG)
        assert_same(self.ring.workspace, self.calm)

    def when(self, run: str, task: str, *states: str) -> None:
        """Wait until a task of a run of ingest_ticks is in one of these states."""

        def is_so() -> bool:
            return self.ring.tasks("ingest_ticks", run).get(task) in states

        is_so.__doc__ = f"{task} to be {states}"
        until(is_so, LONG)

    def refused_features(self) -> None:
        """Wait until a run of build_features was told that a server is away."""

        def refused() -> bool:
            """build_features to be told that Redis is away"""
            runs = self.ring.runs("build_features", state="running")  # the market's, too: it is one at a time
            tasks = [self.ring.tasks("build_features", run["dag_run_id"]) for run in runs]
            return any("up_for_retry" in each.values() for each in tasks)

        until(refused, LONG)

    def answer(self) -> float:
        """How far Triton is from the champion's golden answers."""
        ring = self.ring
        version = roles_of(ring.workspace, KEY).champion
        folder = ring.workspace.models / KEY / str(version)
        bundle = load_bundle(folder, now_ns=ring.workspace.clock.now_ns(), feature_set=meaning.feature_set())
        with TritonClient(ring.stack.site.address("triton-grpc")) as client:
            return golden_gap(client.step(model_name(KEY), bundle.manifest.registry_version), bundle.golden)

    def kill_triton(self) -> None:
        (server,) = (
            p for p in psutil.Process(self.pid("triton")).children(recursive=True) if p.name() == "tritonserver"
        )
        server.kill()

    def up_again(self, before: dict[str, int]) -> None:
        """Wait until these servers, which had these process ids, are up again."""

        def back() -> bool:
            """the servers that were killed to be up again"""
            states = self.ring.stack.states()
            return all(states[name]["pid"] != pid and states[name]["state"] == "up" for name, pid in before.items())

        until(back, LONG, every=1.0)

    def pid(self, server: str) -> int:
        return int(self.ring.stack.states()[server]["pid"])

    def processes(self, server: str) -> set[int]:
        """Ids of a server's processes, children included."""
        found = left_behind(self.ring.stack.site)
        return {each.pid for each in found if environment_of(each).get("SUPERVISOR_PROCESS_NAME") == server}

    def all_well(self) -> None:
        until(self.ring.stack.is_well, LONG, every=1.0)
        quotes_go_on(self.ring)


def assert_same(one: Workspace, other: Workspace) -> None:
    """Rows of every table in their order, and what Feast has online."""
    for table in TABLES:
        mine, theirs = (Lake(w.lake).read(table, instrument=TOY) for w in (one, other))
        assert mine.num_rows == theirs.num_rows, table
        assert mine.equals(theirs), table
    np.testing.assert_array_equal(read_slow(one, TOY), read_slow(other, TOY))


def quotes_go_on(ring: LiveRing) -> None:
    """The session quotes, with the champion, and the market moves on."""

    def quoting() -> bool:
        """the quoter to quote with the champion"""
        alive = ring.alive()
        return alive.doing == "quoting" and alive.versions == (roles_of(ring.workspace, KEY).champion,)

    until(quoting, LONG)
    ring.market_passes(20)


@pytest.fixture(scope="module")
def twins(first: LiveRing, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    home = tmp_path_factory.mktemp("calm")
    return Twins(ring=first, calm=Workspace(home=home, author="airflow"))


def test_four_servers_taken_away_in_one_run(twins: Twins) -> None:
    """The scheduler and PostgreSQL at once while a task runs; Triton beside it; Redis when it is asked."""
    supervisor, distance = Supervisor(twins.ring.stack.site), twins.answer()
    states = twins.ring.stack.states()
    before = {name: int(states[name]["pid"]) for name in ("airflow-scheduler", "postgresql", "triton")}
    with twins.landing() as run:
        twins.when(run, "ingest[0]", "running")
        workers = twins.processes("airflow-scheduler")
        os.kill(before["postgresql"], signal.SIGKILL)
        os.kill(before["airflow-scheduler"], signal.SIGKILL)
        twins.kill_triton()
        supervisor.stop_server("redis")
        twins.up_again(before)
        assert twins.answer() == distance
        twins.refused_features()
        supervisor.start_server("redis")
    assert workers & twins.processes("airflow-scheduler") == set(), "workers of the killed one live on"
    twins.all_well()


@pytest.mark.lifecycle
def test_a_scheduler_killed_in_the_middle_of_a_run(twins: Twins) -> None:
    with twins.landing() as run:
        twins.when(run, "ingest[0]", "running")
        before, workers = twins.pid("airflow-scheduler"), twins.processes("airflow-scheduler")
        assert len(workers) > 1, "the scheduler and its workers"
        os.kill(before, signal.SIGKILL)
    assert twins.pid("airflow-scheduler") != before
    assert workers & twins.processes("airflow-scheduler") == set(), "workers of the killed one live on"
    twins.all_well()


@pytest.mark.lifecycle
def test_postgresql_killed_in_the_middle_of_a_run(twins: Twins) -> None:
    with twins.landing() as run:
        twins.when(run, "ingest[0]", "running")
        os.kill(twins.pid("postgresql"), signal.SIGKILL)
        until(twins.ring.stack.is_well, LONG, every=1.0)  # until then Airflow's API has no answers
    twins.all_well()


@pytest.mark.lifecycle
def test_redis_away_for_a_while(twins: Twins) -> None:
    supervisor = Supervisor(twins.ring.stack.site)
    with twins.landing():
        supervisor.stop_server("redis")
        twins.refused_features()
        supervisor.start_server("redis")
    twins.all_well()


@pytest.mark.lifecycle
def test_a_full_disk_under_the_lake(twins: Twins) -> None:
    lake = Path(twins.ring.workspace.lake)
    if not lake.is_mount():
        pytest.skip("mounting a file system for the lake is not allowed here")
    disk = os.statvfs(lake)
    with twins.landing() as run:
        leave_no_room(lake)
        twins.when(run, "ingest[0]", "up_for_retry")
        assert resize(lake, disk.f_blocks * disk.f_frsize)
    twins.all_well()


def test_after_all_that_a_dataset_is_the_same_to_the_byte(twins: Twins) -> None:
    made = [stages.run("featurize", workspace=w, instrument=TOY) for w in (twins.ring.workspace, twins.calm)]
    assert made[0].dataset_id == made[1].dataset_id
    assert len(made[0].sources) == twins.landed


@pytest.mark.lifecycle
def test_triton_killed(twins: Twins) -> None:
    distance, before = twins.answer(), {"triton": twins.pid("triton")}
    twins.kill_triton()
    twins.up_again(before)
    assert twins.answer() == distance
    twins.all_well()
