"""The loop of the hot path: events in, one DECISION out at the end of each batch, in one compiled body.

:meth:`HotPath.run` takes an array of events, :meth:`HotPath.drain` what lies in a shared-memory ring, and
:meth:`HotPath.spin` keeps at it until the writer of the ring stops; all three run the same :func:`_take`.

A decision is made at the end of every batch, from the first usable book on. While the book is not usable, the decision
is to quote nothing (R_NO_BOOK; ``mid2`` 0, features and probabilities NaN). The same holds while windows fill
(R_WARM_UP; features are written, probabilities are NaN).

Networks step on warm rows only, and start from zero at the first warm row after the windows restart, as in training. A
model that is deployed later starts from zero too.

An event that the book refuses, or events lost in a ring, leave a book that must not be quoted on. It is discarded, and
nothing is quoted until a CLEAR (a snapshot) comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from market.books.price_book import clear, new_book, top
from market.bus.atomics import let_others_run, monotonic_ns
from market.bus.protocol import Records
from market.bus.shm import LOST, ShmRing, ShmSubscriber, is_stopped, pop, push
from market.compiled import compiled
from market.errors import InputError, ModelError
from market.events import CLEAR, EVENT, Events, empty, joined
from market.features import catalog, kernels
from market.features.catalog import N_INPUTS, N_TICK
from market.features.kernels import MID2, NO_ROW, RESTARTS, ROW, WARM
from market.instruments import Instrument
from market.labels import N_OUTPUTS
from serving.bundle import Bundle
from serving.hotpath import network
from serving.hotpath.families.registry import step
from serving.hotpath.network import Model
from serving.quoting.policy import SAFE, PolicyConfig, decide, parameters
from serving.records import ARMS, DECISION, R_NO_BOOK, R_WARM_UP

Int64s = NDArray[np.int64]
Floats = NDArray[np.float32]
Float64s = NDArray[np.float64]

# words of the control array; the first two are set from outside at any time
_ARM: Final = 0
_INVENTORY: Final = 1
_DECIDED: Final = 2  # decisions so far: the number of the last one
_SEEN: Final = 3  # 1 once a book was usable
_BROKEN: Final = 4  # 1 until the next CLEAR
_REFUSED: Final = 5  # events that the book refused
_SEGMENT: Final = 6  # which start of the windows the networks' states belong to
_MODELS: Final = 7
_VERSION: Final = 8  # ARMS words
_CONTROL: Final = 8 + ARMS

_EVENT_SLOTS: Final = 1 << 15
_DECISION_SLOTS: Final = 1 << 14
_PIECE: Final = 1 << 12  # events put into the ring at a time: far from overrunning either ring
_PATIENCE: Final = 2000  # empty polls before others may run


class _Core(NamedTuple):
    """What is kept between events; arrays that compiled code advances in place."""

    book: Int64s
    state: Int64s
    control: Int64s
    slow: Floats
    row: Floats
    probs: Floats
    quote: Int64s


class _Arms(NamedTuple):
    """The two networks, of whichever families; with one model loaded, the second is never stepped."""

    layout: Int64s
    weights: Floats
    memory: Floats
    other_layout: Int64s
    other_weights: Floats
    other_memory: Floats


@compiled
def _fill(core: _Core, event: Any, out: Any) -> None:
    """Fill the fields that every decision has, with an empty quote."""
    control = core.control
    control[_DECIDED] += 1
    out.n = control[_DECIDED]
    out.frame, out.seq = event.frame, event.seq
    out.exch_ns, out.recv_ns = event.exch_ns, event.recv_ns
    out.mid2, out.bid_price, out.ask_price, out.bid_size, out.ask_size = 0, 0, 0, 0, 0
    out.arm = min(max(control[_ARM], 0), control[_MODELS] - 1)
    for arm in range(ARMS):
        out.version[arm] = control[_VERSION + arm]
        for i in range(N_OUTPUTS):
            out.probs[arm, i] = np.nan


@compiled
def _write_no_book(core: _Core, event: Any, out: Any) -> None:
    _fill(core, event, out)
    out.reasons = R_NO_BOOK
    for i in range(N_INPUTS):
        out.features[i] = np.nan


@compiled
def _forget(core: _Core) -> None:
    """Discard the book, which can no longer be trusted: start over with the next snapshot."""
    clear(core.book)
    kernels.reset(core.state)
    core.control[_BROKEN] = 1


@compiled
def _step_networks(core: _Core, arms: _Arms) -> None:
    control = core.control
    if control[_SEGMENT] != core.state[RESTARTS]:
        control[_SEGMENT] = core.state[RESTARTS]
        arms.memory[:] = 0.0
        arms.other_memory[:] = 0.0
    step(arms.layout, arms.weights, arms.memory, core.row, core.probs[0])
    if control[_MODELS] > 1:
        step(arms.other_layout, arms.other_weights, arms.other_memory, core.row, core.probs[1])


@compiled
def _write_row(core: _Core, arms: _Arms, policy: Float64s, event: Any, out: Any) -> None:
    """The decision on a usable book: features, both arms' predictions, the quote."""
    control, row = core.control, core.row
    for i in range(N_INPUTS - N_TICK):
        row[N_TICK + i] = core.slow[i]
    _fill(core, event, out)
    out.mid2 = core.state[MID2]
    for i in range(N_INPUTS):
        out.features[i] = row[i]
    if core.state[WARM] == 0:
        out.reasons = R_WARM_UP
        return
    _step_networks(core, arms)
    for arm in range(control[_MODELS]):
        for i in range(N_OUTPUTS):
            out.probs[arm, i] = core.probs[arm, i]
    quote = core.quote
    out.reasons = decide(core.probs[out.arm], top(core.book), control[_INVENTORY], policy, quote)
    out.bid_price, out.bid_size, out.ask_price, out.ask_size = quote[0], quote[1], quote[2], quote[3]


@compiled
def _take(core: _Core, arms: _Arms, policy: Float64s, event: Any, out: Any) -> bool:
    """Take one event; True when a decision was written to ``out``."""
    started = monotonic_ns()
    control = core.control
    if control[_BROKEN] == 1 and event.kind != CLEAR:
        return False
    control[_BROKEN] = 0
    code = kernels.step(core.book, core.state, event, core.row)
    if code == NO_ROW:
        return False
    if code == ROW:
        control[_SEEN] = 1
        _write_row(core, arms, policy, event, out)
    else:
        if code < 0:
            control[_REFUSED] += 1
            _forget(core)
        if control[_SEEN] == 0:
            return False
        _write_no_book(core, event, out)
    out.step_ns = monotonic_ns() - started
    return True


@compiled
def _run(core: _Core, arms: _Arms, policy: Float64s, events: Any, out: Any) -> int:
    """All of ``events``; ``out`` has room for a decision each and one more. Returns how many were written."""
    n = 0
    for i in range(len(events)):
        if _take(core, arms, policy, events[i], out[n]):
            n += 1
    return n


@compiled
def _drain(core: _Core, arms: _Arms, policy: Float64s, rings: tuple[int, int], desk: Any) -> int:
    """Everything in the first of ``rings`` now, decisions to the second."""
    cursor, event, event_at, out, out_at = desk
    n = 0
    while True:
        lost = cursor[LOST]
        if not pop(rings[0], cursor, event_at):
            return n
        written = False
        if cursor[LOST] != lost:
            _forget(core)
            written = core.control[_SEEN] == 1 and event[0].kind != CLEAR
            if written:
                _write_no_book(core, event[0], out[0])
                out[0].step_ns = 0
        if not written:
            written = _take(core, arms, policy, event[0], out[0])
        if written:
            push(rings[1], out_at)
            n += 1


@compiled
def _spin(core: _Core, arms: _Arms, policy: Float64s, rings: tuple[int, int], desk: Any) -> int:
    n, idle = 0, 0
    while True:
        stopped = is_stopped(rings[0])  # before the last look, so that nothing is left
        done = _drain(core, arms, policy, rings, desk)
        n += done
        if stopped:
            return n
        idle = 0 if done > 0 else idle + 1
        if idle > _PATIENCE:
            let_others_run()


class HotPath:
    """Book, features, one or two networks and the policy of one instrument.

    With ``name`` it owns two shared-memory rings, ``<name>-events`` and ``<name>-decisions``, through which :meth:`run`
    passes everything, so that other processes can attach and observe; close it then.

    Setters may be called from other threads while :meth:`drain` or :meth:`spin` runs; :meth:`line_up`,
    :meth:`replace_model` and :meth:`reset` between calls only. Inventory starts at 0, slow features at 0 (unknown), arm
    at 0, and the instrument is not in the safe state.

    Raises:
        InputError: not one or two models.
        ModelError: a model is of another instrument, or does not fit this code's inputs and outputs.
    """

    def __init__(
        self,
        models: Sequence[Model | Bundle],
        policy: PolicyConfig,
        instrument: Instrument,
        *,
        name: str | None = None,
    ) -> None:
        if not 1 <= len(models) <= ARMS:
            raise InputError(f"expected 1 to {ARMS} models, saw {len(models)}")
        self.instrument = instrument
        self._policy = parameters(policy)
        self._models = [self._fitting(model) for model in models]
        self._memories = [model.memory() for model in self._models]
        self._core = _Core(
            book=new_book(),
            state=kernels.new_state(),
            control=np.zeros(_CONTROL, np.int64),
            slow=np.zeros(N_INPUTS - N_TICK, np.float32),
            row=np.zeros(N_INPUTS, np.float32),
            probs=np.zeros((ARMS, N_OUTPUTS), np.float32),
            quote=np.zeros(4, np.int64),
        )
        self._set_versions()
        self._event = np.zeros(1, EVENT)
        self._decision = np.zeros(1, DECISION)
        self._readers: dict[Path, ShmSubscriber] = {}
        self._own: tuple[ShmRing, ShmRing, ShmSubscriber] | None = None
        if name is not None:
            self._open(name)

    def run(self, events: Events) -> Records:
        """Decisions (n,) of dtype DECISION on ``events`` (m,), which continue those of the last call."""
        if self._own is not None:
            pieces = [self._pass(events[i : i + _PIECE]) for i in range(0, len(events), _PIECE)]
            return joined(pieces, DECISION)
        out = np.empty(len(events) + 1, DECISION)
        n: int = _run(self._core, self._arms(), self._policy, np.ascontiguousarray(events, EVENT), out)
        return out[:n]

    def drain(self, ring_in: ShmRing, ring_out: ShmRing) -> int:
        """Decide on everything that is in ``ring_in`` (EVENT) now; returns how many decisions went to ``ring_out``.

        The first call begins with the oldest event that may still be there.
        """
        rings, desk = self._desk(ring_in, ring_out)
        return int(_drain(self._core, self._arms(), self._policy, rings, desk))

    def spin(self, ring_in: ShmRing, ring_out: ShmRing) -> int:
        """:meth:`drain` until the writer of ``ring_in`` has stopped and nothing is left. Runs without the GIL."""
        rings, desk = self._desk(ring_in, ring_out)
        return int(_spin(self._core, self._arms(), self._policy, rings, desk))

    def set_arm(self, arm: int) -> None:
        """Choose the arm whose predictions are acted on from the next decision on.

        Raises:
            InputError: no model is loaded there.
        """
        if not 0 <= arm < len(self._models):
            raise InputError(f"expected an arm below {len(self._models)}, saw {arm}; load a second model first")
        self._core.control[_ARM] = arm

    def set_slow(self, values: Sequence[float] | Floats) -> None:
        """Slow features (N_SLOW,) from the next decision on, clipped as the catalog says."""
        self._core.slow[:] = catalog.clip_slow([float(value) for value in values])

    def set_inventory(self, lots: int) -> None:
        """Signed inventory in lots from the next decision on."""
        self._core.control[_INVENTORY] = lots

    def set_safe(self, safe: bool) -> None:
        """Whether quotes are wider and smaller from the next decision on."""
        self._policy[SAFE] = float(safe)

    def line_up(self, models: Sequence[Model | Bundle]) -> None:
        """Serve these models from the next event on, the first in arm 0, which is active. Book and features continue.

        A version that is already loaded, in either arm, keeps its state; a new one starts from zero.

        Raises:
            InputError: not one or two models.
            ModelError: one does not fit; nothing is changed.
        """
        if not 1 <= len(models) <= ARMS:
            raise InputError(f"expected 1 to {ARMS} models, saw {len(models)}")
        there = {model.version: (model, memory) for model, memory in zip(self._models, self._memories, strict=True)}
        played = []
        for given in models:
            version = given.manifest.registry_version if isinstance(given, Bundle) else given.version
            if version not in there:
                fresh = self._fitting(given)
                there[version] = fresh, fresh.memory()
            played.append(there[version])
        self._models, self._memories = [model for model, _ in played], [memory for _, memory in played]
        self._core.control[_ARM] = 0
        self._set_versions()

    def replace_model(self, arm: int, model: Model | Bundle) -> None:
        """Put ``model`` into an arm that has one. Book and features continue; its state starts from zero.

        Raises:
            InputError: no model is loaded there.
            ModelError: it does not fit.
        """
        if not 0 <= arm < len(self._models):
            raise InputError(f"expected an arm below {len(self._models)}, saw {arm}")
        self._models[arm] = self._fitting(model)
        self._memories[arm] = self._models[arm].memory()
        self._set_versions()

    def reset(self) -> None:
        """Reset book, windows and states after a gap in the data. Numbering, arm, slow and inventory stay."""
        clear(self._core.book)
        kernels.reset(self._core.state)
        self._core.control[_BROKEN] = 0

    @property
    def versions(self) -> tuple[int, ...]:
        """Registry versions of the loaded models, by arm."""
        return tuple(model.version for model in self._models)

    @property
    def refused(self) -> int:
        """How many events the book refused; each made the hot path wait for the next snapshot."""
        return int(self._core.control[_REFUSED])

    @property
    def lost(self) -> int:
        """How many events were overwritten in a ring before they were taken."""
        return sum(reader.lost for reader in self._readers.values())

    def close(self) -> None:
        """Remove the rings of its own."""
        if self._own is not None:
            for ring in self._own[:2]:
                self._readers.pop(ring.path, None)
                ring.stop()
                ring.close()
            self._own = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside -------------------------------------------------------------------------------------------------

    def _fitting(self, given: Model | Bundle) -> Model:
        model = network.load(given.path) if isinstance(given, Bundle) else given
        if model.instrument != self.instrument.key:
            raise ModelError(f"version {model.version} is a model of {model.instrument}, not of {self.instrument.key}")
        if (model.inputs, model.outputs) != (N_INPUTS, N_OUTPUTS):
            raise ModelError(
                f"version {model.version} has {model.inputs} inputs and {model.outputs} outputs, this code has "
                f"{N_INPUTS} and {N_OUTPUTS}; retrain it with this code"
            )
        return model

    def _set_versions(self) -> None:
        control = self._core.control
        control[_MODELS] = len(self._models)
        control[_VERSION : _VERSION + ARMS] = 0
        control[_VERSION : _VERSION + len(self._models)] = self.versions

    def _arms(self) -> _Arms:
        one, other = self._models[0].packed, self._models[-1].packed
        return _Arms(one.layout, one.weights, self._memories[0], other.layout, other.weights, self._memories[-1])

    def _open(self, name: str) -> None:
        events = ShmRing.create(f"{name}-events", EVENT, _EVENT_SLOTS)
        try:
            decisions = ShmRing.create(f"{name}-decisions", DECISION, _DECISION_SLOTS)
        except BaseException:
            events.close()
            raise
        self._own = events, decisions, decisions.subscribe()
        self._pass(empty(0))  # what is not compiled yet is now, and not while an exchange waits to be read

    def _pass(self, events: Events) -> Records:
        """One piece through the rings of its own."""
        assert self._own is not None  # noqa: S101
        ring_in, ring_out, reader = self._own
        ring_in.publish(events)
        return reader.poll(self.drain(ring_in, ring_out))

    def _desk(self, ring_in: ShmRing, ring_out: ShmRing) -> tuple[tuple[int, int], Any]:
        """Addresses of the rings, and where the event and the decision in hand lie."""
        for ring, dtype in ((ring_in, EVENT), (ring_out, DECISION)):
            if ring.dtype != dtype:
                raise InputError(f"expected a ring of {dtype.names}, {ring.path.name} carries {ring.dtype.names}")
        reader = self._readers.get(ring_in.path)
        if reader is None or reader.ring is not ring_in:
            reader = self._readers[ring_in.path] = ring_in.subscribe(from_start=True)
        event, decision = self._event, self._decision
        desk = reader.cursor, event, int(event.ctypes.data), decision, int(decision.ctypes.data)
        return (ring_in.address, ring_out.address), desk
