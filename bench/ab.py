"""The test of champion against challenger on simulated block metrics: the rate of wrong verdicts where the arms are
equal, and how soon a difference of a stated size is detected.

``python -m bench ab`` writes a section of the day's page. Differences follow a first-order autoregression
(``rho``), scaled to a standard deviation of one, so that an effect is in standard deviations of a block's difference;
tails are normal or Student's with 3 degrees of freedom. The test is the production test, evaluated after every block.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from pipelines.experiments.compare import CompareConfig
from training.evaluation.sequential import sequence

Floats = NDArray[np.float64]

RHOS = (0.0, 0.3, 0.6)
EFFECTS = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
EQUAL_RUNS, EQUAL_BLOCKS = 4000, 1000
POWER_RUNS, MOST_BLOCKS = 1000, 2000
PLANS = (40, 200)
WARM_UP = 200  # steps before the first block, so that the autoregression has forgotten its start

_CONFIG = CompareConfig(instrument="")


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """The process that generates block differences: ``effect`` is their mean."""

    rho: float
    heavy: bool = False
    effect: float = 0.0

    def draw(self, rng: np.random.Generator, blocks: int) -> Floats:
        """(blocks,) differences."""
        size = blocks + WARM_UP
        noise = rng.standard_t(3, size) / np.sqrt(3.0) if self.heavy else rng.normal(size=size)
        moved = lfilter([1.0], [1.0, -self.rho], noise)[WARM_UP:] * np.sqrt(1.0 - self.rho**2)
        return np.asarray(moved + self.effect, dtype=np.float64)


def run() -> dict[str, Any]:
    equal = [_equal(Blocks(rho=rho, heavy=heavy)) for heavy, rho in product((False, True), (*RHOS, 0.8))]
    power = [_power(Blocks(rho=rho, effect=effect), plan) for plan, rho, effect in product(PLANS, RHOS, EFFECTS)]
    worst = max(each["wrong"] for each in equal)
    return {
        "title": "The test of champion against challenger",
        "rows": [
            {
                "what": f"equal arms declared different, worst case of {len(equal)}",
                "value": 100 * worst,
                "unit": f"% of {EQUAL_RUNS:,} runs",
                "goal": f"<= {100 * _CONFIG.alpha:g} %",
            }
        ],
        "notes": [
            f"alpha {_CONFIG.alpha:g}, one look per block, two-sided. Equal arms: {EQUAL_BLOCKS:,} blocks a run, "
            f"plan {_CONFIG.plan}. Power: {POWER_RUNS:,} runs of at most {MOST_BLOCKS:,} blocks.",
            "Effects are in standard deviations of one block's difference; rho is the first-order autocorrelation of "
            "the differences. A block of 10 s makes 360 looks an hour at the words, and 180 pairs at what "
            "fills earned.",
            "The interval is tightest at the planned number of blocks; the chance of a wrong verdict does not depend "
            "on it.",
        ],
        "equal": equal,
        "power": power,
    }


def _equal(blocks: Blocks) -> dict[str, Any]:
    rng = np.random.default_rng(21)
    seen = [
        sequence(blocks.draw(rng, EQUAL_BLOCKS), alpha=_CONFIG.alpha, plan=_CONFIG.plan).decided_at
        for _ in range(EQUAL_RUNS)
    ]
    wrong = float(np.mean(np.array(seen) > 0))
    return {
        "rho": blocks.rho,
        "tails": "Student's t, 3 d.f." if blocks.heavy else "normal",
        "wrong": wrong,
        "error": float(np.sqrt(wrong * (1 - wrong) / EQUAL_RUNS)),
    }


def _power(blocks: Blocks, plan: int) -> dict[str, Any]:
    rng = np.random.default_rng(22)
    seen = [sequence(blocks.draw(rng, MOST_BLOCKS), alpha=_CONFIG.alpha, plan=plan) for _ in range(POWER_RUNS)]
    at = np.array([s.decided_at if s.sign > 0 else 0 for s in seen])
    when = np.sort(np.where(at > 0, at, np.inf))
    median, p90 = (float(np.quantile(when, q, method="higher")) for q in (0.5, 0.9))
    return {
        "plan": plan,
        "rho": blocks.rho,
        "effect": blocks.effect,
        **{f"by_{n}": float(np.mean((at > 0) & (at <= n))) for n in (100, 500, MOST_BLOCKS)},
        "wrong_side": float(np.mean([s.sign < 0 for s in seen])),
        "median": median if np.isfinite(median) else None,
        "p90": p90 if np.isfinite(p90) else None,
    }


def page(found: dict[str, Any]) -> list[str]:
    """The tables in addition to the usual one."""
    lines = ["## Two equal arms", "", "| tails | rho | declared different | standard error |", "|---|---|---|---|"]
    lines += [
        f"| {r['tails']} | {r['rho']:g} | {100 * r['wrong']:.2f} % | {100 * r['error']:.2f} % |" for r in found["equal"]
    ]
    head = f"| plan | rho | effect, sigma | by 100 blocks | by 500 | by {MOST_BLOCKS:,} | median | p90 | wrong side |"
    lines += ["", "## A difference of a stated size: blocks to the verdict", "", head, "|---" * 9 + "|"]
    lines += [
        f"| {r['plan']} | {r['rho']:g} | {r['effect']:g} | {r['by_100']:.0%} | {r['by_500']:.0%} | "
        f"{r[f'by_{MOST_BLOCKS}']:.0%} | {_blocks(r['median'])} | {_blocks(r['p90'])} | {r['wrong_side']:.1%} |"
        for r in found["power"]
    ]
    return [*lines, ""]


def _blocks(value: float | None) -> str:
    return f"> {MOST_BLOCKS:,}" if value is None else f"{value:,.0f}"
