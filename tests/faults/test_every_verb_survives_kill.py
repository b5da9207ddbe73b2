"""Every verb is killed with 9, run again and stopped by Ctrl-C, and run once more: it must end as if undisturbed.

One small life of two models is lived through, verb by verb, each run undisturbed and its folder kept before it. Then
each verb runs on a copy of the folder it found and is stopped at changes of that folder drawn by a seed. Ingest and a
live session have tests of their own, since they are stopped by time and by frames.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from kit.doomed import Ended, keel
from kit.planted import Planted, write_dataset
from kit.small_lake import Market, workspace_with
from kit.wire_frames import ToyExchange, stamped, write_lines

from market.feeds import landing
from market.lake.lake import Lake
from market.lake.schemas import SCHEMAS
from pipelines.governance import audit
from serving.triton.server import default_install, running_triton

pytestmark = pytest.mark.heavy

SAID = "stopped by Ctrl-C; what was committed stays, and running the same command again goes on from there"
SMALL = {"workers": 0, "epochs": 2, "hidden": 8, "learning_rate": 0.02}
# a minute or two is served, where production watches hours
SHORT = [f"--set={rule}" for rule in ("window_seconds=10", "k=3", "n=4", "window_alarm=0.05", "min_strength=0.08")]
TRAIN = ["train", "--dataset", "planted", "--json", *(f"--set={k}={v}" for k, v in SMALL.items())]
RETRAIN = {f"KEEL_TRAIN__{k.upper()}": str(v) for k, v in SMALL.items()} | {"KEEL_EVALUATE__MOST_ROWS": "500"}
KILLS = int(os.environ.get("VERB_KILLS", "1"))
VERBS = (
    *("validate", "featurize", "train", "evaluate", "export", "register", "deploy", "approve", "promote", "rollback"),
    *("serve", "trace", "monitor", "notify", "acknowledge", "compare", "report", "retrain"),
)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A verb's call, the folder it found, what the folder held afterwards, and how many changes it took."""

    words: tuple[str, ...]
    variables: Mapping[str, str]
    before: Path
    after: dict[str, Any]
    changes: int


class Life:
    """Plays the verbs one after the other in ``home`` and keeps what each of them found."""

    def __init__(self, folder: Path, triton: str) -> None:
        self.home = folder / "home"
        self._kept = folder / "kept"
        # nothing here is timed
        untimed = {"KEEL_DEPLOY__MAX_P50_MS": "5000", "KEEL_EXPORT__INT8_LEAST_SAVING": "1"}
        self._variables = {"KEEL_TRITON_GRPC": triton, **untimed}
        self.scenes: dict[str, Scene] = {}

    def play(self, *words: str, **variables: str) -> Ended:
        """Run a verb; the last time it is played is the one that is kept."""
        verb, variables = words[0], {**self._variables, **variables}
        before = self._kept / verb
        shutil.rmtree(before, ignore_errors=True)
        shutil.copytree(self.home, before, symlinks=True)
        done = keel(self.home, *words, **variables)
        assert done.code == 0, (words, done.err)
        after = fingerprint(self.home)
        self.scenes[verb] = Scene(words=words, variables=variables, before=before, after=after, changes=done.changes)
        return done

    def again(self, scene: Scene, at: int, by: signal.Signals) -> Ended:
        return keel(self.home, *scene.words, at=at, by=by, **scene.variables)

    def restore(self, scene: Scene) -> None:
        shutil.rmtree(self.home)
        shutil.copytree(scene.before, self.home, symlinks=True)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    if not (default_install() / "installed").is_file():
        pytest.skip("no Triton server here; run infra/triton/install.sh")
    folder = tmp_path_factory.mktemp("life")
    workspace = workspace_with(folder / "home", Market(seconds=130, frames=10), verdicts=dict.fromkeys(range(3), ""))
    write_dataset(workspace.datasets / "planted", Planted(rows=6000))
    recording = write_lines(folder / "toy.gz", stamped(ToyExchange(seed=5).session(seconds=150, rate=10)))
    with running_triton(workspace.triton_repository, logs=folder / "logs") as endpoint:
        life = Life(folder, str(endpoint))
        live_through(life, recording)
        yield life


def live_through(life: Life, recording: Path) -> None:
    life.play("validate")
    life.play("featurize")
    for version in (1, 2):
        run = json.loads(life.play(*TRAIN, f"--set=seed={version}").out)["run_id"]
        life.play("evaluate", "--run", run, "--set=most_rows=500", "--set=max_ece=0.9")
        life.play("export", "--run", run, "--set=require_gate=false")
        life.play("register", "--run", run)
        life.play("deploy", "--version", str(version))
        life.play("approve", "--version", str(version), "--name", "ada", "--reason", "better calibrated")
        if version == 1:
            life.play("promote", "--version", "1", "--set=watch_seconds=0.1")
    served = life.play("serve", "--json", f"--set=capture={recording}", "--set=arms=[champion,challenger]")
    session = json.loads(served.out)["session"]
    life.play("skew", "--session", session)
    quote = Lake(life.home / "lake").read("quotes", columns=["quote_id"])["quote_id"][0].as_py()
    life.play("trace", quote)
    drift = json.loads(life.play("monitor", "--json", *SHORT).out)["event_id"]
    life.play("notify")
    life.play("acknowledge", drift, "--name", "ada")
    life.play("compare")
    life.play("promote", "--version", "2", "--set=watch_seconds=0.1")
    life.play("rollback", "--set=watch_seconds=0.1")
    entry = {"stage": "serve", "line": "served", "seconds": 1.0, "started_ns": 1, "result": json.loads(served.out)}
    (life.home / "story.json").write_text(json.dumps({"kind": "recorded", "entries": [entry]}))
    life.play("report")
    life.play("retrain", **RETRAIN)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_killed_and_then_stopped_ends_as_if_undisturbed(life: Life, verb: str) -> None:
    chance = random.Random(verb)
    for _ in range(KILLS):
        kill_then_stop(life, life.scenes[verb], chance)


def kill_then_stop(life: Life, scene: Scene, chance: random.Random) -> None:
    life.restore(scene)
    killed = life.again(scene, chance.randint(1, scene.changes), signal.SIGKILL)
    assert killed.killed, killed.err
    stopped = life.again(scene, chance.randint(1, scene.changes), signal.SIGINT)
    if stopped.code != 0:  # else it was taken up so late that nothing was left to stop
        assert stopped.code == 130, stopped.err
        assert stopped.err.strip().endswith(SAID)
        assert "Traceback" not in stopped.err
    calm = life.again(scene, 0, signal.SIGKILL)
    assert calm.code == 0, calm.err
    assert_same(fingerprint(life.home), scene.after)


@pytest.mark.parametrize("verb", ["featurize", "train", "register", "deploy"])
def test_a_verb_without_room_says_so_and_with_room_ends_as_if_undisturbed(life: Life, verb: str) -> None:
    scene = life.scenes[verb]
    with small_disk(life.home) as grow:
        shutil.copytree(scene.before, life.home, symlinks=True, dirs_exist_ok=True)
        grow(0)
        refused = life.again(scene, 0, signal.SIGKILL)
        assert refused.code == 4, refused.err
        assert "no space left on" in refused.err.lower()
        assert "Traceback" not in refused.err
        grow(1 << 30)
        assert life.again(scene, 0, signal.SIGKILL).code == 0
        assert_same(fingerprint(life.home), scene.after)


def test_skew_only_reads_so_it_can_be_killed_at_any_time(life: Life) -> None:
    scene = life.scenes["skew"]
    life.restore(scene)
    assert scene.changes == 0
    assert_same(fingerprint(life.home), scene.after)


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[int], None]]:
    """A file system of its own in place of ``folder``; yields what makes it as large as its contents and some bytes."""
    shutil.rmtree(folder)
    folder.mkdir()
    if os.geteuid() != 0 or not _done("mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder)):
        pytest.skip("mounting a small file system is not allowed here")

    def grow(more: int) -> None:
        room = os.statvfs(folder)
        used = (room.f_blocks - room.f_bfree) * room.f_frsize
        assert _done("mount", "-o", f"remount,size={used + more}", str(folder))

    try:
        yield grow
    finally:
        assert _done("umount", str(folder))


def _done(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """As ``==``, naming only what differs."""
    for part, value in expected.items():
        if isinstance(value, dict):
            assert_same(found[part], value)
        elif isinstance(value, list):
            more, less = Counter(map(str, found[part])), Counter(map(str, value))
            assert (more - less, less - more) == (Counter(), Counter()), part
        else:
            assert found[part] == value, part


def fingerprint(home: Path) -> dict[str, Any]:
    """Everything a life left that must be the same again; ids and times that are drawn anew are left out."""
    lake = Lake(home / "lake")
    assert landing.unfinished(lake) == []
    record = home / "audit" / "audit.jsonl"
    assert not audit.verify(record).torn
    return {
        "lake": {table: rows_in(lake, table) for table in SCHEMAS},
        "registry": registry(home / "mlflow.db"),
        "audit": [(e.kind, {k: v for k, v in e.what.items() if k != "event_id"}) for e in audit.read(record)],
        "roles": {key: {**roles, "test": bool(roles["test"])} for key, roles in roles_in(home).items()},
        "files": files(home),
    }


def roles_in(home: Path) -> dict[str, dict[str, Any]]:
    """A test is named by the time at which it began."""
    return dict(json.loads(text(home / "serving.json") or "{}"))


def rows_in(lake: Lake, table: str) -> tuple[int, str]:
    """How many rows, and a digest of them; of the newest session or source, since every session is one of its own."""
    rows = lake.read(table)
    for owner in {"session", "source"} & set(rows.column_names):
        if rows.num_rows:
            newest = max(rows[owner].unique().to_pylist())
            apart = ("session", "source", "step_ns")
            kept = [name for name in rows.column_names if name not in apart and not name.endswith("_id")]
            rows = lake.read(table, columns=kept, where={owner: newest})
            break
    return rows.num_rows, sha256(repr(rows.to_pylist()).encode()).hexdigest()


def registry(store: Path) -> dict[str, Any]:
    """Figures of the MLflow store. A model whose logging was cut off never becomes READY, and nobody sees it."""
    if not store.exists():
        return {}
    with closing(sqlite3.connect(store)) as connection:
        asked = {
            "runs": "select status, count(*) from runs group by status",
            "metrics": "select key, count(distinct value || '/' || step) from metrics group by key order by key",
            "params": "select key, value from params order by key, value",
            "versions": "select name, version from model_versions order by version",
            "aliases": "select name, alias, version from registered_model_aliases order by alias",
            "tags": "select version, key from model_version_tags order by version, key",
        }
        return {name: connection.execute(query).fetchall() for name, query in asked.items()}


def files(home: Path) -> list[str]:
    """Paths with drawn ids made alike; what holds tables, logs and caches of others is judged elsewhere."""
    alike = re.compile(r"[0-9a-f]{32}|\d{8}T\d{6}\.\d+Z|(live|monitor|compare|drift)-[0-9a-zT-]+")
    apart = ("lake/", "mlartifacts/", "datasets/.dvc", "sessions/")
    found = (path.relative_to(home).as_posix() for path in sorted(home.rglob("*")) if path.is_file())
    return [alike.sub("*", name) for name in found if not name.startswith(apart) and "/__pycache__/" not in name]


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
