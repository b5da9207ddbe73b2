"""A trace as a person reads it: one tree of lines, from the quote at the top to the raw frames at the bottom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_PAYLOAD = 160  # characters of a raw frame on one line
_DECISIVE = 2000  # of the one that the quote was made on

Chain = Mapping[str, Any]  # a TraceResult as a dictionary
Node = tuple[str, list[Any]]  # a line and the nodes below it


def tree(found: Chain) -> str:
    """All links of the chain, indented."""
    lines = [_quote(found)]
    below = [
        _prediction(found),
        _model(found),
        _dataset(found),
        _event(found),
        _raw(found),
        _recomputed(found),
        _outcomes(found),
    ]
    lines += _drawn(below)
    return "\n".join(lines)


def _drawn(nodes: list[Node], indent: str = "") -> Iterator[str]:
    for i, (line, below) in enumerate(nodes):
        last = i == len(nodes) - 1
        yield f"{indent}{'└─ ' if last else '├─ '}{line}"
        yield from _drawn(below, indent + ("   " if last else "│  "))


def _leaves(*lines: str) -> list[Node]:
    return [(line, []) for line in lines]


def _quote(found: Chain) -> str:
    quote = found["quote"]
    sides = [
        f"{side} {quote[side]['size']} at {quote[side]['price']}" if quote[side] else f"no {side}"
        for side in ("bid", "ask")
    ]
    why = ", ".join(quote["reasons"]) or "no reason recorded"
    what = f"{', '.join(sides)}, mid {quote['mid']}"
    return f"quote {found['quote_id']}  {quote['instrument']}  {quote['time']}  {what}  ({why})"


def _prediction(found: Chain) -> Node:
    said = found["prediction"]
    probabilities = [
        f"{horizon:>5}: " + "  ".join(f"{head} {_number(value, '.3f')}" for head, value in heads.items())
        for horizon, heads in said["probabilities"].items()
    ]
    features = [f"{name} {_number(value, '.6g')}" for name, value in said["features"].items()]
    rows = ["  ".join(features[i : i + 6]) for i in range(0, len(features), 6)]
    return (
        f"prediction {said['prediction_id']}  feature set {said['feature_set']}",
        [("probabilities", _leaves(*probabilities)), ("inputs", _leaves(*rows))],
    )


def _model(found: Chain) -> Node:
    said = found["model"]
    if said is None:
        return "model: none spoke", []
    aliases = f"  now {', '.join(said['aliases'])}" if said["aliases"] else ""
    approval = (
        f"approved by {said['approved_by']}: {said['approval_reason']}" if said["approved_by"] else "not approved"
    )
    return (
        f"model {said['name']} version {said['version']}{aliases}",
        _leaves(
            f"run {said['run_id']}  trained by {said['author'] or 'unknown'}  {said['created']}",
            approval,
            f"manifest sha256 {said['manifest_sha256']}",
        ),
    )


def _dataset(found: Chain) -> Node:
    said = found["dataset"]
    if said is None:
        return "dataset: none recorded", []
    if "rows" not in said:
        return f"dataset {said['dataset_id']}: {said['note']}", []
    versions = ", ".join(f"{table} {version}" for table, version in said["lake_versions"].items())
    return (
        f"dataset {said['dataset_id']}  DVC revision {said['dataset_revision']}",
        _leaves(
            f"{said['rows']:,} rows in {said['segments']} segments  {said['from']} to {said['to']}",
            f"sources {', '.join(said['sources'])}",
            f"lake versions {versions}",
        ),
    )


def _event(found: Chain) -> Node:
    said = found["event"]
    events = [
        f"{e['kind']} {e['side']} {e['size']} at {e['price']}  seq {e['seq']}"
        + (f"  flags {e['flags']}" if e["flags"] else "")
        for e in said["events"]
    ]
    shown = events if len(events) <= 12 else [*events[:11], f"and {len(events) - 11} more"]
    return f"event of frame {said['frame']}, batch {said['batch']}, in {said['found_in']}", _leaves(*shown)


def _raw(found: Chain) -> Node:
    said = found["raw"]
    frames = [(frame, _PAYLOAD) for frame in said["before"]] + [(said["decisive"], _DECISIVE)]
    return (
        f"raw frames {said['first_frame']} to {said['decisive']['frame']} of {said['source']}: {said['frames']:,} in "
        f"the {said['window_s']:.0f} s that the features look back",
        _leaves(*(f"{frame['frame']}  {frame['recv_ns']}  {_cut(frame['payload'], room)}" for frame, room in frames)),
    )


def _recomputed(found: Chain) -> Node:
    said = found["recomputed"]
    verdict = "reproduced" if found["reproduced"] else "NOT reproduced"
    return f"computed anew from the lake: {verdict} ({said['says']}, {said['rows']:,} steps from the start)", []


def _outcomes(found: Chain) -> Node:
    fills = [
        f"{o['side']} {o['size']} at {o['price']}  {o['time']}  order {o['order_id']}  mid x2 then {o['mid2_fill']}, "
        f"100 ms later {o['mid2_100ms']}, 1 s later {o['mid2_1s']}"
        for o in found["outcomes"]
    ]
    return f"outcomes: {len(fills)} fill{'' if len(fills) == 1 else 's'}", _leaves(*fills)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _cut(payload: str, room: int) -> str:
    return payload if len(payload) <= room else f"{payload[:room]}… ({len(payload):,} characters)"
