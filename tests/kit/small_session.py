"""A serving session written by hand, through the real recorder: decisions as a hot path would have made them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from kit.small_lake import Market, events_of_market, land
from market import history
from market.clock import BATCH_NS
from market.events import BID
from market.features import meaning
from market.features.slow import last_known
from market.history import History, Stretch
from market.lake.lake import Lake
from market.lake.rows import rows_of
from pipelines.features.featurize import slow_records
from pipelines.features.store import SlowRecords
from pipelines.workspace import Workspace
from serving.hotpath import network
from serving.hotpath.loop import HotPath
from serving.quoting.engine import Fill
from serving.quoting.policy import PolicyConfig
from serving.records import DECISION, R_WARM_UP
from serving.session.recorder import Acted, Recorder

HIDDEN = 8


@dataclass(frozen=True, kw_only=True)
class Session:
    """What was written: ``decisions`` (n,) DECISION records, ``rows`` the history they were made on."""

    name: str
    market: Market
    rows: History
    decisions: np.ndarray


def serve_by_hand(
    workspace: Workspace,
    market: Market,
    *,
    bundle: Path | None = None,
    version: int = 0,
    verdicts: dict[int, str] | None = None,
) -> Session:
    """Land ``market`` under its source's name as session, decide on every row, quote on every 50th, fill one quote.

    With ``bundle`` the real hot path decides. Quoted are decisions 1, 51, 101, ...; the fill is of 401.
    """
    lake = Lake(workspace.lake)
    land(lake, market, verdicts=verdicts)
    events = events_of_market(market)
    _land_raw(lake, market, events)
    rows = history.replay([Stretch(events, events["recv_ns"] // BATCH_NS)])
    decisions = _decide(lake, market, rows, bundle, version)
    recorder = Recorder(
        lake=lake, instrument=market.instrument, session=market.source, feature_set=meaning.feature_set()
    )
    recorder.add_decisions(decisions)
    for i in range(0, len(decisions), 50):
        recorder.add_quote(decisions[i : i + 1])
    n = int(decisions["n"][400])
    fill = Fill(client_id="b-1", quote_n=n, side=BID, price=599_999, size=3, recv_ns=int(rows.recv_ns[410]))
    recorder.add_fill(fill, Acted(n=n, version=version, arm=0, block=0))
    recorder.flush(final=True)
    return Session(name=market.source, market=market, rows=rows, decisions=decisions)


def _land_raw(lake: Lake, market: Market, events: np.ndarray) -> None:
    frames, first = np.unique(events["frame"], return_index=True)
    payloads = [f'{{"stream":"made by hand","data":{{"u":{frame}}}}}'.encode() for frame in frames]
    columns = {"source": market.source, "frame": frames, "recv_ns": events["recv_ns"][first], "payload": payloads}
    lake.append("raw", rows_of("raw", market.instrument, columns))


def _decide(lake: Lake, market: Market, rows: History, bundle: Path | None, version: int) -> np.ndarray:
    slow = slow_records(lake, market.instrument.key)
    if bundle is not None:
        decisions = _live(events_of_market(market), slow, bundle, market)
        assert len(decisions) == len(rows)
        decisions["version"][:, 0] = version  # as registered; the bundle says 0
        return decisions
    out = np.zeros(len(rows), dtype=DECISION)
    out["n"] = np.arange(1, len(rows) + 1)
    for name in ("frame", "seq", "exch_ns", "recv_ns", "mid2"):
        out[name] = getattr(rows, name)
    known = last_known(slow.known_ns, slow.values, rows.recv_ns)
    out["features"] = np.concatenate([rows.features, known], axis=1)
    out["reasons"] = R_WARM_UP
    out["probs"] = np.nan
    return out


def _live(events: np.ndarray, slow: SlowRecords, bundle: Path, market: Market) -> np.ndarray:
    """The real hot path; slow values count from their receive times on."""
    hotpath = HotPath([network.load(bundle)], PolicyConfig(base_half_spread_ticks=2.0), market.instrument)
    known = np.searchsorted(slow.known_ns, events["recv_ns"][0], side="right") - 1
    if known >= 0:
        hotpath.set_slow(slow.values[known])
    later = np.searchsorted(events["recv_ns"], slow.known_ns[known + 1 :], side="left")
    edges = [0, *later.tolist(), len(events)]
    parts = []
    for i, (first, last) in enumerate(pairwise(edges)):
        if i:
            hotpath.set_slow(slow.values[known + i])
        parts.append(hotpath.run(events[first:last]))
    return np.concatenate(parts)
