"""Memory over a day of market: a quoting session as ``keel serve`` runs it, fed by a simulated exchange through a pipe.

Raw frames, ticks, slow records, predictions and quotes are landed as from a live source, and small files are merged
every half hour, as ``keel serve --follow`` does; the question is whether the process is larger in the evening than in
the morning. ``python -m bench day [HOURS]``; the session is a separate process, and so is the exchange.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import live_session, market
from market.clock import SystemClock
from market.lake.lake import Lake
from market.simulator.config import ExchangeConfig
from market.simulator.desk import Desk
from market.simulator.exchange import Exchange, Subscription
from pipelines.quoting.companions import Compactor
from serving.session import drivers
from serving.session.session import QuotingSession

HOURS = 24.0
REGIME = "thin"  # without tickers some 20 frames a second: a day in minutes
SAMPLE_S = 300.0  # of market time
COMPACT_S = 1800.0  # of market time: as long as a session of ``keel serve --follow`` is
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "memory-over-a-day.svg"
_TOLD = (1, 6, 12, 18, 24)
_STREAMS = "btcusdt@depth@100ms/btcusdt@trade/btcusdt@markPrice@1s"
_SNAPSHOT_STEPS = 600  # a minute
_PAGE = 4096


def run(hours: str = "") -> dict[str, Any]:
    length = float(hours or HOURS)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        samples, totals = _day(Path(folder), length)
        totals["lake"] = sum(each.stat().st_size for each in (Path(folder) / "lake").rglob("*.parquet"))
    seconds = time.monotonic() - began
    at, size = samples.T
    rows = [
        {
            "what": f"resident after {hour} h of market",
            "value": round(float(np.interp(hour, at, size)), 1),
            "unit": "MB",
        }
        for hour in _TOLD
        if hour <= length
    ]
    for what, first in (("after the first hour", 1.0), ("of the second half", length / 2)):
        slope, error = _slope(at[at >= first], size[at >= first])
        rows.append({"what": f"growth {what}", "value": round(slope, 3), "unit": f"MB/h (standard error {error:.3f})"})
    rows.append({"what": "most at any sample", "value": round(float(size.max()), 1), "unit": "MB"})
    return {
        "title": f"Memory over {length:g} hours of market",
        "rows": rows,
        "notes": _notes(totals, seconds),
        "samples": samples.tolist(),
    }


def page(found: dict[str, Any]) -> list[str]:
    """Also draws the chart."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    at, size = np.array(found["samples"]).T
    figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    axes.plot(at, size)
    axes.set(xlabel="hours of market", ylabel="resident, MB", ylim=(0, None))
    axes.grid(alpha=0.3)
    figure.savefig(PICTURE, metadata={"Date": None})
    plt.close(figure)
    return [f"![memory]({PICTURE.name})", ""]


def _notes(totals: dict[str, Any], seconds: float) -> list[str]:
    return [
        f"Simulated exchange, {REGIME}, without tickers: {totals['frames']:,} frames, "
        f"{totals['decisions']:,} decisions, {totals['quotes']:,} quotes, "
        f"in {seconds / 60:.1f} minutes; "
        f"{totals['lake'] / 1e6:,.0f} MB of Parquet in {totals['commits']:,} commits, merged every half hour.",
        f"Resident set of the session's process every {SAMPLE_S / 60:g} minutes of market; values between samples are "
        "interpolated. Growth is the slope of a straight line; its error assumes independent samples.",
    ]


def _slope(at: NDArray[np.float64], size: NDArray[np.float64]) -> tuple[float, float]:
    """MB an hour and its standard error, by least squares."""
    away = at - at.mean()
    slope = float(away @ size / (away @ away))
    rest = size - size.mean() - slope * away
    return slope, float(np.sqrt(rest @ rest / (len(at) - 2) / (away @ away)))


def _day(home: Path, hours: float) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """(hour of market, MB) of each sample, and the session's totals."""
    live_session.prepare(home, market.instrument().key)
    command = [sys.executable, "-m", "bench.day"]
    samples = []
    with (
        subprocess.Popen([*command, "market", str(hours)], stdout=subprocess.PIPE) as feed,
        subprocess.Popen([*command, "session", str(home)], stdin=feed.stdout, stdout=subprocess.PIPE) as process,
    ):
        assert feed.stdout is not None
        feed.stdout.close()  # it is the session's
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            if "mb" in said:
                samples.append((said["hour"], said["mb"]))
                print(f"  hour {said['hour']:5.2f}  {said['mb']:7.1f} MB", flush=True)
    assert process.returncode == 0, f"the session ended with {process.returncode}"
    return np.array(samples), said


def feed(hours: float) -> None:
    """Write the lines of this many hours of market to stdout, as fast as they are read."""
    config = ExchangeConfig(seed=7, regime=REGIME)
    exchange = Exchange(config)
    desk = Desk(exchange._world, config.instrument, 0)
    wanted = Subscription.of({"streams": [_STREAMS]}, config.instrument.symbol)
    for step in range(int(hours * 36_000)):
        lines = exchange.lines_until(exchange.now_ns + 100_000_000, desk, wanted)[0]
        if step % _SNAPSHOT_STEPS == 1:
            lines.append(exchange.line(exchange.take_snapshot()[1]))
        sys.stdout.buffer.writelines(b"%d %s\n" % line for line in lines)


def session(home: Path) -> None:
    """Read lines from stdin; print in JSON the size of the process as time passes, and its totals at the end."""
    passed, reported, merged = 0.0, 0.0, 0.0
    compactor = Compactor(home / "lake")

    def advance(seconds: float) -> None:
        nonlocal passed, reported, merged
        passed += seconds
        if passed - merged >= COMPACT_S:
            merged = passed
            compactor.begin()
        if passed - reported >= SAMPLE_S:
            reported = passed
            print(json.dumps({"hour": passed / 3600, "mb": _resident() / 1e6}), flush=True)

    def drive(session: QuotingSession, until: drivers.Until) -> None:
        lines = (line.rstrip(b"\n").split(b" ", 1) for line in sys.stdin.buffer)
        drivers.follow(session, ((n, int(stamp), payload) for n, (stamp, payload) in enumerate(lines, 1)), until)

    with compactor:
        totals = live_session.run(market.instrument().key, home, SystemClock(), drive, advance).totals
    lake = Lake(home / "lake")
    commits = sum(
        (lake.version(each.name) or 0) for each in (home / "lake").iterdir() if (each / "_delta_log").is_dir()
    )
    said = {name: getattr(totals, name) for name in ("frames", "decisions", "quotes")}
    print(json.dumps({**said, "commits": commits}), flush=True)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


if __name__ == "__main__":
    if sys.argv[1] == "market":
        feed(float(sys.argv[2]))
    else:
        session(Path(sys.argv[2]))
