"""From the records of an A/B session to one figure a block: what the test of challenger against champion runs on.

Both arms speak about every row, one of them acts. So the quality of the words is compared on the *same* rows of a
block, and what the quotes earned is compared between the two blocks of a switchback pair (:mod:`serving.router`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from market.errors import EmptyDataError, InputError
from market.features import catalog
from market.labels import LabelConfig, labels
from market.lake import Lake
from pipelines.drift import Floats, Ints
from pipelines.signals import Real, direction_loss, matrix
from serving.outcomes import COLUMNS, UNKNOWN, BlockMetrics, Outcomes, Quoted, block_metrics, from_columns
from serving.router import ARMS

_COLUMNS = ("session", "n", "recv_ns", "mid2", "arm", "version0", "version1", "probs0", "probs1")
_TESTS = ("shadow", "switchback")  # phases of a session in which a challenger is compared with the champion
_PURE = 0.9  # a block counts when at least this share of its rows belongs to one arm; a switch takes some rows
_WHOLE = 0.5  # and when it lasted at least this share of its length


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one session in order. ``arm`` (n,) acted; ``champion``, ``challenger`` (n, P) what each said."""

    session: str
    recv_ns: Ints
    mid2: Ints
    arm: Ints
    champion: Real
    challenger: Real
    versions: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Words:
    """Mean log-loss of each arm in each block (b,), on the same rows."""

    block: Ints
    champion: Floats
    challenger: Floats


def read_rows(lake: Lake, instrument: str, sessions: Sequence[str], *, home: Path) -> list[Rows]:
    """The A/B rows of ``sessions``; of the newest A/B session when none is given. The first seconds of a session, while
    its windows were filling, are left out.

    Of a session that followed what was in service, those in which its last challenger was stepped, as a shadow or in
    turns: what was said beside a canary, or after it became champion, is no test of a challenger.

    Raises:
        EmptyDataError: no session with two arms.
        InputError: sessions that compared different versions.
    """
    chosen = tuple(sessions) or _newest(lake, instrument, home)
    found = [rows for session in chosen if (rows := _session(lake, instrument, session, home)) is not None]
    if not found:
        raise EmptyDataError(
            f"no rows of {instrument} with two arms in {', '.join(chosen) or 'any session'}; serve champion and "
            "challenger together first (keel serve --set arms=[champion,challenger])"
        )
    versions = {rows.versions for rows in found}
    if len(versions) > 1:
        raise InputError(f"expected sessions of one pair of versions, saw {sorted(versions)}; compare them one by one")
    return found


def block_seconds(home: Path, sessions: Sequence[Rows]) -> float:
    """The block length that the sessions were served with, from what serving wrote down.

    Raises:
        InputError: it is not known, or differs between the sessions.
    """
    cards = [_card(home, rows.session) for rows in sessions]
    found = {float(card["config"]["block_seconds"]) for card in cards if card}
    if len(found) != 1:
        named = ", ".join(rows.session for rows in sessions)
        seen = sorted(found) or "none"
        raise InputError(f"expected one length of blocks written down for {named}, saw {seen}; give block_seconds")
    return found.pop()


def words(rows: Rows, block_ns: int) -> Words:
    """Log-loss of both arms in each block that has known labels."""
    nothing = np.zeros(len(rows.recv_ns), dtype=np.int64)
    truth = labels(rows.recv_ns, rows.mid2, nothing, nothing, nothing, LabelConfig()).direction
    losses = [direction_loss(probs, truth) for probs in (rows.champion, rows.challenger)]
    known = np.isfinite(losses[0]) & np.isfinite(losses[1])
    block, index = np.unique(rows.recv_ns[known] // block_ns, return_inverse=True)
    count = np.maximum(np.bincount(index, minlength=len(block)), 1)
    means = [np.bincount(index, weights=loss[known], minlength=len(block)) / count for loss in losses]
    return Words(block=block, champion=means[0], challenger=means[1])


def pairs(lake: Lake, instrument: str, rows: Rows, block_ns: int) -> list[tuple[BlockMetrics, BlockMetrics]]:
    """Switchback pairs as (champion's block, challenger's block), in order of time; broken pairs are left out.

    Raises:
        InputError: arms change within blocks of this length: it is not the session's.
    """
    _require_blocks(rows, block_ns)
    time = np.maximum.accumulate(rows.recv_ns)
    filled, quoted = _outcomes(lake, instrument, rows.session)
    blocks = block_metrics(filled, time, rows.arm, block_ns=block_ns, quoted=quoted)
    whole = [b for b in blocks if b.seconds * 1e9 >= _WHOLE * block_ns]
    by_pair: dict[int, dict[int, BlockMetrics]] = {}
    for each in whole:
        by_pair.setdefault(each.block // ARMS, {})[each.arm] = each
    return [(both[0], both[1]) for _, both in sorted(by_pair.items()) if len(both) == ARMS]


def fills(lake: Lake, instrument: str, session: str) -> int:
    """How many fills a session had."""
    return lake.read("outcomes", instrument=instrument, columns=["side"], where={"session": session}).num_rows


def _newest(lake: Lake, instrument: str, home: Path) -> tuple[str, ...]:
    """The newest session that had a challenger."""
    rows = lake.read("predictions", instrument=instrument, columns=["session", "recv_ns", "version1"])
    two_armed = rows.filter(pa.array(rows["version1"].to_numpy() > 0))
    last = two_armed.group_by("session").aggregate([("recv_ns", "max")]).sort_by([("recv_ns_max", "descending")])
    for session in map(str, last["session"].to_pylist()):
        scenes = _scenes(home, session)
        if scenes is None or any(scene["phase"] in _TESTS for scene in scenes):
            return (session,)
    return ()


def _card(home: Path, session: str) -> dict[str, Any] | None:
    """What serving wrote down about a session."""
    path = home / "sessions" / f"{session}.json"
    return dict(orjson.loads(path.read_bytes())) if path.is_file() else None


def _scenes(home: Path, session: str) -> list[dict[str, Any]] | None:
    card = _card(home, session)
    return card.get("scenes") if card else None


def _tested(home: Path, session: str, number: Ints) -> NDArray[np.bool_]:
    """(n,) which decisions were made while the session's last challenger was stepped; all where nothing is known."""
    scenes = _scenes(home, session)
    if scenes is None:
        return np.ones(len(number), dtype=np.bool_)
    pairs = [tuple(scene["versions"]) if scene["phase"] in _TESTS else () for scene in scenes]
    last = next((pair for pair in reversed(pairs) if pair), None)
    of_scene = np.array([pair == last and last is not None for pair in pairs], dtype=np.bool_)
    begun = np.array([scene["from_n"] for scene in scenes], dtype=np.int64)
    at = np.searchsorted(begun, number, side="right") - 1
    return (at >= 0) & of_scene[np.maximum(at, 0)] if len(scenes) else np.zeros(len(number), dtype=np.bool_)


def _session(lake: Lake, instrument: str, session: str, home: Path) -> Rows | None:
    rows = lake.read("predictions", instrument=instrument, columns=_COLUMNS, where={"session": session})
    if not rows.num_rows:
        return None
    recv_ns = rows["recv_ns"].to_numpy().astype(np.int64)
    champion, challenger = matrix(rows["probs0"]), matrix(rows["probs1"])
    mid2, version1 = rows["mid2"].to_numpy().astype(np.int64), rows["version1"].to_numpy()
    spoken = np.isfinite(champion).all(axis=1) & np.isfinite(challenger).all(axis=1) & (mid2 > 0) & (version1 > 0)
    keep = spoken & (recv_ns >= recv_ns.min() + catalog.WARM_NS) & _tested(home, session, rows["n"].to_numpy())
    if not keep.any():
        return None
    last = int(np.flatnonzero(keep)[-1])
    return Rows(
        session=session,
        recv_ns=recv_ns[keep],
        mid2=mid2[keep],
        arm=rows["arm"].to_numpy().astype(np.int64)[keep],
        champion=champion[keep],
        challenger=challenger[keep],
        versions=(int(rows["version0"][last].as_py()), int(version1[last])),
    )


def _outcomes(lake: Lake, instrument: str, session: str) -> tuple[Outcomes, Quoted]:
    """Fills, each with the mid of the decision it came from, and the quotes of a session."""
    where = {"session": session}
    names = ["n", "recv_ns", "mid2", "bid_size", "ask_size"]
    quotes = lake.read("quotes", instrument=instrument, columns=names, where=where)
    n, recv_ns, mid2, bid, ask = (quotes[name].to_numpy().astype(np.int64) for name in names)
    rows = lake.read("outcomes", instrument=instrument, columns=[*COLUMNS, "quote_id"], where=where)
    number = np.array([int(quote_id.rpartition(".")[2]) for quote_id in rows["quote_id"].to_pylist()], np.int64)
    at = np.minimum(np.searchsorted(n, number), max(len(n) - 1, 0))
    known = n[at] == number if len(n) else np.zeros(len(number), np.bool_)
    decided = np.full(len(number), UNKNOWN, np.int64)
    decided[known] = mid2[at[known]]
    filled = from_columns({name: rows[name].to_pylist() for name in COLUMNS}, decided)
    return filled, Quoted(recv_ns=recv_ns, lots=bid + ask)


def _require_blocks(rows: Rows, block_ns: int) -> None:
    _, index = np.unique(rows.recv_ns // block_ns, return_inverse=True)
    share = np.bincount(index, weights=rows.arm) / np.bincount(index)
    mixed = np.minimum(share, 1 - share) > 1 - _PURE
    if mixed.mean() > 1 - _PURE:
        raise InputError(
            f"expected one acting arm in each block of {block_ns / 1e9:g} s, saw both in {int(mixed.sum())} of "
            f"{len(mixed)} blocks of {rows.session}; give the length that the session was served with "
            "(--set block_seconds=...)"
        )
