"""The five DAGs, each run by Airflow in a process of its own, through the stages they name and into one home.

In the order of the ring: what one DAG leaves behind is what the next one begins with.
"""

from __future__ import annotations

import email
import email.policy
import json
from collections.abc import Iterator
from dataclasses import replace

import planted
import pytest
from airflow_home import AirflowHome, DagProcess, Run, make_airflow_home
from airflow_home import run as run_python
from in_service import LATER_NS, Session, serve
from wire_frames import USDM, BreathingExchange, stamped, write_lines

from market.clock import NS_PER_S
from market.lake import Lake
from pipelines import audit
from pipelines.approve import ApproveConfig, approve
from pipelines.inference_server import roles_of
from pipelines.mailsink import running_mail_sink
from pipelines.promote import PromoteConfig, promote
from pipelines.workspace import Workspace
from serving.triton.client import TritonClient
from serving.triton.server import Endpoint, default_install, running_triton
from training import datasets
from training.registry import Registry, model_name

pytestmark = pytest.mark.heavy

KEY = planted.INSTRUMENT
MODEL = model_name(KEY)

# A network that is trained in seconds in the task's own process, judged on few rows.
SMALL = {
    "KEEL_TRAIN__WORKERS": "0",
    "KEEL_TRAIN__HIDDEN": "16",
    "KEEL_TRAIN__EPOCHS": "3",
    "KEEL_TRAIN__LANES": "4",
    "KEEL_TRAIN__SEQ_LEN": "32",
    "KEEL_TRAIN__ACCUMULATE": "1",
    "KEEL_EVALUATE__MOST_ROWS": "2000",
    "KEEL_EVALUATE__MAX_ECE": "0.5",
    "KEEL_DEPLOY__MAX_P50_MS": "1000",
    "KEEL_MONITOR__WINDOW_SECONDS": "10",
    "KEEL_MONITOR__BOOTSTRAP": "200",
    "KEEL_PROMOTE__WATCH_SECONDS": "0.1",
}

# a minute or two is served, where production watches hours
SHORT = {
    "KEEL_MONITOR__WINDOW_SECONDS": "15",
    "KEEL_MONITOR__K": "3",
    "KEEL_MONITOR__N": "4",
    "KEEL_MONITOR__WINDOW_ALARM": "0.05",
    "KEEL_MONITOR__MIN_STRENGTH": "0.08",
}
CALM = Session(name="live-calm", seed=50)
LOUD = Session(name="live-loud", seed=51, louder=2.5, start_ns=LATER_NS + 300 * NS_PER_S)
EVEN = Session(name="live-even", rows=3000, seed=52, skill=(0.3, 0.3), start_ns=LATER_NS + 600 * NS_PER_S)
TEST = replace(EVEN, name="live-test", rows=12_000, skill=(0.0, 0.8), start_ns=LATER_NS + 900 * NS_PER_S)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(home=tmp_path_factory.mktemp("dags") / "home", author="grace")
    planted.write_dataset(made.datasets / "planted", planted.Planted(rows=8000))
    return made


@pytest.fixture(scope="module")
def airflow(workspace: Workspace) -> AirflowHome:
    variables = {"KEEL_HOME": str(workspace.home), "KEEL_AUTHOR": workspace.author, **SMALL}
    return make_airflow_home(workspace.home.parent / "airflow", **variables)


@pytest.fixture(scope="module")
def triton(workspace: Workspace) -> Iterator[Endpoint]:
    """Up for the length of the module; the stages find it by the repository it serves."""
    if not (default_install() / "installed").is_file():
        pytest.skip("no Triton server here; run infra/triton/install.sh")
    with running_triton(workspace.triton_repository, logs=workspace.home / "logs") as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def ingested(airflow: AirflowHome, workspace: Workspace) -> tuple[Run, Run, Run]:
    lines = stamped(BreathingExchange(USDM, seed=1).session(seconds=240))
    recording = write_lines(workspace.home.parent / "toy.gz", lines)
    with airflow.dag("ingest_ticks") as ingest_ticks:
        first, second = (ingest_ticks.run(files=[str(recording)], instrument=KEY) for _ in range(2))
        return first, second, ingest_ticks.run()


@pytest.fixture(scope="module")
def trained(airflow: AirflowHome, triton: Endpoint) -> Run:
    with airflow.dag("train_model") as train_model:
        return train_model.run(dataset_id="planted")


@pytest.fixture(scope="module")
def first_champion(trained: Run, workspace: Workspace) -> int:
    """Version 1, approved and promoted as a first model is: there is nothing to test it against."""
    version = int(trained.returned["register"]["version"])
    approve(ApproveConfig(instrument=KEY, version=version, name="ada", reason="the first one"), workspace=workspace)
    promote(PromoteConfig(instrument=KEY, version=version), workspace=workspace)
    return version


@pytest.fixture(scope="module")
def monitored(
    airflow: AirflowHome, workspace: Workspace, ingested: tuple[Run, ...], first_champion: int
) -> tuple[Run, Run, Run]:
    """A run on a market as it was, one after it has changed, and one more on the same."""
    sink = running_mail_sink(workspace.home / "mailsink")
    with sink as mail, airflow.dag("monitor_drift", KEEL_MAIL=str(mail), **SHORT) as monitor_drift:
        serve(workspace, CALM, workspace.home.parent / "calm")
        calm = monitor_drift.run()
        serve(workspace, LOUD, workspace.home.parent / "loud")
        return calm, monitor_drift.run(), monitor_drift.run()


@pytest.fixture(scope="module")
def retrained(airflow: AirflowHome, monitored: tuple[Run, Run, Run], triton: Endpoint) -> Run:
    """What the drift sets off."""
    with airflow.dag("train_model") as train_model:
        return train_model.run(instrument=KEY)


def served(triton: Endpoint) -> tuple[int, ...]:
    with TritonClient(triton) as client:
        return client.served(MODEL)


def test_ingest_ticks_lands_and_judges_a_recording_once(ingested: tuple[Run, Run, Run], workspace: Workspace) -> None:
    first, second, _ = ingested
    assert first.state == second.state == "success"
    lake = Lake(workspace.lake)
    (source,) = first.returned["ingest"]
    raw, verdicts = lake.read("raw", instrument=KEY), lake.read("batches", instrument=KEY)
    assert set(raw["source"].to_pylist()) == {source}
    assert sorted(raw["frame"].to_pylist()) == list(range(1, raw.num_rows + 1))
    assert raw.num_rows > 4000
    assert lake.read("ticks", instrument=KEY).num_rows > raw.num_rows
    assert verdicts["verdict"].to_pylist() == ["pass"] * first.returned["validate"]["judged"]
    assert second.returned["ingest"] == [source]
    assert second.returned["validate"]["judged"] == 0
    assert first.events == [["ticks", KEY, {}]]


def test_ingest_ticks_with_nothing_new_to_land_ends_well(ingested: tuple[Run, Run, Run]) -> None:
    nothing = ingested[2]
    assert nothing.state == "success"
    assert nothing.returned["ingest"] == []
    assert nothing.returned["validate"]["judged"] == 0
    assert nothing.events == []


def test_build_features_cuts_a_dataset_from_what_was_ingested(
    airflow: AirflowHome, workspace: Workspace, ingested: tuple[Run, ...]
) -> None:
    with airflow.dag("build_features") as build_features:
        run = build_features.run(instrument=KEY)
    assert run.state == "success"
    made = run.returned["featurize"]
    assert run.events == [["features", KEY, {}]]
    data = datasets.load(workspace.datasets / made["dataset_id"])
    assert len(data) == made["rows"] > 3000
    assert made["sources"] == ingested[0].returned["ingest"]
    assert Lake(workspace.lake).read("features", instrument=KEY).num_rows == made["computed"]


def test_train_model_registers_a_version_and_puts_it_into_service(trained: Run, workspace: Workspace) -> None:
    assert trained.state == "success"
    assert set(trained.tasks.values()) == {"success"}
    made, deployed = trained.returned["register"], trained.returned["deploy"]
    assert (made["version"], deployed["version"], deployed["serving"]) == (1, 1, [1])
    tags = Registry(workspace.tracking).tags(MODEL, 1)
    assert (tags["dataset_id"], tags["author"]) == ("planted", "grace")
    assert deployed["golden_rows"] == 256
    assert deployed["triton_gap"] < 1e-5


def test_monitor_drift_leaves_a_market_alone_that_is_as_it_was(monitored: tuple[Run, Run, Run]) -> None:
    calm = monitored[0]
    assert calm.state == "success"
    assert not calm.returned["watch.monitor"]["drifted"]
    assert {task for task, state in calm.tasks.items() if state == "skipped"} == {
        "watch.notify",
        "watch.announce",
        "compare",  # there is no challenger
    }
    assert calm.events == []


def test_monitor_drift_mails_a_drift_and_announces_it_once(
    monitored: tuple[Run, Run, Run], workspace: Workspace
) -> None:
    _, loud, again = monitored
    assert loud.state == again.state == "success"
    found = loud.returned["watch.monitor"]
    assert found["drifted"]
    (mail,) = (path for path in (workspace.home / "mailsink" / "new").iterdir())
    received = email.message_from_bytes(mail.read_bytes(), policy=email.policy.default)
    assert KEY in received["Subject"]
    assert found["event_id"] in received["Message-ID"]
    what = {"monitor_id": found["monitor_id"], "event_id": found["event_id"]}
    assert loud.events == [["drift", KEY, what]]
    assert again.returned["watch.monitor"]["event_id"] == found["event_id"]
    assert (again.tasks["watch.announce"], again.events) == ("skipped", [])


def test_train_model_puts_a_challenger_beside_the_champion(
    retrained: Run, workspace: Workspace, triton: Endpoint
) -> None:
    assert (retrained.state, set(retrained.tasks.values())) == ("success", {"success"})
    assert retrained.events == [["challenger", KEY, {}]]
    assert Registry(workspace.tracking).aliases(MODEL) == {"champion": 1, "challenger": 2}
    assert roles_of(workspace, KEY).challenger == 2
    assert served(triton) == (1, 2)


def test_each_dag_waits_for_what_another_makes(airflow: AirflowHome) -> None:
    code = (
        "from airflow.dag_processing.dagbag import DagBag;"
        "dags = DagBag().dags;"
        "made = {name: sorted({o.name for t in dag.tasks for o in t.outlets}) for name, dag in dags.items()};"
        "waits = {name: getattr(getattr(dag.timetable, 'asset_condition', None), 'name', '')"
        " for name, dag in dags.items()};"
        "import json; print(json.dumps([made, waits], sort_keys=True))"
    )
    made, waits = json.loads(run_python(airflow.environment, "-c", code).stdout.strip().splitlines()[-1])
    assert made == {
        "ingest_ticks": ["ticks"],
        "build_features": ["features"],
        "monitor_drift": ["drift", "test_won"],
        "train_model": ["challenger"],
        "promote_model": [],
    }
    assert waits == {
        "ingest_ticks": "",
        "build_features": "ticks",
        "monitor_drift": "",
        "train_model": "drift",
        "promote_model": "test_won",
    }


@pytest.fixture(scope="module")
def promote_model(airflow: AirflowHome, retrained: Run) -> Iterator[DagProcess]:
    with airflow.api_server(), airflow.dag("promote_model") as process:
        yield process


def decisions(workspace: Workspace) -> list[tuple[str, str, str]]:
    """What people said about the challenger."""
    entries = audit.read(audit.path_of(workspace))
    return [(e.what["decision"], e.what["name"], e.what["reason"]) for e in entries if e.kind == "approval"][1:]


def announced(airflow: AirflowHome) -> bool:
    """Whether monitor_drift says that the test is won."""
    with airflow.dag("monitor_drift") as monitor_drift:
        return ["test_won", KEY, {}] in monitor_drift.run().events


def test_nobody_is_asked_before_the_test_is_won(
    airflow: AirflowHome, workspace: Workspace, promote_model: DagProcess
) -> None:
    serve(workspace, EVEN, workspace.home.parent / "even")
    run = promote_model.run()
    assert (run.state, run.tasks["ask"], run.tasks["promote"]) == ("success", "skipped", "skipped")
    assert run.returned["compare"]["verdict"] == "undecided"
    assert not announced(airflow)
    serve(workspace, TEST, workspace.home.parent / "test")
    assert announced(airflow)


def test_the_alias_stays_when_a_person_says_no_the_author_says_yes_or_nobody_says_anything(
    airflow: AirflowHome, workspace: Workspace, promote_model: DagProcess
) -> None:
    registry = Registry(workspace.tracking)
    before = registry.aliases(MODEL)

    promote_model.start()
    promote_model.wait_until_it_asks()
    question = airflow.answer("ada", "reject", "too wide at night")
    run = promote_model.finish()
    assert question["subject"] == f"Promote version 2 of {KEY}?"
    assert question["body"] == run.returned["compare"]["summary"]
    assert (run.state, run.tasks["approved"], run.tasks["promote"]) == ("success", "success", "skipped")
    assert decisions(workspace) == [("reject", "ada", "too wide at night")]
    assert not announced(airflow)  # somebody has decided

    # the author is refused, and not tried again
    promote_model.start()
    promote_model.wait_until_it_asks()
    airflow.answer("grace", "approve", "mine is better")
    run = promote_model.finish()
    assert (run.state, run.tasks["approved"], run.tasks["promote"]) == ("failed", "failed", "upstream_failed")
    assert run.tries["approved"] == 1
    assert promote_model.said("who trains may not approve")

    promote_model.start()
    promote_model.wait_until_it_asks()
    assert airflow.let_the_question_time_out().startswith("1 day")
    run = promote_model.finish()
    assert run.returned["ask"]["chosen_options"] == ["reject"]
    assert run.returned["ask"]["responded_by_user"] is None
    assert (run.state, run.tasks["promote"]) == ("success", "skipped")

    assert len(decisions(workspace)) == 1
    assert registry.aliases(MODEL) == before


def test_promote_model_moves_the_alias_when_a_second_person_approves(
    airflow: AirflowHome, workspace: Workspace, promote_model: DagProcess, triton: Endpoint
) -> None:
    registry = Registry(workspace.tracking)
    promote_model.start()
    promote_model.wait_until_it_asks()
    airflow.answer("ada", "approve", "better by 0.1 nats")
    run = promote_model.finish()
    assert (run.state, set(run.tasks.values())) == ("success", {"success"})
    assert decisions(workspace)[-1] == ("approve", "ada", "better by 0.1 nats")
    assert run.returned["promote"]["approved_by"] == "ada"
    assert run.returned["promote"]["watched"]["failed"] == 0
    assert registry.aliases(MODEL) == {"champion": 2, "previous": 1}
    assert registry.tags(MODEL, 2)["approval_reason"] == "better by 0.1 nats"
    assert served(triton) == (1, 2)
    assert audit.verify_workspace(workspace).entries == len(audit.read(audit.path_of(workspace)))
