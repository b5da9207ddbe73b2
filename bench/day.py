"""Memory over a day of market: a quoting session as ``keel serve`` runs it, at a simulated exchange that does not wait.

Raw frames, ticks, slow records, predictions, quotes and outcomes are landed in a lake, orders are sent and filled; what
is asked is whether the process is larger in the evening than in the morning. ``python -m bench day [HOURS]``; the
session is a process of its own, ``python -m bench.day HOME URL HOURS``.
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

from bench import live_session
from market.clock import SystemClock
from market.lake import Lake
from pipelines.quoting import ServeConfig
from pipelines.simulate import Exchange, SimulateConfig, running_exchange

HOURS = 24.0
REGIME = "thin"  # without tickers some 12 frames a second: a day in minutes
SAMPLE_S = 300.0  # of market time
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "memory-over-a-day.svg"
_TOLD = (1, 6, 12, 18, 24)
_STREAMS = "btcusdt@depth@100ms/btcusdt@trade/btcusdt@markPrice@1s"
_PAGE = 4096


def run(hours: str = "") -> dict[str, Any]:
    length = float(hours or HOURS)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, running_exchange(SimulateConfig(seed=7, regime=REGIME)) as exchange:
        samples, totals = _day(Path(folder), exchange, length)
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
    """Draws the picture, too."""
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
        f"Simulated exchange, {REGIME}, without tickers, with orders: {totals['frames']:,} frames, "
        f"{totals['decisions']:,} decisions, {totals['quotes']:,} quotes, {totals['fills']:,} fills, "
        f"in {seconds / 60:.1f} minutes; "
        f"{totals['lake'] / 1e6:,.0f} MB of Parquet in {totals['commits']:,} commits, never compacted meanwhile.",
        f"Resident set of the session's process every {SAMPLE_S / 60:g} minutes of market; values between samples are "
        "interpolated. Growth is the slope of a straight line; its error takes samples for independent.",
    ]


def _slope(at: NDArray[np.float64], size: NDArray[np.float64]) -> tuple[float, float]:
    """MB an hour and its standard error, by least squares."""
    away = at - at.mean()
    slope = float(away @ size / (away @ away))
    rest = size - size.mean() - slope * away
    return slope, float(np.sqrt(rest @ rest / (len(at) - 2) / (away @ away)))


def _day(home: Path, exchange: Exchange, hours: float) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """(hour of market, MB) of each sample, and what the session did."""
    # the exchange runs ahead by what the socket holds; it must not have ended when the session gets there
    ends = f"seconds={(hours + 4) * 3600:g}"
    url = f"ws://127.0.0.1:{exchange.port}/stream?pace=max&{ends}&streams={_STREAMS}"
    live_session.prepare(home, exchange.instrument)
    command = [sys.executable, "-m", "bench.day", str(home), url, str(hours)]
    samples = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            if "mb" in said:
                samples.append((said["hour"], said["mb"]))
                print(f"  hour {said['hour']:5.2f}  {said['mb']:7.1f} MB", flush=True)
    assert process.returncode == 0, f"the session ended with {process.returncode}"
    return np.array(samples), said


def session(home: Path, url: str, hours: float) -> None:
    """Say on stdout, in lines of JSON, how large the process is as market time passes, and at last what it did."""
    passed, told = 0.0, 0.0

    def advance(seconds: float) -> None:
        nonlocal passed, told
        passed += seconds
        if passed - told >= SAMPLE_S:
            told = passed
            print(json.dumps({"hour": passed / 3600, "mb": _resident() / 1e6}), flush=True)

    config = ServeConfig(url=url, seconds=hours * 3600)
    totals = live_session.run(config, home, SystemClock(), advance=advance, ping_s=600.0).totals
    lake = Lake(home / "lake")
    commits = sum(
        (lake.version(each.name) or 0) for each in (home / "lake").iterdir() if (each / "_delta_log").is_dir()
    )
    said = {name: getattr(totals, name) for name in ("frames", "decisions", "quotes", "fills")}
    print(json.dumps({**said, "commits": commits}), flush=True)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


if __name__ == "__main__":
    session(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
