"""Why was this quote made: from a quote back to the bytes it came from, and the proof that they give the same again.

quote -> prediction (probabilities, inputs by name) -> model version -> run -> dataset -> lake versions; and quote ->
event -> raw frames, with what the same frames give when features and prediction are computed anew.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from market import heads
from market.clock import BATCH_NS, NS_PER_S
from market.errors import InputError, LakeError
from market.events import F_CHECKPOINT
from market.features import catalog
from market.history import refused_ticks
from market.instruments import Instrument
from market.labels import HORIZON_NAMES
from market.lake.lake import Lake
from pipelines.features.featurize import CARD_FILE
from pipelines.monitoring import recompute
from pipelines.reports import trace_tree
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace
from serving import records
from training.registry.registry import Registry, model_name

WINDOW_NS = max(feature.window_ns for feature in catalog.FEATURES)

_KINDS = {1: "depth", 2: "trade", 3: "ticker", 10: "clear"}
_SIDES = {1: "bid", -1: "ask", 0: "-"}
_CARD_TAGS = ("author", "approved_by", "approval_reason", "decision", "code", "feature_set", "family", "precision")


@dataclass(frozen=True, kw_only=True)
class TraceConfig(StageConfig):
    """Which quote, and how many raw frames before the decisive one are shown in full."""

    quote_id: str
    frames: int = 5


@dataclass(frozen=True, kw_only=True)
class TraceResult:
    """The chain, each link a plain dictionary; ``None`` where there is nothing (no model spoke, no dataset here).

    ``reproduced``: features equal to the bit and probabilities within 1e-5 when computed anew from the lake.
    """

    quote_id: str
    quote: dict[str, Any]
    prediction: dict[str, Any]
    model: dict[str, Any] | None
    dataset: dict[str, Any] | None
    event: dict[str, Any]
    raw: dict[str, Any]
    recomputed: dict[str, Any]
    reproduced: bool
    outcomes: list[dict[str, Any]] = field(default_factory=list)

    def line(self) -> str:
        who = f"{self.model['name']} version {self.model['version']}" if self.model else "no model"
        proof = "reproduced from the lake" if self.reproduced else f"NOT reproduced: {self.recomputed['says']}"
        return (
            f"{self.quote_id}: decided on frame {self.event['frame']} of {self.quote['session']} by {who}, "
            f"dataset {self.dataset['dataset_id'] if self.dataset else '-'}, {self.raw['frames']:,} raw frames in its "
            f"windows; {proof}"
        )

    def text(self) -> str:
        """The whole chain as a tree of lines."""
        return trace_tree.tree(asdict(self))


def trace(config: TraceConfig, *, workspace: Workspace) -> TraceResult:
    """Walk the chain.

    Raises:
        InputError: no such quote; the sentence names near ones.
        LakeError: the quote is there, its prediction or its frame is not.
        ModelError, ServiceError: the version is not in the registry, or the registry is away.
    """
    lake = Lake(workspace.lake)
    quote = _quote_row(lake, config.quote_id)
    instrument = lake.instrument(f"{quote['venue']}.{quote['instrument']}")
    prediction = _one(lake, "predictions", {"prediction_id": quote["prediction_id"]}, instrument)
    model = _model(workspace, instrument, int(quote["version"]))
    found = recompute.again(workspace, lake, quote["session"], int(prediction["n"]))
    return TraceResult(
        quote_id=config.quote_id,
        quote=_quote(quote, instrument),
        prediction=_prediction(prediction, int(quote["arm"])),
        model=model,
        dataset=_dataset(workspace, model),
        event=_event(lake, instrument, quote["session"], prediction),
        raw=_raw(lake, instrument, quote["session"], prediction, config.frames),
        recomputed=found.as_dict(),
        reproduced=found.reproduced,
        outcomes=_outcomes(lake, instrument, config.quote_id),
    )


# -- the links ----------------------------------------------------------------------------------------------------


def _quote_row(lake: Lake, quote_id: str) -> dict[str, Any]:
    rows = lake.read("quotes", where={"quote_id": quote_id})
    if rows.num_rows:
        return dict(rows.to_pylist()[-1])
    raise InputError(f"no quote {quote_id!r} in the lake; {_near(lake, quote_id)}")


def _near(lake: Lake, quote_id: str) -> str:
    """What could have been meant: neighbours in the same session, else ids that look alike."""
    known = lake.read("quotes", columns=["session", "n", "quote_id"])
    if not known.num_rows:
        return "there is none yet: `keel serve` makes quotes"
    session, _, number = quote_id.removeprefix("q-").rpartition(".")
    same = [row for row in known.to_pylist() if row["session"] == session]
    if same and number.isdigit():
        near = sorted(same, key=lambda row: abs(row["n"] - int(number)))[:3]
        return f"the nearest of its session are {', '.join(sorted(row['quote_id'] for row in near))}"
    ids = [str(each) for each in known["quote_id"].to_pylist()]
    alike = difflib.get_close_matches(quote_id, ids[-2000:], n=3, cutoff=0.3) or ids[-3:]
    return f"for instance there are {', '.join(alike)}"


def _one(lake: Lake, table: str, where: dict[str, Any], instrument: Instrument) -> dict[str, Any]:
    rows = lake.read(table, instrument=instrument.key, where=where).to_pylist()
    if not rows:
        named = ", ".join(f"{name} {value}" for name, value in where.items())
        raise LakeError(f"the quote is in the lake, but {table} has no row with {named}; was a table removed?")
    return dict(rows[-1])


def _quote(row: dict[str, Any], instrument: Instrument) -> dict[str, Any]:
    said = {name: row[name] for name in ("session", "n", "version", "arm", "mid2", "recv_ns")}
    said |= {"instrument": instrument.key, "time": _time(row["recv_ns"])}
    for side in ("bid", "ask"):
        said[side] = (
            {
                "price": str(instrument.price_of(row[f"{side}_price"])),
                "size": str(instrument.size_of(row[f"{side}_size"])),
            }
            if row[f"{side}_size"]
            else None
        )
    return said | {"mid": str(instrument.price_of(row["mid2"]) / 2), "reasons": reasons(row["reasons"])}


def reasons(bits: int) -> list[str]:
    """Names of the reason bits that are set, as in :mod:`serving.records`."""
    names = {name: value for name, value in vars(records).items() if name.startswith("R_")}
    return [name.removeprefix("R_").lower() for name, value in names.items() if bits & value]


def _prediction(row: dict[str, Any], arm: int) -> dict[str, Any]:
    said = {name: row[name] for name in ("prediction_id", "n", "frame", "seq", "recv_ns", "exch_ns", "mid2", "step_ns")}
    probs = heads.by_horizon(np.array(row[f"probs{arm}"], dtype=float))
    said["feature_set"] = row["feature_set"]
    said["probabilities"] = {
        name: dict(zip(heads.OUTPUTS, map(_known, probs[k].tolist()), strict=True))
        for k, name in enumerate(HORIZON_NAMES)
    }
    said["features"] = dict(zip(catalog.names(), map(_known, row["features"]), strict=True))
    return said


def _known(value: float) -> float | None:
    """None for a number nobody knew: windows were filling, or the book was not usable."""
    return value if math.isfinite(value) else None


def _model(workspace: Workspace, instrument: Instrument, version: int) -> dict[str, Any] | None:
    if version == 0:
        return None
    found = Registry(workspace.tracking).version(model_name(instrument.key), version)
    said: dict[str, Any] = {name: found.tags.get(name, "") for name in _CARD_TAGS}
    said |= {"name": found.name, "version": found.version, "run_id": found.run_id, "aliases": list(found.aliases)}
    said |= {"created": _time(found.created_ns), "tags": found.tags}
    said |= {name: found.tags.get(name, "") for name in ("dataset_id", "dataset_revision", "manifest_sha256")}
    return said


def _dataset(workspace: Workspace, model: dict[str, Any] | None) -> dict[str, Any] | None:
    if model is None or not model["dataset_id"]:
        return None
    path = workspace.datasets / model["dataset_id"] / CARD_FILE
    if not path.exists():
        return {"dataset_id": model["dataset_id"], "path": "", "note": "not on this machine; dvc pull fetches it"}
    card = dict(msgspec.json.decode(path.read_bytes()))
    return card | {"path": str(path.parent), "from": _time(card["first_ns"]), "to": _time(card["last_ns"])}


def _event(lake: Lake, instrument: Instrument, session: str, prediction: dict[str, Any]) -> dict[str, Any]:
    frame = prediction["frame"]
    names = ["batch", "recv_ns", "exch_ns", "seq", "kind", "side", "price", "size", "flags"]
    rows = lake.read("ticks", instrument=instrument.key, columns=names, where={"source": session, "frame": frame})
    where = "ticks"
    if not rows.num_rows:
        rows, where = _refused_event(lake, instrument, session, prediction).select(names), "quarantine"
    own = rows.filter(pa.array(rows["flags"].to_numpy() & F_CHECKPOINT == 0))  # ours, at the start of a minute
    events = [
        {
            "kind": _KINDS.get(row["kind"], str(row["kind"])),
            "side": _SIDES[row["side"]],
            "price": str(instrument.price_of(row["price"])),
            "size": str(instrument.size_of(row["size"])),
            "seq": row["seq"],
            "flags": row["flags"],
        }
        for row in own.to_pylist()
    ]
    return {"frame": frame, "found_in": where, "batch": rows["batch"][0].as_py(), "events": events}


def _refused_event(lake: Lake, instrument: Instrument, session: str, prediction: dict[str, Any]) -> pa.Table:
    """The events of a frame whose minute was refused after it had been quoted on."""
    minute = prediction["recv_ns"] // BATCH_NS  # or the one after it, where the clock ran back over the boundary
    rows = pa.concat_tables([refused_ticks(lake, instrument.key, session, minute + later) for later in (0, 1)])
    rows = rows.filter(pa.array(rows["frame"].to_numpy() == prediction["frame"]))
    if not rows.num_rows:
        raise LakeError(
            f"frame {prediction['frame']} of {session} is neither in ticks nor in quarantine, though a quote was made "
            "on it; was a table removed?"
        )
    return rows


def _raw(lake: Lake, instrument: Instrument, session: str, prediction: dict[str, Any], shown: int) -> dict[str, Any]:
    """The decisive raw frame, and which frames lie in the longest window before it."""
    until, since = prediction["recv_ns"], prediction["recv_ns"] - WINDOW_NS
    rows = lake.read(
        "raw", instrument=instrument.key, start_ns=since, end_ns=until + NS_PER_S, where={"source": session}
    )
    rows = rows.filter(pa.array(rows["frame"].to_numpy() <= prediction["frame"]))
    if not rows.num_rows or rows["frame"][-1].as_py() != prediction["frame"]:
        raise LakeError(f"raw frame {prediction['frame']} of {session} is not in the lake; was a table removed?")
    tail = [
        {"frame": row["frame"], "recv_ns": row["recv_ns"], "payload": row["payload"].decode("utf-8", "replace")}
        for row in rows.slice(max(0, rows.num_rows - 1 - shown)).to_pylist()
    ]
    return {
        "source": session,
        "decisive": tail[-1],
        "before": tail[:-1],
        "frames": rows.num_rows,
        "first_frame": rows["frame"][0].as_py(),
        "window_s": WINDOW_NS / NS_PER_S,
    }


def _outcomes(lake: Lake, instrument: Instrument, quote_id: str) -> list[dict[str, Any]]:
    rows = lake.read("outcomes", instrument=instrument.key, where={"quote_id": quote_id}).to_pylist()
    return [
        {
            "order_id": row["order_id"],
            "side": "bought" if row["side"] > 0 else "sold",
            "price": str(instrument.price_of(row["price"])),
            "size": str(instrument.size_of(row["size"])),
            "time": _time(row["fill_ns"]),
            "mid2_fill": row["mid2_fill"],
            "mid2_100ms": row["mid2_100ms"],
            "mid2_1s": row["mid2_1s"],
        }
        for row in rows
    ]


def _time(ns: int) -> str:
    whole = datetime.fromtimestamp(ns // NS_PER_S, tz=UTC)
    return f"{whole:%Y-%m-%d %H:%M:%S}.{ns % NS_PER_S:09d}Z"
