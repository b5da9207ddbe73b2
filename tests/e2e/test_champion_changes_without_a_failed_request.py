"""deploy, promote and rollback on a real registry and a real Triton."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from kit.desk import KEY, MODEL, Desk, killed_at
from kit.forked_keel import Keel

from market.clock import ManualClock
from market.errors import ApprovalError, FeatureSetError, KeelError, ModelError, ServiceError, TamperedError
from pipelines.deployment.deploy import DeployConfig, deploy
from pipelines.deployment.inference_server import hold_server, inference_server, repository_of
from pipelines.in_service import roles_of, state_path
from pipelines.promotion import champion as swap
from pipelines.promotion.rollback import RollbackConfig, rollback
from pipelines.workspace import Address, Workspace
from serving.manifest import MODEL_FILE
from serving.rollout.roles import Move, Roles, changing, write_roles
from serving.triton.server import default_install, find_running, running_triton
from training.registry.registry import CHAMPION, PREVIOUS, Registry

NOW_NS = 1_800_000_000_000_000_000
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, write_seeded_bundle: Callable[..., Path]) -> Iterator[Desk]:
    if not (default_install() / "installed").is_file():
        pytest.skip("no Triton server here; run infra/triton/install.sh")
    workspace = Workspace(home=tmp_path_factory.mktemp("office") / "home", clock=ManualClock(NOW_NS), author="ada")
    with running_triton(workspace.triton_repository, logs=workspace.home / "logs") as endpoint:
        address = Address(host=endpoint.host, port=endpoint.port)
        yield Desk(workspace=replace(workspace, triton_grpc=address), write=write_seeded_bundle)


@pytest.fixture
def desk(office: Desk) -> Desk:
    office.forget()
    return office


def test_an_alias_moved_by_hand_puts_nothing_in_service_that_nobody_approved(desk: Desk) -> None:
    version, other = desk.register(1), desk.register(2)
    desk.registry.set_alias(MODEL, CHAMPION, version)
    with pytest.raises(ApprovalError, match="nobody has approved"):
        desk.deploy(version)
    assert desk.roles == Roles()
    write_roles(state_path(desk.workspace), KEY, Roles(champion=version, previous=other))
    with pytest.raises(ApprovalError, match="nobody has approved"):
        rollback(RollbackConfig(instrument=KEY), workspace=desk.workspace)


def test_a_model_is_born_replaced_and_comes_back(desk: Desk) -> None:
    first = desk.register(1)
    deployed = desk.deploy()
    assert (deployed.version, deployed.role, deployed.serving) == (first, "challenger", (first,))
    assert max(deployed.onnx_gap, deployed.triton_gap, deployed.hotpath_gap) <= 1e-5
    assert deployed.triton_p99_us >= deployed.triton_p50_us > 0
    with pytest.raises(ApprovalError):
        desk.promote(first)
    assert desk.roles == Roles(challenger=first, test=desk.roles.test)
    desk.approve(first)
    born = desk.promote(first)
    assert born.swapped
    assert (born.previous, born.watched.failed) == (0, 0)
    assert desk.aliases == {CHAMPION: first}

    second = desk.register(2)
    desk.deploy()
    desk.approve(second)
    promoted = desk.promote(second)
    assert promoted.watched.failed == 0
    assert promoted.watched.requests > 20
    assert (promoted.previous, desk.roles) == (first, Roles(champion=second, previous=first))
    assert desk.aliases == {CHAMPION: second, PREVIOUS: first}
    assert desk.served() == (first, second)
    again = desk.promote(second)
    assert not again.swapped
    assert "already" in again.line()

    back = rollback(RollbackConfig(instrument=KEY), workspace=desk.workspace)
    assert (back.version, back.withdrawn, back.watched.failed) == (first, second, 0)
    assert desk.roles == Roles(champion=first, previous=second)
    assert desk.aliases == {CHAMPION: first, PREVIOUS: second}


def test_a_third_champion_sends_the_first_one_out_of_memory(desk: Desk) -> None:
    versions = [desk.crown(seed) for seed in (1, 2, 3)]
    assert desk.roles == Roles(champion=versions[2], previous=versions[1])
    assert desk.served() == (versions[1], versions[2])
    assert repository_of(desk.workspace).versions(MODEL) == (versions[1], versions[2])


def test_deploying_the_same_version_again_changes_nothing(desk: Desk) -> None:
    version = desk.crown(1)
    before = desk.roles
    assert desk.deploy(version).role == "champion"
    assert desk.roles == before


def test_a_bundle_changed_on_disk_is_refused_and_fetched_anew_by_the_next_run(desk: Desk) -> None:
    version = desk.register(1)
    desk.deploy()
    model = desk.workspace.models / KEY / str(version) / MODEL_FILE
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(TamperedError):
        desk.deploy(version)
    assert desk.deploy(version).triton_gap <= 1e-5


def test_a_model_of_another_feature_set_never_reaches_triton(desk: Desk) -> None:
    champion = desk.crown(1)
    stranger = desk.register(2, feature_set="0" * 16)
    with pytest.raises(FeatureSetError):
        desk.deploy(stranger)
    assert desk.served() == (champion,)
    assert desk.roles == Roles(champion=champion)


def test_a_version_too_slow_for_the_gate_is_taken_out_again(desk: Desk) -> None:
    champion = desk.crown(1)
    slow = desk.register(2)
    with pytest.raises(KeelError, match="over gRPC"):
        deploy(DeployConfig(instrument=KEY, version=slow, max_p50_ms=0.001), workspace=desk.workspace)
    assert desk.served() == (champion,)
    assert repository_of(desk.workspace).versions(MODEL) == (champion,)
    assert desk.roles == Roles(champion=champion)


@pytest.mark.parametrize(("target", "name"), [(Registry, "set_alias"), (Registry, "drop_alias"), (swap, "record")])
def test_a_promotion_that_was_killed_is_completed_by_the_next_run(desk: Desk, target: object, name: str) -> None:
    first, second = desk.crown(1), desk.candidate(2)
    with killed_at(target, name):
        desk.promote(second)
    assert desk.roles.champion == first, "traffic still goes to the old champion"
    assert desk.roles.move == Move(new=second, old=first, kind="promotion")
    assert desk.promote(second).swapped
    assert desk.roles == Roles(champion=second, previous=first)
    assert desk.aliases == {CHAMPION: second, PREVIOUS: first}


def test_a_promotion_that_was_killed_can_be_undone_by_a_rollback(desk: Desk) -> None:
    first, second = desk.crown(1), desk.candidate(2)
    with killed_at(swap, "record"):
        desk.promote(second)
    rollback(RollbackConfig(instrument=KEY), workspace=desk.workspace)
    assert desk.roles.champion == first
    assert desk.aliases[CHAMPION] == first


def kill_model_process_once_champion(desk: Desk, version: int) -> None:
    deadline = time.monotonic() + 60
    while desk.roles.champion != version and time.monotonic() < deadline:
        time.sleep(0.001)
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if f"{desk.workspace.triton_repository}/{MODEL}/{version}/model.py" in line:
            process.kill()


def test_when_requests_fail_after_the_swap_everything_goes_back(desk: Desk) -> None:
    first, second = desk.crown(1), desk.candidate(2)
    roles, aliases = desk.roles, desk.aliases
    killer = threading.Thread(target=kill_model_process_once_champion, args=(desk, second))
    killer.start()
    with pytest.raises(ServiceError, match="taken back"):
        desk.promote(second)
    killer.join()
    assert (desk.roles, desk.aliases) == (roles, aliases)
    with inference_server(desk.workspace) as client:
        client.check(MODEL, first)
    assert desk.promote(second).swapped, "the dead process is found and started again"


def test_rollback_without_a_previous_champion_is_refused(desk: Desk) -> None:
    desk.crown(1)
    with pytest.raises(ModelError, match="no previous"):
        rollback(RollbackConfig(instrument=KEY), workspace=desk.workspace)


def test_rollback_works_though_the_withdrawn_model_is_broken(desk: Desk) -> None:
    first, second = desk.crown(1), desk.crown(2)
    shutil.rmtree(desk.workspace.models / KEY / str(second))
    (desk.workspace.models / KEY / str(second)).mkdir()
    assert rollback(RollbackConfig(instrument=KEY), workspace=desk.workspace).version == first


def test_two_changes_at_once_are_refused(desk: Desk) -> None:
    desk.register(1)
    with changing(state_path(desk.workspace)), pytest.raises(ServiceError, match="another deploy"):
        desk.deploy()


def test_without_a_server_a_stage_starts_one_of_its_own(desk: Desk) -> None:
    """On a second machine: the same registry, an empty home."""
    home = desk.workspace.home.parent / "alone"
    workspace = replace(desk.workspace, home=home, tracking_uri=desk.workspace.tracking, triton_grpc=None)
    alone = Desk(workspace=workspace, write=desk.write, registered=desk.registered)
    version = alone.register(1)
    assert alone.deploy().version == version
    assert (alone.roles.versions(), alone.roles.challenger) == ((version,), version)
    alone.approve(version)
    assert alone.promote(version).swapped
    assert alone.served() == (), "a new private server has nothing loaded until a stage loads it"


@pytest.mark.parametrize("until", [f"models/{KEY}/1", f"triton/repository/{MODEL}/config.pbtxt"])
def test_a_deploy_killed_with_9_is_completed_by_the_next_run(desk: Desk, tmp_path: Path, until: str) -> None:
    home = tmp_path / "home"
    workspace = replace(desk.workspace, home=home, tracking_uri=desk.workspace.tracking, triton_grpc=None)
    version = desk.register(1)
    assert version == 1
    environment = {**os.environ, "KEEL_HOME": str(home), "KEEL_TRACKING_URI": workspace.tracking}
    running = Keel("deploy", "--version", "1", environment=environment)
    deadline = time.monotonic() + 120
    while not (home / until).exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    running.kill()
    _, said = running.communicate()
    assert (home / until).exists(), said
    assert roles_of(workspace, KEY) == Roles()
    result = deploy(DeployConfig(instrument=KEY, version=1), workspace=workspace)
    assert result.triton_gap <= 1e-5
    roles = roles_of(workspace, KEY)
    assert roles == Roles(challenger=1, test=roles.test)
    assert not (home / "triton" / "server.json").exists(), "neither server is left behind"


def test_a_server_can_be_held_up_with_everything_in_service(desk: Desk, tmp_path: Path) -> None:
    alone = replace(desk.workspace, home=tmp_path / "home", tracking_uri=desk.workspace.tracking, triton_grpc=None)
    desk.register(1)
    deploy(DeployConfig(instrument=KEY), workspace=alone)
    said: list[str] = []

    def look() -> None:
        with inference_server(alone) as client:
            assert client.served(MODEL) == (1,)
            client.check(MODEL, 1)
        with pytest.raises(ServiceError, match="already serves"):
            hold_server(alone, announce=said.append, wait=look)

    hold_server(alone, announce=said.append, wait=look)
    assert said[0] == f"{MODEL}: versions 1"
    assert "127.0.0.1:" in said[1]

    def kill(line: str) -> None:
        running = find_running(alone.triton_repository) if "answers gRPC" in line else None
        if running is not None:
            os.kill(running.pid, signal.SIGKILL)

    with pytest.raises(ServiceError, match="ended with -9"):
        hold_server(alone, announce=kill)


def test_a_named_server_that_is_away_is_said(desk: Desk) -> None:
    away = replace(desk.workspace, triton_grpc=Address(port=9))
    desk.register(1)
    with pytest.raises(ServiceError, match="KEEL_TRITON_GRPC"):
        deploy(DeployConfig(instrument=KEY), workspace=away)


def test_there_is_nothing_to_deploy_before_something_is_registered(desk: Desk) -> None:
    with pytest.raises(ModelError, match="keel register"):
        desk.deploy()
