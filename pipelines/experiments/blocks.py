"""Reduce the records of an A/B session to one figure per block, the input to the test of challenger against champion.

Both arms predict every row, one of them is active. So prediction quality is compared on the *same* rows of a
block, and what the quotes earned is compared between the two blocks of a switchback pair
(:mod:`serving.rollout.roles`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from market.errors import EmptyDataError, InputError
from market.features import catalog
from market.labels import LabelConfig, labels
from market.lake.lake import Lake
from pipelines.experiments.shadow import ShadowRows
from pipelines.monitoring.drift import Floats, Ints
from pipelines.monitoring.signals import Real, direction_loss, matrix
from pipelines.workspace import Workspace
from serving.manifest import require_comparable
from serving.outcomes import COLUMNS, UNKNOWN, BlockMetrics, Outcomes, Quoted, block_metrics, from_columns
from serving.quoting.policy import PolicyConfig
from serving.rollout.assignment import ARMS
from serving.session.card import SceneCard, read_card
from training.registry.registry import bundle_at, read_manifest

_COLUMNS = ("session", "n", "recv_ns", "mid2", "arm", "version0", "version1", "probs0", "probs1", "step_ns")
_TESTS = ("shadow", "switchback")  # phases of a session in which a challenger is compared with the champion
_PURE = 0.9  # a block counts when at least this share of its rows belongs to one arm; a switch takes some rows
_WHOLE = 0.5  # and when it lasted at least this share of its length


@dataclass(frozen=True, kw_only=True)
class Test:
    """Champion and challenger, and the name of their test (0: it has no name)."""

    versions: tuple[int, int]
    number: int = 0


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Champion and challenger, the settings of the labels that both learned, and how long a block lasts."""

    versions: tuple[int, int]
    labels: LabelConfig
    block_ns: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Rows of one session in order. ``arm`` (n,) was active; ``champion``, ``challenger`` (n, P) predictions; ``truth``
    (n, H) the realised directions. ``in_shadow`` (n,): the challenger's turn had not come yet. ``alone_ns``: steps
    with the champion alone; ``silent``: further rows on which only the champion had a prediction."""

    session: str
    recv_ns: Ints
    mid2: Ints
    arm: Ints
    champion: Real
    challenger: Real
    truth: NDArray[np.int8]
    in_shadow: NDArray[np.bool_]
    step_ns: Ints
    alone_ns: Ints
    silent: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Words:
    """Mean log-loss of each arm in each block (b,), on the same rows."""

    block: Ints
    champion: Floats
    challenger: Floats


def sessions_of(lake: Lake, instrument: str, sessions: Sequence[str], *, cards: Path) -> tuple[Test, tuple[str, ...]]:
    """A test and its sessions in order of time: of ``sessions``, or the newest test there is with all of its sessions.
    A long-running session is many, one after the other, and their blocks are one test's: looked at session by
    session, each would be another chance to be wrong.

    Raises:
        EmptyDataError: no session with two arms.
        InputError: sessions that compared different versions.
    """
    known = _two_armed(lake, instrument)
    order = {session: first for session, _, first, _ in sorted(known, key=lambda each: -each[2])}
    of = {session: _tests(cards, session, known) for session in order}
    if sessions:
        chosen = tuple(session for session in sessions if of.get(session))
        found = [of[session][-1] for session in chosen]
        if len({test.versions for test in found}) > 1:
            pairs = sorted({test.versions for test in found})
            raise InputError(f"expected sessions of one pair of versions, saw {pairs}; compare them one by one")
    else:
        newest = next((s for s, _, _, _ in sorted(known, key=lambda each: -each[3]) if of[s]), None)
        found = [of[newest][-1]] if newest else []
        chosen = tuple(session for session in sorted(order, key=order.__getitem__) if found and found[0] in of[session])
    if not found:
        raise EmptyDataError(
            f"no rows of {instrument} with two arms in {', '.join(sessions) or 'any session'}; serve champion and "
            "challenger together first (keel serve --set arms=[champion,challenger])"
        )
    return found[-1], chosen


def labels_of(workspace: Workspace, instrument: str, versions: tuple[int, int]) -> LabelConfig:
    """The label settings that both versions were trained on: outcomes are defined by these.

    Raises:
        ModelError: a version is not registered, or their settings differ, so that there is no one truth to compare by.
        ServiceError: the registry is away.
    """
    champion, challenger = (
        read_manifest(bundle_at(workspace.models, workspace.tracking, instrument, version)) for version in versions
    )
    require_comparable(champion, challenger)
    return champion.heads.labels()


def read_rows(lake: Lake, instrument: str, session: str, compared: Compared, *, cards: Path) -> Rows | None:
    """The rows of a session in which this pair was tested; None where there are none. The first seconds of a session,
    while its windows were filling, are left out.

    Of a session that followed what was in service, those of its last test, as a shadow or in turns: predictions
    alongside a canary, or after the challenger became champion, are no test of a challenger.
    """
    rows = lake.read("predictions", instrument=instrument, columns=_COLUMNS, where={"session": session})
    if not rows.num_rows:
        return None
    versions = compared.versions
    recv_ns, number, mid2, step_ns = (rows[n].to_numpy().astype(np.int64) for n in ("recv_ns", "n", "mid2", "step_ns"))
    pair = np.stack([rows["version0"].to_numpy(), rows["version1"].to_numpy()], axis=1)
    champion, challenger = matrix(rows["probs0"]), matrix(rows["probs1"])
    warm = (recv_ns >= recv_ns.min() + catalog.WARM_NS) & (mid2 > 0) & np.isfinite(champion).all(axis=1)
    tested, in_shadow = _tested(cards, session, number, recv_ns // compared.block_ns)
    tested &= warm & (pair == versions).all(axis=1)
    spoken = np.isfinite(challenger).all(axis=1)
    keep = tested & spoken
    if not keep.any():
        return None
    nothing = np.zeros(int(keep.sum()), dtype=np.int64)
    return Rows(
        session=session,
        recv_ns=recv_ns[keep],
        mid2=mid2[keep],
        arm=rows["arm"].to_numpy().astype(np.int64)[keep],
        champion=champion[keep],
        challenger=challenger[keep],
        truth=labels(recv_ns[keep], mid2[keep], nothing, nothing, nothing, compared.labels).direction,
        in_shadow=in_shadow[keep],
        step_ns=step_ns[keep],
        alone_ns=step_ns[warm & (pair[:, 0] == versions[0]) & (pair[:, 1] == 0)],
        silent=int((tested & ~spoken).sum()),
    )


def block_seconds(cards: Path, sessions: Sequence[str]) -> float:
    """The block length that the sessions were served with, from the record of serving.

    Raises:
        InputError: it is not known, or differs between the sessions.
    """
    written = [read_card(cards, session) for session in sessions]
    found = {card.block_seconds for card in written if card}
    if len(found) != 1:
        named = ", ".join(sessions)
        seen = sorted(found) or "none"
        raise InputError(f"expected one length of blocks written down for {named}, saw {seen}; give block_seconds")
    return found.pop()


def policy_of(cards: Path, session: str) -> PolicyConfig | None:
    """The quoting policy that a session was served with; None where it is not known."""
    card = read_card(cards, session)
    return card.policy if card else None


def words(rows: Rows, block_ns: int, *, only: NDArray[np.bool_] | None = None) -> Words:
    """Log-loss of both arms in each block that has known labels; of the rows that ``only`` (n,) selects."""
    losses = [direction_loss(probs, rows.truth) for probs in (rows.champion, rows.challenger)]
    known = np.isfinite(losses[0]) & np.isfinite(losses[1])
    known &= True if only is None else only
    block, index = np.unique(rows.recv_ns[known] // block_ns, return_inverse=True)
    count = np.maximum(np.bincount(index, minlength=len(block)), 1)
    means = [np.bincount(index, weights=loss[known], minlength=len(block)) / count for loss in losses]
    return Words(block=block, champion=means[0], challenger=means[1])


def in_shadow(rows: Rows) -> ShadowRows:
    """The rows of the challenger's shadow phase."""
    here = rows.in_shadow
    return ShadowRows(
        mid2=rows.mid2[here],
        champion=rows.champion[here],
        challenger=rows.challenger[here],
        truth=rows.truth[here],
        step_ns=rows.step_ns[here],
        alone_ns=rows.alone_ns,
        silent=rows.silent,
    )


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


def _two_armed(lake: Lake, instrument: str) -> list[tuple[str, tuple[int, int], int, int]]:
    """Sessions with a second arm: name, versions, first and last time; one a pair of versions."""
    rows = lake.read("predictions", instrument=instrument, columns=["session", "recv_ns", "version0", "version1"])
    both = rows.filter(pa.array(rows["version1"].to_numpy() > 0))
    keys = ["session", "version0", "version1"]
    found = both.group_by(keys).aggregate([("recv_ns", "min"), ("recv_ns", "max")]).to_pylist()
    return [
        (str(r["session"]), (int(r["version0"]), int(r["version1"])), int(r["recv_ns_min"]), int(r["recv_ns_max"]))
        for r in sorted(found, key=lambda r: int(r["recv_ns_max"]))
    ]


def _tests(cards: Path, session: str, known: Sequence[tuple[str, tuple[int, int], int, int]]) -> list[Test]:
    """What was tested in a session, in order of time; where nothing was recorded, every version served alongside."""
    card = read_card(cards, session)
    if card is None or card.scenes is None:
        return [Test(versions=versions) for name, versions, _, _ in known if name == session]
    return [test for scene in card.scenes if (test := _test(scene)) is not None]


def _test(scene: SceneCard) -> Test | None:
    if scene.phase not in _TESTS:
        return None
    champion, challenger = scene.versions
    return Test(versions=(champion, challenger), number=scene.test)


def _tested(cards: Path, session: str, number: Ints, block: Ints) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n,) which decisions were made while the session's last challenger was stepped, all where nothing is known; and
    in which of these it was a shadow."""
    card = read_card(cards, session)
    if card is None or card.scenes is None:
        return np.ones(len(number), dtype=np.bool_), np.zeros(len(number), dtype=np.bool_)
    scenes = card.scenes
    tests = [_test(scene) for scene in scenes]
    last = next((test for test in reversed(tests) if test is not None), None)
    if not scenes or last is None:
        return np.zeros(len(number), dtype=np.bool_), np.zeros(len(number), dtype=np.bool_)
    begun = np.array([scene.from_n for scene in scenes], dtype=np.int64)
    at = np.searchsorted(begun, number, side="right") - 1
    of_test = np.array([test == last for test in tests], dtype=np.bool_)
    always = np.iinfo(np.int64).max
    acts_from = [always if scene.phase == "shadow" else scene.acts_from for scene in scenes]
    tested = (at >= 0) & of_test[np.maximum(at, 0)]
    return tested, block < np.array(acts_from, dtype=np.int64)[np.maximum(at, 0)]


def _outcomes(lake: Lake, instrument: str, session: str) -> tuple[Outcomes, Quoted]:
    """Fills, each with the mid of the decision it came from, and the quotes of a session."""
    where = {"session": session}
    names = ["n", "recv_ns", "mid2", "bid_size", "ask_size"]
    quotes = lake.read("quotes", instrument=instrument, columns=names, where=where)
    n, recv_ns, mid2, bid, ask = (quotes[name].to_numpy().astype(np.int64) for name in names)
    rows = lake.read("outcomes", instrument=instrument, columns=[*COLUMNS, "quote_id"], where=where)
    number = np.array([int(str(quote_id).rpartition(".")[2]) for quote_id in rows["quote_id"].to_pylist()], np.int64)
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
