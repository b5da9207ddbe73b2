"""The DAGs, run by Airflow through the stages they name and into one home.

In the order of the ring: what one DAG leaves behind is what the next one begins with.
"""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from kit import planted
from kit.airflow_home import AirflowHome, Dag, Run
from kit.in_service import LATER_NS, Session, serve
from kit.wire_frames import START_NS, USDM, BreathingExchange, stamped, write_lines

from market.clock import NS_PER_S
from market.lake.lake import Lake
from pipelines.governance import audit
from pipelines.governance.people import NOBODY
from pipelines.in_service import roles_of
from pipelines.promotion.trials import STOPPED
from pipelines.stack.mail_sink import running_mail_sink
from pipelines.workspace import Workspace
from serving.triton.client import TritonClient
from serving.triton.server import Endpoint, default_install, running_triton
from training.data import datasets
from training.registry.registry import Registry, model_name

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
EVEN = Session(name="live-even", rows=3000, seed=52, skill=(0.3, 0.3), start_ns=LATER_NS + 600 * NS_PER_S, test=1)
TEST = replace(EVEN, name="live-test", rows=18_000, skill=(0.0, 0.8), test=2, start_ns=LATER_NS + 900 * NS_PER_S)
MORE = replace(TEST, name="live-more", seed=53, start_ns=LATER_NS + 1500 * NS_PER_S)
LAST = replace(TEST, name="live-last", seed=54, start_ns=LATER_NS + 2100 * NS_PER_S)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(home=tmp_path_factory.mktemp("dags") / "home", author="grace")
    planted.write_dataset(made.datasets / "planted", planted.Planted(rows=8000))
    return made


@pytest.fixture(scope="module")
def airflow(airflow_home: AirflowHome, workspace: Workspace) -> AirflowHome:
    variables = {"KEEL_HOME": str(workspace.home), "KEEL_AUTHOR": workspace.author, "KEEL_APPROVERS": "ada, grace"}
    return airflow_home.of(**variables, **SMALL)


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
def promote_model(airflow: AirflowHome) -> Iterator[Dag]:
    """Where people answer: the DAG that asks, and Airflow's API server."""
    airflow.start_api_server()
    with airflow.dag("promote_model") as dag:
        yield dag


@pytest.fixture(scope="module")
def crowned(airflow: AirflowHome, trained: Run, promote_model: Dag) -> tuple[dict[str, Any], Run]:
    """Version 1, asked about by its evaluation, since there is nothing to test it against."""
    promote_model.start()
    promote_model.wait_until_it_asks()
    question = airflow.answer("ada", "approve", "the first one")
    return question, promote_model.finish()


@pytest.fixture(scope="module")
def first_champion(crowned: tuple[dict[str, Any], Run]) -> int:
    return int(crowned[1].returned["promote"]["version"])


@pytest.fixture(scope="module")
def monitored(
    airflow: AirflowHome, workspace: Workspace, ingested: tuple[Run, ...], first_champion: int
) -> tuple[Run, Run, Run]:
    """A run on a market as it was, one after it has changed, and one more on the same."""
    sink = running_mail_sink(workspace.home / "mailsink")
    # the first model was trained a moment ago: without a cool-down for now
    settings = {**SHORT, "KEEL_RETRAIN__COOL_DOWN_HOURS": "0"}
    with sink as mail, airflow.dag("monitor_drift", KEEL_MAIL=str(mail), **settings) as monitor_drift:
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
    (source,) = first.returned["ingest"]["sources"]
    raw, verdicts = lake.read("raw", instrument=KEY), lake.read("batches", instrument=KEY)
    assert set(raw["source"].to_pylist()) == {source}
    assert sorted(raw["frame"].to_pylist()) == list(range(1, raw.num_rows + 1))
    assert raw.num_rows > 4000
    assert lake.read("ticks", instrument=KEY).num_rows > raw.num_rows
    assert verdicts["verdict"].to_pylist() == ["pass"] * first.returned["validate"]["judged"]
    assert second.returned["ingest"]["sources"] == [source]
    assert second.returned["validate"]["judged"] == 0
    assert first.events == second.events == [["ticks", KEY, {}]]  # the first may have died before it said so


def test_ingest_ticks_with_nothing_new_to_land_ends_well(ingested: tuple[Run, Run, Run]) -> None:
    nothing = ingested[2]
    assert nothing.state == "success"
    assert nothing.returned["recordings"] == []
    assert (nothing.tasks["ingest"], nothing.tasks["validate"]) == ("skipped", "skipped")
    assert nothing.events == []


def test_build_features_computes_what_was_ingested_once(
    airflow: AirflowHome, workspace: Workspace, ingested: tuple[Run, ...]
) -> None:
    with airflow.dag("build_features") as build_features:
        run, again = build_features.run(instrument=KEY), build_features.run(instrument=KEY)
    assert (run.state, again.state) == ("success", "success")
    made = run.returned["featurize"]
    assert run.events == [["features", KEY, {}]]
    assert made["sources"] == list(ingested[0].returned["ingest"]["sources"])
    assert Lake(workspace.lake).read("features", instrument=KEY).num_rows == made["rows"] > 3000
    assert (again.returned["featurize"]["sources"], again.returned["featurize"]["unchanged"]) == ([], 1)


def test_a_past_day_made_again_is_the_same_row_for_row_whatever_came_later(
    airflow: AirflowHome, workspace: Workspace, ingested: tuple[Run, ...]
) -> None:
    lake = Lake(workspace.lake)
    day = str(datetime.fromtimestamp(START_NS / NS_PER_S, tz=UTC).date())
    with airflow.dag("build_features") as build_features, airflow.dag("ingest_ticks") as ingest_ticks:
        first = build_features.run(instrument=KEY, day=day).returned["featurize"]
        features = lake.read("features", instrument=KEY, where={"source": first["sources"][0]})
        later = BreathingExchange(USDM, seed=2).session(seconds=90, start_ns=START_NS + 86_400 * NS_PER_S)
        recording = write_lines(workspace.home.parent / "later.gz", stamped(later))
        assert ingest_ticks.run(files=[str(recording)], instrument=KEY).events == [["ticks", KEY, {}]]
        again = build_features.run(instrument=KEY, day=day).returned["featurize"]
        new = build_features.run(instrument=KEY).returned["featurize"]
    assert again["dataset_id"] == first["dataset_id"]  # the id is the hash of the file
    assert again["sources"] == first["sources"]
    assert (new["sources"], new["unchanged"]) == ([], 2)  # the second recording is in: the day's run computed it too
    assert len(datasets.load(workspace.datasets / first["dataset_id"])) == first["rows"] > 3000
    assert lake.read("features", instrument=KEY, where={"source": first["sources"][0]}).equals(features)


def test_train_model_registers_a_version_and_puts_it_into_service(trained: Run, workspace: Workspace) -> None:
    assert trained.state == "success"
    assert set(trained.tasks.values()) == {"success"}
    assert trained.events == [["challenger", KEY, {}], ["test_won", KEY, {}]]  # there is no champion to test it against
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


def test_monitor_drift_mails_a_drift_once_and_announces_it_until_a_retraining_begins(
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
    assert again.returned["watch.notify"]["before"]
    assert again.events == loud.events


def test_train_model_puts_a_challenger_beside_the_champion(
    retrained: Run, workspace: Workspace, triton: Endpoint
) -> None:
    assert retrained.state == "success"
    assert {task for task, state in retrained.tasks.items() if state != "success"} == {"first_of_its_instrument"}
    assert retrained.events == [["challenger", KEY, {}]]
    assert Registry(workspace.tracking).aliases(MODEL) == {"champion": 1, "challenger": 2}
    assert roles_of(workspace, KEY).challenger == 2
    assert served(triton) == (1, 2)


def test_a_drift_that_goes_on_starts_no_second_retraining_before_the_cool_down_is_over(
    airflow: AirflowHome, retrained: Run
) -> None:
    with airflow.dag("monitor_drift", **SHORT) as monitor_drift:
        run = monitor_drift.run()
        assert run.returned["watch.monitor"]["drifted"]
        assert (run.tasks["watch.announce"], run.events) == ("skipped", [])
        assert monitor_drift.said("was retrained")
    with airflow.dag("monitor_drift", **SHORT, KEEL_RETRAIN__COOL_DOWN_HOURS="0") as monitor_drift:
        assert [name for name, _, _ in monitor_drift.run().events] == ["drift"]


def test_each_dag_waits_for_what_another_makes(airflow: AirflowHome) -> None:
    made, waits = airflow.assets()
    assert made == {
        "ingest_ticks": ["ticks"],
        "build_features": ["features"],
        "monitor_drift": ["drift", "test_lost", "test_won"],
        "retrain_nightly": ["retraining_due"],
        "train_model": ["challenger", "test_won"],
        "promote_model": [],
        "escalate_alerts": [],
        "acknowledge_drift": [],
    }
    assert waits == {
        "ingest_ticks": [],
        "build_features": ["ticks"],
        "monitor_drift": [],
        "retrain_nightly": [],
        "train_model": ["drift", "retraining_due"],
        "promote_model": ["test_won"],
        "escalate_alerts": [],
        "acknowledge_drift": [],
    }


def decisions(workspace: Workspace) -> list[tuple[str, str, str]]:
    """What people said about the challenger."""
    entries = audit.read(audit.path_of(workspace))
    return [(e.what["decision"], e.what["name"], e.what["reason"]) for e in entries if e.kind == "approval"][1:]


def announced(airflow: AirflowHome) -> bool:
    """Whether monitor_drift says that the test is won."""
    with airflow.dag("monitor_drift", **SHORT) as monitor_drift:
        return ["test_won", KEY, {}] in monitor_drift.run().events


def test_the_first_version_is_asked_about_by_its_evaluation(
    crowned: tuple[dict[str, Any], Run], trained: Run, workspace: Workspace
) -> None:
    assert ["test_won", KEY, {}] in trained.events
    question, run = crowned
    assert question["subject"] == f"Promote version 1 of {KEY}?"
    assert "is the first of its instrument" in question["body"]
    assert "The gate said yes." in question["body"]
    assert (run.state, run.returned["promote"]["approved_by"]) == ("success", "ada")
    assert audit.verify_workspace(workspace).entries >= 2


def test_nobody_is_asked_before_the_test_is_won(
    airflow: AirflowHome, workspace: Workspace, promote_model: Dag, retrained: Run
) -> None:
    serve(workspace, EVEN, workspace.home.parent / "even")
    run = promote_model.run()
    assert (run.state, run.tasks["ask"], run.tasks["promote"]) == ("success", "skipped", "skipped")
    assert run.returned["dossier"]["verdict"] == "undecided"
    assert not announced(airflow)
    serve(workspace, TEST, workspace.home.parent / "test")
    assert announced(airflow)


def test_an_answer_of_a_stranger_of_the_author_or_without_a_reason_counts_for_nothing(
    airflow: AirflowHome, workspace: Workspace, promote_model: Dag
) -> None:
    promote_model.start()
    promote_model.wait_until_it_asks()
    with pytest.raises(httpx.HTTPStatusError, match="403"):  # Airflow itself knows who may answer
        airflow.answer("mallory", "approve", "why not")
    question = airflow.answer("ada", "approve", " ")
    run = promote_model.finish()
    assert question["subject"] == f"Promote version 2 of {KEY}?"
    assert question["body"] == run.returned["dossier"]["body"]
    assert "| log-loss of the direction (nats) |" in question["body"]
    assert (run.state, run.tasks["approved"], run.tasks["promote"]) == ("failed", "failed", "upstream_failed")
    assert promote_model.said("ada should say why")

    promote_model.start()
    promote_model.wait_until_it_asks()
    airflow.answer("grace", "approve", "mine is better")
    run = promote_model.finish()
    assert (run.state, run.tasks["approved"], run.tasks["promote"]) == ("failed", "failed", "upstream_failed")
    assert run.tries["approved"] == 1
    assert promote_model.said("who trains may not approve")
    assert decisions(workspace) == []
    assert Registry(workspace.tracking).aliases(MODEL) == {"champion": 1, "challenger": 2}


def test_more_data_decides_nothing_and_nobody_is_asked_again_before_there_is_more(
    airflow: AirflowHome, workspace: Workspace, promote_model: Dag
) -> None:
    promote_model.start()
    promote_model.wait_until_it_asks()
    airflow.answer("ada", "more data", "a night is missing")
    run = promote_model.finish()
    assert (run.state, run.tasks["approved"], run.tasks["promote"]) == ("success", "success", "skipped")
    assert decisions(workspace) == []
    assert announced(airflow)  # it still waits for a decision
    run = promote_model.run()
    assert (run.state, run.tasks["due"], run.tasks["ask"]) == ("success", "skipped", "skipped")
    assert promote_model.said("ada has answered on this evidence: more data")


def test_no_answer_in_time_is_a_rejection_by_nobody(
    airflow: AirflowHome, workspace: Workspace, promote_model: Dag
) -> None:
    serve(workspace, MORE, workspace.home.parent / "more")
    promote_model.start()
    promote_model.wait_until_it_asks()
    assert airflow.let_the_question_time_out().startswith("1 day")
    run = promote_model.finish()
    assert run.returned["ask"]["chosen_options"] == ["reject"]
    assert run.returned["ask"]["responded_by_user"] is None
    assert (run.state, run.tasks["promote"]) == ("success", "skipped")
    assert decisions(workspace) == [("reject", NOBODY, "nobody answered in time")]
    assert not announced(airflow)
    assert Registry(workspace.tracking).aliases(MODEL) == {"champion": 1, "challenger": 2}


def test_promote_model_moves_the_alias_when_a_second_person_approves(
    airflow: AirflowHome, workspace: Workspace, promote_model: Dag, triton: Endpoint
) -> None:
    registry = Registry(workspace.tracking)
    serve(workspace, LAST, workspace.home.parent / "last")
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


def test_a_challenger_that_loses_its_test_is_out_of_service_and_it_is_announced(
    airflow: AirflowHome, workspace: Workspace, promote_model: Dag, triton: Endpoint
) -> None:
    assert roles_of(workspace, KEY).champion == 2, "the test before this one has promoted it"
    planted.write_dataset(workspace.datasets / "planted-again", planted.Planted(rows=8000, seed=9))
    with airflow.dag("train_model") as train_model:
        train_model.run(dataset_id="planted-again")
    roles = roles_of(workspace, KEY)
    assert (roles.challenger, served(triton)) == (3, (1, 2, 3))
    lost = replace(LAST, name="live-lost", seed=55, skill=(0.8, 0.0), versions=(2, 3), test=roles.test)
    serve(workspace, replace(lost, start_ns=LAST.start_ns + 600 * NS_PER_S), workspace.home.parent / "lost")
    with airflow.dag("monitor_drift", **SHORT) as monitor_drift:
        run = monitor_drift.run()
    assert ["test_lost", KEY, {}] in run.events
    assert ["test_won", KEY, {}] not in run.events
    assert (roles_of(workspace, KEY).challenger, served(triton)) == (0, (1, 2))
    assert Registry(workspace.tracking).aliases(MODEL) == {"champion": 2, "previous": 1}
    (entry,) = (e for e in audit.read(audit.path_of(workspace)) if e.kind == STOPPED)
    assert (entry.what["version"], entry.what["against"], entry.what["test"]) == (3, 2, roles.test)
