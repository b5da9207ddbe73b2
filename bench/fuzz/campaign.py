"""Feed damaged frames to every parser and damaged files to every reader, a million and more, and record the results.

``python -m bench.fuzz --frames 1000000 --files 20000 --seed 7``: mutational, over the hand-made frames and, if present,
the captures in ``../shared/market``. The work runs in a separate process. If it dies, or a frame takes longer than
``--patience`` seconds, that is a finding; the campaign continues after the frame. ``--case`` runs one case again.
``python -m bench.fuzz.coverage`` is the coverage-guided mode.

Everything found is written to ``--findings``, a line each: seed, case, frame, error, and the bytes in hex. The page,
with ``--page``, reports what was run, how often each parser returned what, and which seed reproduces it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from bench import machine
from bench.fuzz import files, frames, seeds

_REPORT_EVERY_S = 1.0
_WRITTEN_EVERY_S = 20.0
_KEPT = 2_000  # bytes of a frame in a finding

Place = tuple[str, str, int, int]  # "frame" or "file", name of the seed, case, frame


@dataclass
class Counted:
    """What was answered, by parser or by file."""

    cases: int = 0
    fed: int = 0
    good: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Asked:
    """The campaign: how many damaged frames and files, from which seed, starting at which case."""

    frames: int
    files: int
    chance: str
    venue: str | None = None
    captures: bool = True


def work(asked: Asked, start: int, done: tuple[int, int], heart: Any, report: Connection) -> None:
    """The process that parses: cases from ``start`` on, cycling through the seeds, until enough were fed."""
    os.environ["RUST_BACKTRACE"] = "0"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries print when they panic
    all_seeds = seeds.hand_made()
    recordings = files.good(all_seeds)
    if asked.captures:
        all_seeds += seeds.captured()
    if asked.venue:
        all_seeds = [each for each in all_seeds if each.venue.name == asked.venue]
    pool = [frame for each in all_seeds for frame in each.frames[:8] if len(frame) < 2_000]
    for n in range(2 * len(all_seeds)):  # compilation at the first call must not be taken for a hang
        frames.run(all_seeds[n % len(all_seeds)], 0, "warm", pool, lambda _i: None)
    progress = _Progress(report)
    fed, read = done
    with tempfile.TemporaryDirectory(prefix="keel-fuzz-") as folder:
        for case in range(start, sys.maxsize):
            if fed >= asked.frames and read >= asked.files:
                break
            heart[0] = case
            if fed < asked.frames:
                seed = all_seeds[case % len(all_seeds)]
                fed += progress.frames(seed, case, asked.chance, pool, heart)
            if read < asked.files:
                heart[1] = -1
                heart[2] += 1
                progress.file(recordings[case % len(recordings)], case, asked.chance, Path(folder))
                read += 1
    progress.now()
    report.send(("done", None))


@dataclass
class _Progress:
    """Counts that are sent to the parent every second."""

    report: Connection
    counted: dict[tuple[str, str], Counted] = field(default_factory=lambda: defaultdict(Counted))
    last: float = 0.0

    def frames(self, seed: seeds.Seed, case: int, chance: str, pool: list[bytes], heart: Any) -> int:
        def at(i: int) -> None:
            heart[1] = i
            heart[2] += 1

        mine = self.counted["frame", seed.venue.name]
        mine.cases += 1
        try:
            tally = frames.run(seed, case, chance, pool, at)
        except BaseException as error:  # noqa: BLE001 any exception is a finding
            self._found(("frame", seed.name, case, heart[1]), error)
            return 0
        mine.fed += tally.frames
        mine.good += tally.good
        mine.outcomes.update(tally.outcomes)
        self.sometimes()
        return tally.frames

    def file(self, file: files.File, case: int, chance: str, folder: Path) -> None:
        mine = self.counted["file", file.name]
        mine.cases += 1
        mine.fed += 1
        try:
            said, _ = files.run(file, case, chance, folder)
        except BaseException as error:  # noqa: BLE001 as above
            self._found(("file", file.name, case, 0), error)
            return
        mine.outcomes.update(said)
        self.sometimes()

    def _found(self, place: Place, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            raise error
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
        self.report.send(("found", (place, said)))

    def sometimes(self) -> None:
        if time.monotonic() - self.last > _REPORT_EVERY_S:
            self.now()

    def now(self) -> None:
        self.last = time.monotonic()
        self.report.send(("counted", dict(self.counted)))
        self.counted.clear()


@dataclass
class Campaign:
    """The parent: starts the work, checks that it is alive, sums up."""

    asked: Asked
    patience_s: float
    findings: Path
    counted: dict[tuple[str, str], Counted] = field(default_factory=lambda: defaultdict(Counted))
    found: Counter[str] = field(default_factory=Counter)
    finished: bool = False

    def run(self, show: Callable[[int, int, int], None]) -> None:
        start = 0
        while not self.finished:
            start = self._once(start, show)

    def _once(self, start: int, show: Callable[[int, int, int], None]) -> int:
        """One life of the working process; returns the case to continue with."""
        context = multiprocessing.get_context("spawn")
        heart = context.RawArray("q", 3)  # case, frame, and a count that grows
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=work, args=(self.asked, start, self._done(), heart, theirs), daemon=True)
        worker.start()
        theirs.close()
        beat, since = -1, time.monotonic()
        while worker.is_alive() or ours.poll():
            try:
                if ours.poll(0.5):
                    self._take(*ours.recv())
            except EOFError:
                break
            show(*self._done(), sum(self.found.values()))
            if heart[2] != beat or heart[2] == 0:
                beat, since = heart[2], time.monotonic()
            elif time.monotonic() - since > self.patience_s and not self.finished:
                self._keep(("hang", "", heart[0], heart[1]), f"no answer for {self.patience_s:g} s")
                worker.kill()
        worker.join()
        if heart[2] == 0:
            raise SystemExit(f"the working process ended with {worker.exitcode} before its first case")
        if not self.finished and worker.exitcode != -9:
            self._keep(("crash", "", heart[0], heart[1]), f"the process ended with {worker.exitcode}")
        return heart[0] + 1

    def _done(self) -> tuple[int, int]:
        fed: Counter[str] = Counter()
        for (kind, _), each in self.counted.items():
            fed[kind] += each.fed
        return fed["frame"], fed["file"]

    def _take(self, what: str, value: Any) -> None:
        if what == "counted":
            for name, each in value.items():
                mine = self.counted[name]
                mine.cases += each.cases
                mine.fed += each.fed
                mine.good += each.good
                mine.outcomes.update(each.outcomes)
        elif what == "found":
            self._keep(*value)
        self.finished |= what == "done"

    def _keep(self, place: Place, said: str) -> None:
        self.found[said] += 1
        line = {"kind": place[0], "seed": place[1], "case": place[2], "frame": place[3], "said": said}
        with self.findings.open("a") as file:
            file.write(json.dumps(line) + "\n")


def again(asked: Asked, name: str, case: int) -> None:
    """Run one case as before, and let its error propagate."""
    all_seeds = seeds.hand_made()
    file = next((each for each in files.good(all_seeds) if each.name == name), None)
    if file is not None:
        with tempfile.TemporaryDirectory(prefix="keel-fuzz-") as folder:
            print(files.run(file, case, asked.chance, Path(folder))[0])
        return
    all_seeds += seeds.captured() if asked.captures else []
    pool = [frame for each in all_seeds for frame in each.frames[:8] if len(frame) < 2_000]
    seed = next(each for each in all_seeds if each.name == name)
    at = [0]
    try:
        tally = frames.run(seed, case, asked.chance, pool, lambda i: at.__setitem__(0, i))
    except BaseException:
        session = frames.session(seed, Random(f"{asked.chance}/{seed.name}/{case}"), pool)  # noqa: S311
        print(f"frame {at[0]}: {session[at[0]][0][:_KEPT]!r}")
        raise
    print(tally)


def page(campaign: Campaign, seconds: float, command: str) -> str:
    """The figures of a campaign as Markdown."""
    fed, read = campaign._done()
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    lines = [
        f"# Damaged frames and files, {today}",
        "",
        f"Commit `{machine.commit()}`, {machine.name()}; one process, {seconds:,.0f} s. Written by `{command}`.",
        "",
        f"{fed:,} damaged frames over {sum(k == 'frame' for k, _ in campaign.counted)} parsers and {read:,} damaged "
        f"files. Findings (crash, hang, an error that is not ours, an event from a rejected frame, a reason that the "
        f"venue does not name): {sum(campaign.found.values())}.",
        "",
        *[f"* {count} times: {said}" for said, count in campaign.found.most_common()],
        "",
        "## Frames",
        "",
        "Good frames lie between the damaged ones, so that parsers with state are in the middle of something. "
        "`events` and `nothing` (a heartbeat, a diff that waits) are of both.",
        "",
        "| parser | damaged | good | events | nothing | rejected, by reason |",
        "|---|---|---|---|---|---|",
    ]
    for (kind, name), each in sorted(campaign.counted.items()):
        if kind == "frame":
            said = Counter(each.outcomes)
            events, nothing = said.pop("events", 0), said.pop("nothing", 0)
            why = ", ".join(f"{reason} {n:,}" for reason, n in said.most_common())
            lines.append(f"| {name} | {each.fed:,} | {each.good:,} | {events:,} | {nothing:,} | {why} |")
    lines += ["", "## Files", "", "| file | damaged | what came |", "|---|---|---|"]
    for (kind, name), each in sorted(campaign.counted.items()):
        if kind == "file":
            said_of = ", ".join(f"{what} {n:,}" for what, n in each.outcomes.most_common())
            lines.append(f"| {name} | {each.fed:,} | {said_of} |")
    return "\n".join([*lines, ""])


def main() -> int:
    """0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000, help="damaged frames to feed")
    parser.add_argument("--files", type=int, default=1_000, help="damaged files to read")
    parser.add_argument("--seed", default="7", help="the seed: the same seed gives the same run")
    parser.add_argument("--venue", help="only frames of this seed")
    parser.add_argument("--no-captures", action="store_true", help="hand-made frames only")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds allowed for a frame")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings.jsonl"))
    parser.add_argument("--page", type=Path, help="where the figures go")
    parser.add_argument("--case", nargs=2, metavar=("SEED", "NUMBER"), help="run this case again")
    said = parser.parse_args()
    asked = Asked(said.frames, said.files, said.seed, venue=said.venue, captures=not said.no_captures)
    if said.case:
        again(asked, said.case[0], int(said.case[1]))
        return 0
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    campaign = Campaign(asked, said.patience, said.findings)
    began, written = time.monotonic(), [time.monotonic()]
    command = f"python -m bench.fuzz --frames {asked.frames} --files {asked.files} --seed {asked.chance}"
    command += "" if asked.captures else " --no-captures"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        fed, read = bar.add_task("frames", total=asked.frames), bar.add_task("files", total=asked.files)

        def show(frames_done: int, files_done: int, found: int) -> None:
            bar.update(fed, completed=frames_done, description=f"frames ({found} findings)")
            bar.update(read, completed=files_done)
            if said.page and time.monotonic() - written[0] > _WRITTEN_EVERY_S:
                written[0] = time.monotonic()
                said.page.write_text(page(campaign, time.monotonic() - began, command))

        with contextlib.suppress(KeyboardInterrupt):  # then the figures are of what was done
            campaign.run(show)
    for kind, count in campaign.found.most_common():
        print(f"{count} times: {kind}")
    if said.page:
        said.page.write_text(page(campaign, time.monotonic() - began, command))
    return 1 if campaign.found else 0
