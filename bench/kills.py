"""kill -9 of ingest, lake writer, compactor, sender and broker at random moments: the lake ends as the undisturbed one.

``python -m bench.kills --kills 200 --seed 7`` replays a real capture (``--capture``) in rounds, each with its own lake,
alternating between:

* *recording*: ``keel ingest FILE`` is killed and restarted until it ends, ``keel lake compact`` runs alongside it and
  is killed too;
* *topic*: ``keel forward`` sends the capture to a real Kafka broker, ``keel ingest --url kafka://...`` lands it, ``keel
  lake compact`` runs alongside it; each of them and the broker is killed and restarted.

A moment is drawn uniformly from the time that the same command takes undisturbed, which is measured first, or, every
other time, lies shortly after one of the lake's next commits. A kill counts where it ended a live process. At the end
of a round what is missing is landed, and every row of every table, including the bytes of every frame, is compared with
the undisturbed lake, in order.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa

from bench import machine
from market.bus.cluster import Cluster
from market.bus.kafka import Topic, find_topic, make_topic
from market.errors import KeelError
from market.feeds import kafka_frames as feed_of_topic
from market.feeds import recordings
from market.lake.lake import Lake
from pipelines.stack.kafka_node import KafkaConfig, KafkaNode, default_install

LANDED = ("raw", "ticks", "slow", "options", "quarantine")
CAPTURE = Path(__file__).resolve().parents[2] / "shared" / "market" / "binance_raw" / "usdm_btcusdt_20230405.dat.gz"

_A_ROUND = 16  # kills
_COMMITS_AHEAD, _BEHIND_S, _PATIENCE_S = 2, 0.3, 30.0
_COMPACTORS = 3  # killed at most in a life of ingest
_WEIGHTS = {"writer": 5, "compactor": 5, "broker": 1, "sender": 2}  # of the victims of a topic round
_PRELOADED = [
    "pipelines.cli.lake",
    "pipelines.ingestion.ingest",
    "pipelines.ingestion.forward",
    "pipelines.ingestion.kafka",
    "market.lake.inventory",
]


@dataclass(frozen=True)
class Kill:
    """One kill. ``share``: of the frames that were landed then; ``hit``: whether it ended a live process."""

    round: int
    kind: str
    after_s: float
    share: float
    hit: bool


def content(lake: Lake) -> dict[str, pa.Table]:
    """Every row of every landed table, in order, except for the name of the source."""
    return {table: lake.read(table).drop_columns("source") for table in LANDED}


def digest(rows: pa.Table) -> str:
    """sha256 of every value of every row, in order."""
    found = hashlib.sha256()
    for name in rows.column_names:
        found.update(name.encode())
        for value in rows[name].to_pylist():
            data = value if isinstance(value, bytes) else repr(value).encode()
            found.update(b"%d:" % len(data))
            found.update(data)
    return found.hexdigest()


# -- what is killed ---------------------------------------------------------------------------------------------------


def _verb(home: str, words: dict[str, Any], verb: str) -> None:
    """A verb in its own process, as the command line runs it. Libraries are preloaded: most of its time is work."""
    sys.stdout = sys.stderr = Path(home).with_suffix(".log").open("a")
    os.environ["KEEL_HOME"] = home
    from pipelines.cli import main as cli
    from pipelines.ingestion.forward import ForwardConfig, forward
    from pipelines.ingestion.ingest import IngestConfig, ingest
    from pipelines.workspace import Workspace

    if verb == "compact":
        sys.argv = ["keel", "lake", "compact"]
        while True:  # there is always something new to merge
            try:
                cli.main()
            except SystemExit as ended:
                if ended.code:
                    raise
    workspace = Workspace(home=Path(home))
    try:
        if verb == "forward":
            forward(ForwardConfig(**words), workspace=workspace)
        else:
            ingest(IngestConfig(**words), workspace=workspace)
    except KeelError as error:
        print(type(error).__name__, error, flush=True)
        sys.exit(error.exit_code)


def start(home: Path, verb: str, **words: Any) -> BaseProcess:
    """Start a verb; it does not outlive this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    child = context.Process(target=_verb, args=(str(home), words, verb), daemon=True)
    child.start()
    return child


def kill(child: BaseProcess) -> bool:
    """Whether the kill ended it."""
    child.kill()
    child.join()
    return child.exitcode == -signal.SIGKILL


@dataclass
class Campaign:
    """Rounds of kills. ``durations`` are undisturbed times by kind, in seconds."""

    capture: Path
    folder: Path
    chance: Random
    node: KafkaNode | None = None
    kills: list[Kill] = field(default_factory=list)
    durations: dict[str, float] = field(default_factory=dict)
    rounds: Counter[str] = field(default_factory=Counter)
    lakes: int = 0
    differing: list[str] = field(default_factory=list)
    say: Callable[[int], None] = lambda _n: None

    def undisturbed(self) -> None:
        """Land the capture undisturbed, directly and through a topic: the expected result, and how long it takes.

        Raises:
            AssertionError: the two lakes differ already.
        """
        home = self._home()
        self._timed("ingest", home, "ingest", files=(str(self.capture),))
        self.expected = content(Lake(home / "lake"))
        self.frames = self.expected["raw"].num_rows
        assert self.frames > 0
        with recordings.opened([self.capture]) as [recording]:
            self.key = recording.key
        self._time_compact(home)
        if self.node is not None:
            topic = self._topic()
            home = self._home()
            self._timed("sender", home, "forward", files=(str(self.capture),), to=_url(topic))
            self._timed("writer", home, "ingest", url=_url(topic), instrument=self.key, drain=True)
            assert content(Lake(home / "lake")) == self.expected
            self.durations["broker"] = self.durations["sender"] + self.durations["writer"]

    def run(self, kills: int) -> None:
        """Rounds until this many kills ended a live process; recordings and topics alternate."""
        while self._hits() < kills:
            wanted = kills - self._hits()
            if self.node is None or sum(self.rounds.values()) % 2 == 0:
                self.recording_round(min(wanted, _A_ROUND))
            else:
                self.topic_round(min(wanted, _A_ROUND))

    def recording_round(self, wanted: int) -> None:
        """Kill ingest until it gets through, and the compactor alongside it."""
        home, before = self._begin("recording")
        lake = Lake(home / "lake")
        files = (str(self.capture),)
        with self._beside(home) as compactor:
            while self._hits() - before < wanted:
                child, began = start(home, "ingest", files=files), time.monotonic()
                for _ in range(self.chance.randint(0, _COMPACTORS)):
                    self._wait("compactor", lake, child)
                    compactor.die(lake)
                self._wait("ingest", lake, child)
                if not self._killed("ingest", child, time.monotonic() - began, lake):
                    break
        self._end(home, start(home, "ingest", files=files))

    def topic_round(self, wanted: int) -> None:
        """Kill sender, writer, compactor and broker until the lake has everything."""
        assert self.node is not None
        home, before = self._begin("topic")
        lake, topic = Lake(home / "lake"), self._topic()
        sending = {"files": (str(self.capture),), "to": _url(topic)}
        landing = {"url": _url(topic), "instrument": self.key}
        with self._beside(home) as compactor:
            sender, writer = start(home, "forward", **sending), start(home, "ingest", **landing)
            while self._hits() - before < wanted and not self._is_whole(lake, topic):
                [victim] = self.chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
                began = time.monotonic()
                self._wait(victim, lake, writer)
                moment = time.monotonic() - began
                if victim == "writer":
                    self._killed("writer", writer, moment, lake)
                    writer = start(home, "ingest", **landing)
                elif victim == "sender":
                    self._killed("sender", sender, moment, lake)
                    sender = start(home, "forward", **sending)
                elif victim == "broker":
                    self._kill_broker(moment, lake)
                else:
                    compactor.die(lake)
            for child in (sender, writer):
                kill(child)
        for verb, words in (("forward", sending), ("ingest", {**landing, "drain": True})):
            child = start(home, verb, **words)
            child.join()  # ingest refuses a topic that has been landed: it is compared all the same
        self._end(home, None)

    @contextmanager
    def _beside(self, home: Path) -> Iterator[_Compactor]:
        compactor = _Compactor(self, home, start(home, "compact"))
        try:
            yield compactor
        finally:
            kill(compactor.child)

    def _wait(self, kind: str, lake: Lake, busy: BaseProcess) -> None:
        """Wait until a random moment: of the time that ``kind`` takes, or, as often, after one of the next commits."""
        if self.chance.random() < 0.5:
            time.sleep(self.chance.uniform(0, self.durations[kind]))
            return
        wanted = _commits(lake) + self.chance.randint(1, _COMMITS_AHEAD)
        until = time.monotonic() + _PATIENCE_S
        while _commits(lake) < wanted and busy.is_alive() and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(self.chance.uniform(0, _BEHIND_S))

    def _killed(self, kind: str, child: BaseProcess, moment: float, lake: Lake) -> bool:
        hit = kill(child)
        self._keep(kind, moment, lake, hit=hit)
        return hit

    def _kill_broker(self, moment: float, lake: Lake) -> None:
        assert self.node is not None
        self.node.kill()
        self._keep("broker", moment, lake, hit=True)
        time.sleep(self.chance.uniform(0, 1))
        self.node.start()

    def _keep(self, kind: str, moment: float, lake: Lake, *, hit: bool) -> None:
        share = lake.read("raw", columns=["frame"]).num_rows / self.frames
        self.kills.append(Kill(self.lakes, kind, round(moment, 3), round(share, 3), hit))
        self.say(self._hits())
        print(self.kills[-1], flush=True)

    def _hits(self) -> int:
        return sum(each.hit for each in self.kills)

    def _is_whole(self, lake: Lake, topic: Topic) -> bool:
        source = feed_of_topic.stretch(topic, lake.instrument(self.key), 0).source
        ticks, raw = (lake.position(table, source) or 0 for table in ("ticks", "raw"))
        return ticks > raw > 0

    def _begin(self, kind: str) -> tuple[Path, int]:
        self.rounds[kind] += 1
        return self._home(), self._hits()

    def _end(self, home: Path, last: BaseProcess | None) -> None:
        if last is not None:
            last.join()
        found = content(Lake(home / "lake"))
        wrong = [table for table in LANDED if not found[table].equals(self.expected[table])]
        if wrong:
            rows = ", ".join(f"{table} {found[table].num_rows:,} rows" for table in wrong)
            self.differing.append(f"{home.name}: {rows}")
        shutil.rmtree(home)

    def _home(self) -> Path:
        self.lakes += 1
        home = self.folder / f"home{self.lakes}"
        home.mkdir()
        return home

    def _topic(self) -> Topic:
        assert self.node is not None
        cluster = Cluster(servers=str(self.node.address))
        name = f"kills{self.lakes}"
        make_topic(cluster, name, partitions=1)
        return find_topic(cluster, name)

    def _timed(self, kind: str, home: Path, verb: str, **words: Any) -> None:
        start(home, verb, **words).join()  # the first one imports
        again = self._home() if kind == "ingest" else home
        if kind == "writer":
            again = self._home()
        began = time.monotonic()
        start(again, verb, **words).join()
        self.durations[kind] = time.monotonic() - began

    def _time_compact(self, home: Path) -> None:
        lake = Lake(home / "lake")
        began = time.monotonic()
        for table in LANDED:
            lake.compact(table)
        self.durations["compactor"] = time.monotonic() - began + 0.5


@dataclass
class _Compactor:
    """A compactor that runs forever, and is restarted after a kill."""

    campaign: Campaign
    home: Path
    child: BaseProcess
    since: float = field(default_factory=time.monotonic)

    def die(self, lake: Lake) -> None:
        self.campaign._killed("compactor", self.child, time.monotonic() - self.since, lake)
        self.child, self.since = start(self.home, "compact"), time.monotonic()


def _commits(lake: Lake) -> int:
    """Of the frames and events: compaction's too."""
    assert lake.folder is not None
    return sum(len(list((lake.folder / table / "_delta_log").glob("*.json"))) for table in ("raw", "ticks"))


def _url(topic: Topic) -> str:
    return f"kafka://{topic.cluster.servers}/{topic.name}"


# -- the page ---------------------------------------------------------------------------------------------------------


def page(campaign: Campaign, seconds: float, command: str) -> str:
    """The figures as Markdown."""
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    hits = sum(each.hit for each in campaign.kills)
    same = "every lake equals the undisturbed one" if not campaign.differing else f"{len(campaign.differing)} DIFFER"
    lines = [
        f"# kill -9 at random moments, {today}",
        "",
        f"Commit `{machine.commit()}`, {machine.name()}; {seconds:,.0f} s. Written by `{command}`.",
        "",
        f"{campaign.capture.name}, {campaign.frames:,} frames. {hits} kills ended a live process, in "
        f"{campaign.rounds['recording']} rounds over the recording and {campaign.rounds['topic']} through Kafka, each "
        f"with a lake of its own: {same}, row for row in order.",
        "",
        "| killed | undisturbed it takes | kills | ended a live process | moment, s after its start or the kill before "
        "(quartiles) | frames landed then (quartiles) |",
        "|---|---|---|---|---|---|",
    ]
    for kind, took in sorted(campaign.durations.items()):
        mine = [each for each in campaign.kills if each.kind == kind]
        real = [each for each in mine if each.hit]
        moments, shares = ([getattr(each, name) for each in real] for name in ("after_s", "share"))
        lines.append(
            f"| {kind} | {took:.1f} s | {len(mine)} | {len(real)} | {_quartiles(moments, '{:.2f}')} | "
            f"{_quartiles(shares, '{:.0%}')} |"
        )
    lines += ["", "| table | rows | sha256 of its content |", "|---|---|---|"]
    for table, rows in campaign.expected.items():
        lines.append(f"| {table} | {rows.num_rows:,} | `{digest(rows)[:16]}` |")
    return "\n".join([*lines, "", *(f"* {each}" for each in campaign.differing), ""])


def _quartiles(values: list[float], form: str) -> str:
    if len(values) < 2:
        return ", ".join(form.format(value) for value in values) or "-"
    return ", ".join(form.format(value) for value in (min(values), *statistics.quantiles(values, n=4), max(values)))


def broker(folder: Path) -> AbstractContextManager[KafkaNode]:
    """A real Kafka broker, for the duration of the block."""
    return KafkaNode(KafkaConfig(folder=folder / "kafka", install=default_install()))


def main() -> int:
    """0 if every lake equals the undisturbed one."""
    parser = argparse.ArgumentParser(prog="python -m bench.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kills that end a live process")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--capture", type=Path, default=CAPTURE, help="a recording of one instrument of Binance")
    parser.add_argument("--page", type=Path, help="where the figures go, with every kill next to it as .json")
    said = parser.parse_args()
    from rich.progress import Progress

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="keel-kills-") as name, Progress() as bar, broker(Path(name)) as node:
        task = bar.add_task("kills", total=said.kills)
        campaign = Campaign(said.capture, Path(name), Random(said.seed), node)  # noqa: S311
        campaign.say = lambda hits: bar.update(task, completed=hits)
        campaign.undisturbed()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):  # then the figures are of what was done
            campaign.run(said.kills)
    text = page(campaign, time.monotonic() - began, f"python -m bench.kills --kills {said.kills} --seed {said.seed}")
    print(text)
    if said.page:
        said.page.write_text(text)
        said.page.with_suffix(".json").write_text(json.dumps([asdict(each) for each in campaign.kills]) + "\n")
    return 1 if campaign.differing else 0


if __name__ == "__main__":
    sys.exit(main())
