"""Feast: what a model's inputs were at any past moment, and what the slow ones are now.

The definitions are ``feature_repo/``; data, registry and online store lie under ``workspace.feast``. The source of
truth is the lake: what Feast reads are small Parquet files exported from it, one an instrument,

* ``slow_features/``: every mark price record, preceded by one at the epoch that says 0 (nothing known yet). Without it
  Feast's local store silently drops rows that lie before an instrument's first record;
* ``tick_features/``: the last row of each second of the newest dataset or source. Training reads the full rate;
  this is what ``materialize`` takes the newest row from and what a person looks things up in.

A slow value counts from ``known_at``, its receive time. Feast orders the values it may show by ``event_timestamp``: the
exchange's time, held back to the receive time where the exchange's clock runs ahead, and never earlier than that of a
value that came before. So what it shows is what came last.
"""

from __future__ import annotations

import io
import os
import runpy
import sqlite3
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from market.clock import NS_PER_S
from market.errors import LakeError, MarketDataError, ServiceError, SettingsError
from market.features import catalog
from market.files import replacing
from pipelines.workspace import Workspace

Floats = NDArray[np.float32]
Int64s = NDArray[np.int64]

REPOSITORY = Path(__file__).resolve().parents[2] / "feature_repo"
# The embedded default, and what a stack or a cluster has: same definitions, another registry and online store.
EMBEDDED = REPOSITORY / "feature_store.yaml"
SHARED = REPOSITORY / "feature_store.stack.yaml"
HOME_VARIABLE = "KEEL_FEAST_HOME"
REGISTRY_VARIABLE = "KEEL_FEAST_REGISTRY"
ONLINE_VARIABLE = "KEEL_FEAST_ONLINE"

_SLOW_REFS = tuple(f"slow_features:{name}" for name in catalog.slow_names())
# Feast's local store joins by a cross product; this bounds it in memory (some 60 bytes a pair)
_PAIRS_AT_ONCE = 4_000_000


@dataclass(frozen=True, kw_only=True)
class SlowRecords:
    """Slow feature values of one instrument in the order they arrived.

    ``known_ns`` (n,) the receive times, ascending and different; ``exch_ns`` (n,); ``values`` (n, N_SLOW) float32.
    """

    known_ns: Int64s
    exch_ns: Int64s
    values: Floats

    def __len__(self) -> int:
        return len(self.known_ns)


class FeatureStore:
    """Feast on one workspace. Opening it costs seconds the first time in a process; keep it.

    Nothing is created before the first call that writes.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._home = workspace.feast
        self._shared = bool(workspace.feast_registry)
        self._variables = {HOME_VARIABLE: str(workspace.feast.absolute())}
        if self._shared:
            if not workspace.feast_online:
                raise SettingsError(f"{REGISTRY_VARIABLE} is set and {ONLINE_VARIABLE} is not; set both or neither")
            self._variables |= {REGISTRY_VARIABLE: workspace.feast_registry, ONLINE_VARIABLE: workspace.feast_online}
        self._opened: Any = None

    def publish(self, instrument: str, *, slow: SlowRecords, ticks: pa.Table) -> None:
        """Export, apply the definitions, materialize the newest values.

        ``ticks``: columns recv_ns and the tick features, in the order of time; thinned here.

        Raises:
            LakeError: the files cannot be written.
            ServiceError: registry or online store, where they are servers, are unavailable.
        """
        self._export("slow_features", instrument, _slow_table(instrument, slow))
        self._export("tick_features", instrument, _tick_table(instrument, ticks))
        store = self._apply()
        self._materialize(store, "slow_features", int(slow.known_ns[-1]) if len(slow) else 0)
        self._materialize(store, "tick_features", int(ticks["recv_ns"].to_numpy().max()))

    def join_slow(self, instrument: str, recv_ns: Int64s, known_ns: Int64s) -> Floats:
        """(n, N_SLOW): what was known of the slow features at each of ``recv_ns`` (n,), in any order.

        The entity frame holds one row a stretch of time in which nothing became known (``known_ns``: when something
        did, ascending): all rows of such a stretch see the same value, and Feast's local store pairs every entity row
        with every record. With records every second this takes seconds for an hour and does not do for days at a time;
        a store with an as-of join then takes its place in feature_store.yaml.

        Raises:
            MarketDataError: Feast gave back other rows than were asked for.
        """
        if not len(recv_ns):
            return np.zeros((0, catalog.N_SLOW), dtype=np.float32)
        stretch = np.searchsorted(known_ns, recv_ns, side="right")
        _, first, member = np.unique(stretch, return_index=True, return_inverse=True)
        joined = self.join_slow_at(instrument, recv_ns[first], records=len(known_ns) + 1)
        return joined[member.reshape(-1)]

    def join_slow_at(self, instrument: str, recv_ns: Int64s, *, records: int) -> Floats:
        """As :meth:`join_slow` with an entity row for each time; the times must be different."""
        order = np.argsort(recv_ns, kind="stable")
        step = max(1, _PAIRS_AT_ONCE // records)
        parts = [self._historical(instrument, recv_ns[order][i : i + step]) for i in range(0, len(order), step)]
        out = np.empty((len(recv_ns), catalog.N_SLOW), dtype=np.float32)
        out[order] = np.concatenate(parts)
        return out

    def read_slow(self, instrument: str) -> Floats:
        """(N_SLOW,): the newest slow features from the online store; 0 where nothing is known yet."""
        store = self._open_applied()
        with self._asked():
            answer = store.get_online_features(
                features=list(_SLOW_REFS), entity_rows=[{"instrument": instrument}]
            ).to_dict()
        values = [answer[name][0] for name in catalog.slow_names()]
        return np.array([0.0 if value is None else value for value in values], dtype=np.float32)

    def push_slow(self, instrument: str, *, known_ns: int, exch_ns: int, values: Floats) -> None:
        """Make ``values`` (N_SLOW,) the newest of the online store."""
        import pandas as pd
        from feast.data_source import PushMode

        store = self._open_applied()
        record = SlowRecords(
            known_ns=np.array([known_ns]), exch_ns=np.array([exch_ns]), values=values.reshape(1, catalog.N_SLOW)
        )
        frame = pd.DataFrame(_slow_table(instrument, record).slice(1).to_pandas())
        with self._asked():
            store.push("slow_push", frame, to=PushMode.ONLINE)

    # -- inside -------------------------------------------------------------------------------------------------

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Around every use of Feast: silent, and file errors are reported."""
        from redis.exceptions import RedisError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with _quietly():
                yield
        except (SQLAlchemyError, sqlite3.Error, RedisError, OSError) as error:
            said = " ".join(str(error).split())[:300]
            if self._shared:
                raise ServiceError(
                    f"Feast's registry or online store does not answer as it should: {said}. Are the servers of "
                    f"{REGISTRY_VARIABLE} and {ONLINE_VARIABLE} up?"
                ) from error
            raise LakeError(
                f"Feast cannot use its files under {self._home}: {said}. All of it is made from the lake: make room, "
                "or remove that folder, and run featurize again"
            ) from error

    def _open(self) -> Any:
        if self._opened is None:
            self._home.mkdir(parents=True, exist_ok=True)
            with _environment(self._variables), self._asked():
                settings = SHARED if self._shared else EMBEDDED
                self._opened = _feast().FeatureStore(repo_path=str(REPOSITORY), fs_yaml_file=settings)
        return self._opened

    def _open_applied(self) -> Any:
        if self._opened is not None:
            return self._opened
        return self._open() if self._is_applied() else self._apply()

    def _is_applied(self) -> bool:
        if not self._shared:
            return (self._home / "registry.db").exists()
        with self._asked():
            return bool(self._open().list_feature_views())

    def _apply(self) -> Any:
        store = self._open()
        with _environment(self._variables), self._asked():
            store.apply(_definitions())
        return store

    def _export(self, view: str, instrument: str, table: pa.Table) -> None:
        path = self._home / view / f"{instrument}.parquet"
        try:
            with replacing(path) as draft:
                pq.write_table(table, draft, compression="zstd")
        except OSError as error:
            raise LakeError(
                f"{path} cannot be written: {error.strerror or error}; make room there and run featurize again"
            ) from error

    def _materialize(self, store: Any, view: str, newest_ns: int) -> None:
        """Only the newest second: older values have no place in an online store."""
        newest = datetime.fromtimestamp(newest_ns // NS_PER_S, tz=UTC)
        with self._asked():
            store.materialize(newest - timedelta(seconds=1), newest + timedelta(seconds=1), feature_views=[view])

    def _historical(self, instrument: str, recv_ns: Int64s) -> Floats:
        """(n, N_SLOW) at different, ascending times (n,)."""
        import pandas as pd

        frame = pd.DataFrame({"instrument": instrument, "event_timestamp": pd.to_datetime(recv_ns, utc=True)})
        with self._asked():
            job = self._open_applied().get_historical_features(
                frame, features=list(_SLOW_REFS), filter_by_created_timestamp=True
            )
            answer = job.to_df().sort_values("event_timestamp")
        seen = answer["event_timestamp"].to_numpy(dtype="datetime64[ns]").astype(np.int64)
        if not np.array_equal(seen, recv_ns):
            raise MarketDataError(
                f"the point-in-time join of {instrument} gave {len(seen)} rows back for {len(recv_ns)} asked, or other "
                "times; no dataset was cut. Times asked for must be different, and the slow records must reach back "
                "before them"
            )
        values = np.asarray(answer[list(catalog.slow_names())].to_numpy(), dtype=np.float32)
        if not np.isfinite(values).all():
            raise MarketDataError(f"the point-in-time join of {instrument} left values open; run featurize again")
        return values


def read_slow(workspace: Workspace, instrument: str) -> Floats:
    """(N_SLOW,) float32: the newest slow features of ``instrument`` online. For many reads keep a FeatureStore."""
    return FeatureStore(workspace).read_slow(instrument)


def push_slow(workspace: Workspace, instrument: str, *, known_ns: int, exch_ns: int, values: Floats) -> None:
    """Make ``values`` (N_SLOW,) the newest online. For many pushes keep a FeatureStore."""
    FeatureStore(workspace).push_slow(instrument, known_ns=known_ns, exch_ns=exch_ns, values=values)


def _feast() -> Any:
    """The library, kept from setting the whole process up for metrics of forked servers, in a folder under /tmp.

    Its classes are decorated with typeguard's ``typechecked``, which parses and compiles a module once more for every
    method in it: three of the six seconds of its import. They are imported without.
    """
    if "feast" in sys.modules:
        return sys.modules["feast"]
    import prometheus_client  # noqa: F401  # first: it decides at its import that metrics stay in memory
    import typeguard

    checking = typeguard.typechecked
    variables = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: value or os.devnull for name, value in before.items()})
    # it has no setting for this; Feast's modules take it by name at their import
    typeguard.typechecked = lambda target: target  # type: ignore[assignment]
    try:
        import feast
    finally:
        typeguard.typechecked = checking
        for name, value in before.items():
            if value is None:
                del os.environ[name]
    return feast


def _definitions() -> list[Any]:
    """The Feast objects of ``feature_repo/definitions.py``, read again: its paths follow the environment."""
    from feast import Entity, FeatureView, FileSource, PushSource

    found = runpy.run_path(str(REPOSITORY / "definitions.py"))
    kinds = (Entity, FeatureView, FileSource, PushSource)
    return [value for value in found.values() if isinstance(value, kinds)]


def _slow_table(instrument: str, slow: SlowRecords) -> pa.Table:
    """Rows for Feast, after the one that says that nothing is known yet."""
    known = np.concatenate([[0], slow.known_ns]).astype(np.int64)
    event = np.concatenate([[0], np.minimum(slow.exch_ns, slow.known_ns)]).astype(np.int64)
    values = np.concatenate([np.zeros((1, catalog.N_SLOW), dtype=np.float32), slow.values])
    columns: dict[str, Any] = {
        "instrument": [instrument] * len(known),
        "event_timestamp": _timestamps(np.maximum.accumulate(event)),
        "known_at": _timestamps(known),
    }
    columns.update({name: values[:, i] for i, name in enumerate(catalog.slow_names())})
    return pa.table(columns)


def _tick_table(instrument: str, ticks: pa.Table) -> pa.Table:
    """The last row of each second."""
    recv_ns = ticks["recv_ns"].to_numpy()
    second = recv_ns // NS_PER_S
    last = np.flatnonzero(np.diff(second, append=second[-1:] + 1) != 0)
    thin = ticks.take(last)
    times = _timestamps(recv_ns[last])
    columns: dict[str, Any] = {"instrument": [instrument] * len(last), "event_timestamp": times, "known_at": times}
    columns.update({name: thin[name] for name in catalog.tick_names()})
    return pa.table(columns)


def _timestamps(ns: Int64s) -> Any:
    return pa.array(ns.astype("datetime64[ns]")).cast(pa.timestamp("ns", "UTC"))


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """The variables that Feast's YAML and definitions.py name, for as long as they are read."""
    os.environ.setdefault("FEAST_USAGE", "False")
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _quietly() -> Iterator[None]:
    """Feast prints its progress, and warns that Python's datetime has no nanoseconds though it compares ours right."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
