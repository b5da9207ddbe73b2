"""The pictures. Each takes plain figures and gives SVG text, or writes a PNG when it is given a path.

Light background, few inks: the champion is blue, the challenger orange, what is alarming red, the rest grey.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

INK = "#1f2933"
QUIET = "#8a94a0"
FAINT = "#e3e7eb"
CHAMPION = "#2a6fb0"
CHALLENGER = "#d9772b"
ALARM = "#c0392b"
GOOD = "#3b8f5c"
FEW_ROWS = 20  # a calibration bin with fewer rows is noise and is not drawn
SERIES = (CHAMPION, CHALLENGER, GOOD, "#7d5ba6", "#8a94a0", "#b58b00", ALARM)

_STYLE: Mapping[str, Any] = {
    "font.size": 9.5,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def _figure(name: str, size: tuple[float, float], grid: tuple[int, int] = (1, 1), **options: Any) -> Iterator[Any]:
    """A figure in our style with its axes; closed at the end, whatever happens."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure, axes = plt.subplots(*grid, figsize=size, layout="constrained", squeeze=False, **options)
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def _finish(figure: Any, path: Path | None) -> str:
    """The SVG text, or a PNG at ``path`` and nothing."""
    if path is not None:
        figure.savefig(path, format="png", dpi=130)
        return ""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


# -- drift ----------------------------------------------------------------------------------------------------------


def drift_picture(found: Mapping[str, Any], *, path: Path | None = None, most: int = 18) -> str:
    """Effect size over threshold for each signal and window, above it the strength of each window.

    ``found`` is what monitoring wrote: ``windows_judged``, ``signals`` (name, judged, ratios), ``strength_threshold``.
    """
    windows = found["windows_judged"]
    signals = sorted(
        (s for s in found["signals"] if s["judged"]),
        key=lambda s: -np.nanmax(np.array(s["ratios"], dtype=float), initial=0.0),
    )[:most]
    seconds = [(w["start_ns"] - windows[0]["start_ns"]) / 1e9 for w in windows]
    height = 2.0 + 0.21 * len(signals)
    with _figure("drift", (7.2, height), (2, 1), height_ratios=[1.1, 0.21 * len(signals) + 0.3]) as (figure, axes):
        _strengths(axes[0][0], windows, found["strength_threshold"])
        _ratio_map(figure, axes[1][0], signals, seconds)
        return _finish(figure, path)


def _strengths(axis: Any, windows: Sequence[Mapping[str, Any]], threshold: float) -> None:
    strength = [w["strength"] for w in windows]
    colours = [ALARM if w["violated"] else QUIET for w in windows]
    axis.bar(range(len(strength)), strength, color=colours, width=0.86)
    axis.axhline(threshold, color=INK, linewidth=1, linestyle="--")
    axis.set(ylabel="strength", ylim=(0, 1.08 * max(2 * threshold, *strength)), xlim=(-0.5, len(strength) - 0.5))
    axis.set_xticks([])
    axis.grid(visible=False)
    axis.set_title(f"Strength of the drift in each window: red above {threshold:.2f} (dashed)")


def _ratio_map(figure: Any, axis: Any, signals: Sequence[Mapping[str, Any]], seconds: Sequence[float]) -> None:
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm

    ratios = np.array([s["ratios"] for s in signals], dtype=float).reshape(len(signals), len(seconds))
    colours = LinearSegmentedColormap.from_list("keel", ["#ffffff", "#e6ebf1", "#cbd5e1", "#f0a878", ALARM, "#5c1a12"])
    most = float(max(4.0, np.nanquantile(ratios, 0.95))) if np.isfinite(ratios).any() else 4.0
    norm = TwoSlopeNorm(vmin=0, vcenter=1, vmax=most)
    image = axis.imshow(ratios, aspect="auto", cmap=colours, norm=norm, interpolation="nearest")
    axis.set_yticks(range(len(signals)), [s["name"] for s in signals], fontsize=8)
    marks = np.unique(np.linspace(0, len(seconds) - 1, min(len(seconds), 8)).astype(int))
    axis.set_xticks(marks, [f"{seconds[i]:.0f}" for i in marks])
    axis.set_xlabel("seconds of market time since the first window")
    axis.grid(visible=False)
    axis.set_title("Distance from the reference, in multiples of each signal's own threshold")
    bar = figure.colorbar(image, ax=axis, shrink=0.8, aspect=30, ticks=[0, 0.5, 1, most / 2, most])
    bar.ax.set_yticklabels(["0", "0.5", "1", f"{most / 2:.0f}", f"{most:.0f}+"])
    bar.outline.set_visible(False)


# -- the A/B test ---------------------------------------------------------------------------------------------------


def sequence_picture(series: Sequence[Mapping[str, Any]], *, alpha: float, path: Path | None = None) -> str:
    """Running difference and confidence sequence of each metric that decides and has looks."""
    shown = [s for s in series if s["estimate"] and s["role"] != "shown"]
    if not shown:
        shown = list(series[:1])
    with _figure("sequence", (7.2, 2.0 * len(shown) + 0.4), (len(shown), 1)) as (figure, axes):
        for axis, one in zip(axes[:, 0], shown, strict=True):
            _one_sequence(axis, one, alpha)
        axes[0][0].legend(loc="best", ncols=2, frameon=True, edgecolor="none")
        axes[-1][0].set_xlabel("looks (blocks for the log-loss, switchback pairs for the rest)")
        return _finish(figure, path)


def shadow_picture(words: tuple[Any, Any], leans: tuple[Any, Any], *, path: Path | None = None) -> str:
    """Log-loss a block of champion and challenger, and probability of up less down of one against the other."""
    with _figure("shadow", (7.2, 2.7), (1, 2), width_ratios=[1.5, 1]) as (figure, axes):
        losses, joint = axes[0]
        blocks = np.arange(1, len(words[0]) + 1)
        for colour, label, loss in ((CHAMPION, "champion", words[0]), (CHALLENGER, "challenger", words[1])):
            losses.plot(blocks, loss, color=colour, linewidth=1.4, marker=".", markersize=4, label=label)
        losses.set(xlabel="block", ylabel="nats")
        losses.set_title("log-loss of the direction; lower is better")
        losses.xaxis.get_major_locator().set_params(integer=True)
        losses.legend(loc="best", ncols=2)
        joint.hist2d(*leans, bins=40, range=((-1, 1), (-1, 1)), cmap="Blues", norm="log")
        joint.plot([-1, 1], [-1, 1], color=QUIET, linewidth=1, linestyle=":")
        joint.set(xlabel="champion", ylabel="challenger")
        joint.set_title("up less down, 500 ms")
        joint.grid(visible=False)
        return _finish(figure, path)


def _one_sequence(axis: Any, one: Mapping[str, Any], alpha: float) -> None:
    estimate = np.array(one["estimate"], dtype=float)
    looks = np.arange(1, len(estimate) + 1)
    lower = np.array([np.nan if v is None else v for v in one["lower"]], dtype=float)
    upper = np.array([np.nan if v is None else v for v in one["upper"]], dtype=float)
    band = f"{100 * (1 - alpha):g} % at every look"
    axis.fill_between(looks, lower, upper, color=CHALLENGER, alpha=0.18, linewidth=0, label=band)
    axis.plot(looks, estimate, color=CHALLENGER, linewidth=1.6, label="challenger less champion")
    axis.axhline(0, color=INK, linewidth=1)
    if one["decided_at"]:
        axis.axvline(one["decided_at"], color=ALARM, linewidth=1, linestyle="--")
    _focus(axis, estimate, lower, upper)
    axis.set_title(f"{one['title']} ({one['unit']}; {one['better']} is better)")
    axis.set_xlim(0.5, max(len(looks), 2) + 0.5)
    axis.xaxis.get_major_locator().set_params(integer=True)


def _focus(axis: Any, estimate: Any, lower: Any, upper: Any) -> None:
    """The first intervals are very wide: show the later ones."""
    known = np.flatnonzero(np.isfinite(lower))
    late = estimate[len(estimate) // 4 :]
    edges = [*late, 0.0]
    if len(known):
        from_here = known[len(known) // 5 :]
        edges += [*lower[from_here], *upper[from_here]]
    low, high = (float(np.min(edges)), float(np.max(edges))) if len(edges) else (-1.0, 1.0)
    room = 0.08 * (high - low) or 1e-6
    axis.set_ylim(low - room, high + room)


# -- the ring --------------------------------------------------------------------------------------------------------


def timeline(entries: Sequence[Mapping[str, Any]]) -> str:
    """When each stage ran and for how long, in the order of the story."""
    first = min(e["started_ns"] for e in entries)
    starts = [(e["started_ns"] - first) / 1e9 for e in entries]
    with _figure("timeline", (7.2, 0.24 * len(entries) + 0.7)) as (figure, axes):
        axis = axes[0][0]
        end = max(s + e["seconds"] for s, e in zip(starts, entries, strict=True)) or 1.0
        for row, (start, entry) in enumerate(zip(starts, entries, strict=True)):
            point = entry["seconds"] < 0.02  # an event, not a stage
            axis.barh(
                row, max(entry["seconds"], 0.004 * end), left=start, color=ALARM if point else CHAMPION, height=0.62
            )
            text = entry["stage"] if point else f"{entry['stage']}  {entry['seconds']:.1f} s"
            right = start + max(entry["seconds"], 0.004 * end)
            inside = right > 0.8 * end
            axis.text(
                start - 0.006 * end if inside else right + 0.006 * end,
                row,
                text,
                va="center",
                ha="right" if inside else "left",
                fontsize=8,
            )
        axis.set(xlim=(0, end * 1.02), ylim=(len(entries) - 0.4, -0.6), xlabel="seconds since the start")
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        return _finish(figure, None)


# -- models ---------------------------------------------------------------------------------------------------------


def calibration(curves: Mapping[str, Mapping[str, Sequence[float]]], *, title: str) -> str:
    """Observed share against predicted probability; ``curves`` maps model to ``predicted``, ``observed``, ``rows``."""
    with _figure(f"calibration{title}", (3.5, 3.3)) as (figure, axes):
        axis = axes[0][0]
        axis.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=":")
        for colour, (model, curve) in zip(SERIES, curves.items(), strict=False):
            rows, predicted, observed = (np.array(curve[k], dtype=float) for k in ("rows", "predicted", "observed"))
            full = rows >= FEW_ROWS
            sizes = 6 + 60 * rows[full] / max(rows.max(initial=1.0), 1.0)
            axis.plot(predicted[full], observed[full], color=colour, linewidth=1.3, label=model)
            axis.scatter(predicted[full], observed[full], s=sizes, color=colour, alpha=0.75, linewidths=0)
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted probability", ylabel="share that came true")
        axis.set_title(title)
        axis.legend(loc="upper left")
        return _finish(figure, None)


def confusion(matrices: Mapping[str, Sequence[Sequence[int]]], classes: Sequence[str]) -> str:
    """Rows are what happened, columns what was likeliest; shares of each row."""
    count = len(matrices)
    across = count if count <= 4 else 3
    down = -(-count // across)
    with _figure("confusion", (1.75 * across + 0.4, 1.95 * down + 0.3), (down, across)) as (figure, axes):
        flat = list(axes.flat)
        for axis, (model, matrix) in zip(flat, matrices.items(), strict=False):
            _one_confusion(axis, np.array(matrix, dtype=float), classes, model)
        for axis in flat[count:]:
            axis.set_visible(False)
        return _finish(figure, None)


def _one_confusion(axis: Any, counts: Any, classes: Sequence[str], title: str) -> None:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i in range(len(classes)):
        for j in range(len(classes)):
            colour = "white" if share[i, j] > 0.55 else INK
            axis.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", color=colour, fontsize=8.5)
    axis.set_xticks(range(len(classes)), classes, fontsize=8)
    axis.set_yticks(range(len(classes)), classes, fontsize=8)
    axis.grid(visible=False)
    axis.set_title(title, fontsize=8.5)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


# -- latencies --------------------------------------------------------------------------------------------------------


def latency(series: Mapping[str, Mapping[str, Any]]) -> str:
    """Histograms on one logarithmic axis of microseconds. ``series`` maps a name to ``edges_us`` (b + 1), ``counts``
    (b), ``p50_us`` and ``p99_us``."""
    with _figure("latency", (7.2, 1.25 * len(series) + 0.7), (len(series), 1), sharex=True) as (figure, axes):
        for axis, colour, (name, one) in zip(axes[:, 0], SERIES, series.items(), strict=False):
            edges, counts = np.array(one["edges_us"], dtype=float), np.array(one["counts"], dtype=float)
            density = counts / max(counts.sum(), 1.0)
            axis.bar(edges[:-1], density, width=np.diff(edges), align="edge", color=colour, alpha=0.8, linewidth=0)
            for key, style, side in (("p50_us", "-", "right"), ("p99_us", "--", "left")):
                axis.axvline(one[key], color=INK, linewidth=1, linestyle=style)
                label = f" {key[:3]} {microseconds(one[key])} "
                axis.text(one[key], density.max(initial=0.0) * 1.12, label, fontsize=8, ha=side)
            axis.set_xscale("log")
            axis.set_ylim(0, density.max(initial=0.0) * 1.35 or 1.0)
            axis.set_yticks([])
            axis.spines["left"].set_visible(False)
            axis.set_title(name)
        axes[-1][0].xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes[-1][0].set_xlabel("microseconds, logarithmic")
        return _finish(figure, None)


def microseconds(value: float) -> str:
    """A time in the unit one would say it in."""
    return f"{value / 1000:.2f} ms" if value >= 1000 else f"{value:.3g} us"


# -- quotes ---------------------------------------------------------------------------------------------------------


def quotes(stretch: Mapping[str, Any]) -> str:
    """Above: mid and fills. Below: how far our quotes stand from the mid, on an axis that is linear near it.

    Shaded where the model moved the quotes. Times in seconds, prices in ticks from the first mid; gaps (None) where
    there was no quote.
    """
    time = np.array(stretch["seconds"], dtype=float)
    mid, bid, ask = (_with_gaps(stretch[name]) for name in ("mid", "bid", "ask"))
    with _figure("quotes", (7.2, 4.6), (2, 1), sharex=True, height_ratios=[1.25, 1]) as (figure, axes):
        path, distance = axes[0][0], axes[1][0]
        for axis in (path, distance):
            for begin, end in stretch["widened"]:
                axis.axvspan(begin, max(end, begin + 0.03), color=CHALLENGER, alpha=0.2, linewidth=0)
        path.step(time, mid, where="post", color=INK, linewidth=1.0, label="mid")
        for side, colour, marker, label in ((1, CHAMPION, "^", "we bought"), (-1, ALARM, "v", "we sold")):
            points = [(f["seconds"], f["price"]) for f in stretch["fills"] if f["side"] == side]
            if points:
                path.scatter(*zip(*points, strict=True), marker=marker, s=30, color=colour, zorder=5, label=label)
        path.set(ylabel="ticks from the first mid", xlim=(time[0], time[-1]))
        path.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=3)
        _distances(distance, time, (bid - mid, ask - mid))
        return _finish(figure, None)


def _distances(axis: Any, time: Any, sides: tuple[Any, Any]) -> None:
    for side, colour, label in zip(sides, (CHAMPION, ALARM), ("our bid", "our ask"), strict=True):
        axis.step(time, side, where="post", color=colour, linewidth=1.1, label=label)
    axis.axhline(0, color=INK, linewidth=0.8)
    axis.set_yscale("symlog", linthresh=2.0)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set(xlabel="seconds", ylabel="ticks from the mid")
    axis.legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=2)


def _with_gaps(values: Sequence[float | None]) -> Any:
    return np.array([np.nan if v is None else v for v in values], dtype=float)
