"""Guardrails of a version on trial, evaluated by the session that serves it, on its own rows.

On trial are a canary, and a challenger from its first shadow block on.

| guardrail | what is measured | breached |
|---|---|---|
| log_loss | mean log-loss of the direction after 1 s, new minus old, same rows | surely above ``log_loss_worse`` |
| drawdown | fall of inventory and cash from their best, in blocks where the new one is active | above its limit |
| latency | p99 of the hot path's step over the last rows | above ``step_p99_us`` |
| not_a_number | rows on which the new one returned a non-finite number | above ``not_a_number`` |
| inventory | lots held beyond the policy's limit while the new one is active | above ``inventory_over_lots`` |
| words | of a challenger: log_loss block by block, by an always-valid test | significantly worse |
| refused | bundles of it that failed verification in the session | any |

The label settings that both versions were trained on define the true direction; versions with different settings are
not put on trial against each other.

A breach is final: it names the trial it ended, and a new trial needs a new approval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from market.clock import NS_PER_S
from market.errors import ServiceError, SettingsError
from market.events import joined
from market.files import replacing
from market.heads import columns
from market.labels import HORIZONS_NS, LabelConfig
from serving.outcomes import direction_log_loss
from serving.rollout.lineup import Lineup

Decisions = NDArray[np.void]  # shape (n,), dtype DECISION
Worse = Callable[[NDArray[np.float64]], bool]  # of differences (b,) of blocks: whether they are significantly above 0

HORIZON_NS = NS_PER_S
_WORDS = columns(HORIZONS_NS.index(HORIZON_NS), 0)  # of the direction
_NS_PER_US = 1000
_LEAST_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class GuardrailConfig:
    """Limits. ``log_loss_worse`` in nats, checked from ``least_rows`` rows with known labels on, for a challenger from
    ``least_blocks`` whole blocks on: seconds of a lively market prove little. It is broken if the mean over seconds
    lies above it by more than ``log_loss_errors`` standard errors (neighbouring seconds share outcomes, so that three
    amount to about two);
    ``drawdown_half_ticks`` in half ticks times lots; ``step_p99_us`` over the last ``latency_rows`` rows at most, and
    from ``least_rows`` on. Predictions in the first ``settle_seconds`` of market time count against no version: a newly
    deployed network starts with an empty state. ``words_alpha``, ``words_plan``: parameters of the test of a
    challenger's predictions, see :mod:`training.evaluation.sequential`."""

    log_loss_worse: float = 0.10
    log_loss_errors: float = 3.0
    settle_seconds: float = 5.0
    least_rows: int = 500
    least_blocks: int = 30
    drawdown_half_ticks: int = 200_000
    step_p99_us: float = 2_000.0
    latency_rows: int = 5_000
    not_a_number: int = 0
    inventory_over_lots: int = 20
    words_alpha: float = 0.05
    words_plan: int = 40

    def __post_init__(self) -> None:
        if self.least_blocks < 0 or self.least_rows < 1 or self.latency_rows < self.least_rows:
            raise SettingsError(f"expected least_blocks >= 0 and 1 <= least_rows <= latency_rows, saw {self}")
        if self.log_loss_errors < 0:
            raise SettingsError(f"expected log_loss_errors of zero or more, saw {self}")
        if not (self.log_loss_worse > 0 and self.drawdown_half_ticks > 0 and self.step_p99_us > 0):
            raise SettingsError(f"expected limits above zero, saw {self}")
        if self.not_a_number < 0 or self.inventory_over_lots < 0 or self.settle_seconds < 0:
            raise SettingsError(f"expected limits of zero or more, saw {self}")
        if not 0 < self.words_alpha < 1 or self.words_plan < 1:
            raise SettingsError(f"expected 0 < words_alpha < 1 and words_plan >= 1, saw {self}")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A version on trial, and the version that is active once it no longer may be. ``number`` identifies the canary's
    trial or the challenger's test, ``step`` is the canary's."""

    version: int
    against: int
    number: int
    step: int = 0
    challenger: bool = False


def trial_of(lineup: Lineup) -> Trial | None:
    """The trial in a line-up; None if no version is on trial."""
    canary = lineup.canary
    if canary is not None:
        return Trial(version=canary.version, against=canary.against, number=canary.trial, step=canary.step)
    if lineup.phase != "switchback":
        return None
    champion, challenger = lineup.versions
    return Trial(version=challenger, against=champion, number=lineup.test, challenger=True)


class Breach(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A guardrail that a version on trial (:attr:`Trial.number`) has broken. ``against`` is active again. ``at_ns`` is
    the feed's receive time."""

    trial: int
    version: int
    against: int
    guardrail: str
    value: float
    limit: float
    session: str
    at_ns: int

    def line(self) -> str:
        return (
            f"version {self.version} broke guardrail {self.guardrail} ({self.value:.6g}, at most {self.limit:.6g}); "
            f"version {self.against} is active again"
        )


class Held(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Progress of a trial's step (or window) in a session: since when in market time, blocks in which the new version
    was active, and what the guardrails measure."""

    trial: int
    step: int
    since_ns: int
    acted_blocks: int = 0
    rows: int = 0
    log_loss_new: float | None = None
    log_loss_old: float | None = None
    drawdown_half_ticks: int = 0
    step_p99_us: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Position:
    """The position: ``inventory`` in lots, the policy's ``limit``, and ``worth2``, half ticks times lots."""

    inventory: int
    limit: int
    worth2: int


@dataclass(kw_only=True)
class Seconds:
    """A mean over seconds of market time, each counting once, and its uncertainty. The second of the newest value does
    not count yet."""

    count: int = 0
    mean: float = 0.0
    _squares: float = 0.0
    _second: int = 0
    _rows: int = 0
    _sum: float = 0.0

    def add(self, time_ns: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Values (n,) at times (n,) that do not go back. Mean and variance as of Welford (1962)."""
        if not len(values):
            return
        seconds, first = np.unique(time_ns // NS_PER_S, return_index=True)
        for second, part in zip(seconds.tolist(), np.split(values, first[1:]), strict=True):
            if second != self._second and self._rows:
                value = self._sum / self._rows
                self.count += 1
                off = value - self.mean
                self.mean += off / self.count
                self._squares += off * (value - self.mean)
                self._rows, self._sum = 0, 0.0
            self._second = second
            self._rows += len(part)
            self._sum += float(part.sum())

    def error(self) -> float:
        """Standard error of the mean, as if the seconds were independent; infinite for fewer than ten."""
        if self.count < _LEAST_SECONDS:
            return float("inf")
        return float(np.sqrt(self._squares / (self.count - 1) / self.count))


@dataclass(kw_only=True)
class Judge:
    """Evaluates one trial's steps, row by row, in the session's own thread; the arithmetic is done once a second."""

    config: GuardrailConfig
    trial: Trial
    new_arm: int
    session: str
    labels: LabelConfig
    block_ns: int = 0
    worse: Worse | None = None
    since_ns: int = 0
    rows: int = 0
    acted_blocks: int = 0
    last_ns: int = 0
    _losses: list[float] = field(default_factory=lambda: [0.0, 0.0])
    _worse: Seconds = field(default_factory=Seconds)
    _pending: list[Decisions] = field(default_factory=list)
    _times: list[NDArray[np.int64]] = field(default_factory=list)
    _wordless: int = 0
    _looked_ns: int = 0
    _earned: int = 0
    _best: int = 0
    _worth2: int | None = None
    _block: int | None = None
    _over: int = 0
    _blocks: dict[int, list[float]] = field(default_factory=dict)  # rows, and the sum of losses, new less old
    _tested: int = 0  # blocks at the last test of the words

    def add(self, decisions: Decisions, block: int, position: Position) -> Breach | None:
        """Evaluate rows (n,) of one block, all under this trial's line-up; returns the first breach."""
        first_ns = int(decisions["recv_ns"][0])
        self.since_ns = min(self.since_ns or first_ns, first_ns)  # a simulated market may have begun again
        self.last_ns = max(self.last_ns, int(decisions["recv_ns"][-1]))
        self._follow_position(int(decisions["arm"][-1]) == self.new_arm, block, position)
        spoken = np.isfinite(decisions["probs"][:, :, _WORDS]).all(axis=2)
        old_arm = 1 - self.new_arm
        self._wordless += int(
            (spoken[:, old_arm] & ~np.isfinite(decisions["probs"][:, self.new_arm]).all(axis=1)).sum()
        )
        if self._wordless > self.config.not_a_number:
            return self._breach("not_a_number", self._wordless, self.config.not_a_number)
        settled = decisions["recv_ns"] >= self.since_ns + int(self.config.settle_seconds * NS_PER_S)
        both = decisions[spoken.all(axis=1) & settled]
        if len(both):
            self._pending.append(both[["recv_ns", "mid2", "probs"]].copy())
        self._keep_times(decisions["step_ns"])
        if self._over > self.config.inventory_over_lots:
            return self._breach("inventory", self._over, self.config.inventory_over_lots)
        if self.last_ns - self._looked_ns < NS_PER_S:
            return None
        self._looked_ns = self.last_ns
        self._label()
        return self._judge()

    def resume(self, session: str) -> Judge:
        """Go on in the next session, on whose first row the clock, the book and the money may stand elsewhere.

        A canary's step is short. What a challenger loses from its best is looked at a session at a time: over days the
        market alone moves any inventory further than a limit that is to stop a bad version.
        """
        if self.trial.challenger:
            self._earned = self._best = 0
        self.session = session
        self.last_ns = self._looked_ns = 0
        self._pending, self._worth2, self._block = [], None, None
        return self

    def held(self) -> Held:
        """The figures so far."""
        return Held(
            trial=self.trial.number,
            step=self.trial.step,
            since_ns=self.since_ns,
            acted_blocks=self.acted_blocks,
            rows=self.rows,
            log_loss_new=self._losses[0] / self.rows if self.rows else None,
            log_loss_old=self._losses[1] / self.rows if self.rows else None,
            drawdown_half_ticks=self._best - self._earned,
            step_p99_us=self._p99_us(),
        )

    def _follow_position(self, new_acts: bool, block: int, position: Position) -> None:
        if self._worth2 is not None and new_acts:
            self._earned += position.worth2 - self._worth2
            self._best = max(self._best, self._earned)
        self._worth2 = position.worth2
        if new_acts:
            self._over = max(self._over, abs(position.inventory) - position.limit)
            self.acted_blocks += block != self._block
        self._block = block

    def _keep_times(self, times: NDArray[np.int64]) -> None:
        self._times.append(times[times > 0].copy())
        while len(self._times) > 1 and sum(map(len, self._times[1:])) >= self.config.latency_rows:
            self._times.pop(0)

    def _label(self) -> None:
        """Compute the losses of the rows whose label has become known."""
        if not self._pending:
            return
        rows = joined(self._pending, self._pending[0].dtype)
        time = np.maximum.accumulate(rows["recv_ns"])
        arms = (self.new_arm, 1 - self.new_arm)
        threshold = self.labels.threshold_half_ticks
        losses = [
            direction_log_loss(
                time, rows["mid2"], rows["probs"][:, arm, _WORDS], HORIZON_NS, threshold_half_ticks=threshold
            )
            for arm in arms
        ]
        known = int(np.isfinite(losses[0]).sum())  # they come first
        for i, loss in enumerate(losses):
            self._losses[i] += float(loss[:known].sum())
        self.rows += known
        differences = losses[0][:known] - losses[1][:known]
        self._worse.add(time[:known], differences)
        if self.worse is not None:
            self._keep_blocks(time[:known], differences)
        self._pending = [rows[known:]]

    def _keep_blocks(self, time: NDArray[np.int64], worse: NDArray[np.float64]) -> None:
        blocks, index = np.unique(time // self.block_ns, return_inverse=True)
        count, total = np.bincount(index), np.bincount(index, weights=worse)
        for block, rows, loss in zip(blocks.tolist(), count.tolist(), total.tolist(), strict=True):
            kept = self._blocks.setdefault(block, [0.0, 0.0])
            kept[0] += rows
            kept[1] += loss

    def _words(self) -> Breach | None:
        """Test the predictions once per block whose every row is known."""
        whole = list(self._blocks.values())[:-1]
        if self.worse is None or len(whole) <= self._tested:
            return None
        self._tested = len(whole)
        differences = np.array([loss / rows for rows, loss in whole])
        return self._breach("words", float(differences.mean()), 0.0) if self.worse(differences) else None

    def _judge(self) -> Breach | None:
        config = self.config
        if self._best - self._earned > config.drawdown_half_ticks:
            return self._breach("drawdown", self._best - self._earned, config.drawdown_half_ticks)
        if self.rows < config.least_rows:
            return None
        surely = self._worse.mean - config.log_loss_errors * self._worse.error()
        if surely > config.log_loss_worse and self._long_enough():
            return self._breach("log_loss", self._worse.mean, config.log_loss_worse)
        slow = self._p99_us()
        if slow > config.step_p99_us:
            return self._breach("latency", slow, config.step_p99_us)
        return self._words()

    def _long_enough(self) -> bool:
        return not self.trial.challenger or len(self._blocks) > self.config.least_blocks

    def _p99_us(self) -> float:
        times = np.concatenate([np.zeros(0, np.int64), *self._times])
        return float(np.percentile(times, 99)) / _NS_PER_US if len(times) else 0.0

    def _breach(self, guardrail: str, value: float, limit: float) -> Breach:
        return Breach(
            trial=self.trial.number,
            version=self.trial.version,
            against=self.trial.against,
            guardrail=guardrail,
            value=float(value),
            limit=float(limit),
            session=self.session,
            at_ns=self.last_ns,
        )


def refusal(trial: Trial, session: str) -> Breach:
    """The breach of a version on trial that failed verification, or cannot be compared: it is not served at all."""
    return Breach(
        trial=trial.number,
        version=trial.version,
        against=trial.against,
        guardrail="refused",
        value=1.0,
        limit=0.0,
        session=session,
        at_ns=0,
    )


def judge_of(
    config: GuardrailConfig,
    lineup: Lineup,
    session: str,
    *,
    labels: LabelConfig,
    block_ns: int = 0,
    worse: Worse | None = None,
) -> Judge | None:
    """The judge of a line-up's trial; None if no version is on trial. A challenger is evaluated only if there is a test
    of its predictions, ``worse``. ``labels``: the settings that both versions were trained on."""
    trial = trial_of(lineup)
    if trial is None or (trial.challenger and worse is None):
        return None
    return Judge(
        config=config,
        trial=trial,
        new_arm=lineup.versions.index(trial.version),
        session=session,
        labels=labels,
        block_ns=block_ns,
        worse=worse if trial.challenger else None,
    )


def breach_path(sessions: Path, instrument: str) -> Path:
    """Path of the file in which a session records an instrument's last breach."""
    return sessions / f"breach-{instrument}.json"


def write_breach(path: Path, breach: Breach) -> None:
    """Replace the file; readers see the old breach or the new one."""
    with replacing(path) as draft:
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(breach), indent=2))


def read_breach(path: Path) -> Breach | None:
    """The last breach; None if there never was one.

    Raises:
        ServiceError: the file is damaged.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Breach)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ServiceError(f"{path} is damaged ({error}); remove it, and look at the version on trial") from None
