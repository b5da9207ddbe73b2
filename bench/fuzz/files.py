"""Damaged recordings: containers (gzip, bzip2, xz, zip, tar, zstd), tables and text, read as ingest reads them."""

from __future__ import annotations

import bz2
import datetime
import gzip
import io
import lzma
import tarfile
import zipfile
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.fuzz import mutate
from bench.fuzz.seeds import AT_NS, CAPTURES, Seed
from market.errors import KeelError, MarketDataError
from market.feeds import recordings
from market.feeds.increments import infer
from market.feeds.normalise import Normaliser
from market.instruments import find, is_known
from market.venues.formats import parquet
from market.venues.protocol import NO_STAMP, SESSION

_READ = 400  # frames of a recording
_PIECE = 150_000  # bytes of a large capture: it is then cut short to begin with
_CUT = (".gz", ".bz2", ".xz", ".zst")  # whose beginning can be read


@dataclass(frozen=True, kw_only=True)
class File:
    """A recording on disk."""

    name: str
    data: bytes


def good(seeds: list[Seed]) -> list[File]:
    """Hand-made recordings in every container, of the frames of ``seeds``; and the beginnings of captures."""
    frames = {seed.venue.name: seed.frames for seed in seeds}
    binance = b"".join(b"%d %s\n" % (AT_NS + n, frame) for n, frame in enumerate(frames["binance"]))
    lobster = b"\n".join(frame.partition(b"\n")[0] for frame in frames["lobster"][:-1]) + b"\n"
    b3 = b"symbol,rpt_seq,network_received_time,event_type,md_entry_px,md_entry_size,aggressor,en_s_px_1,en_b_px_1\n"
    okx = b"wss://ws.okx.com:8443/ws/v5/public <-> 1652459224.5\n"
    okx += b"".join(b"1652459225.%03d: %s\n" % (n, frame) for n, frame in enumerate(frames["okx"]))
    stem = "MSFT_2012-06-21_34200000_37800000_message_50.csv"
    made = {
        "binance.txt": binance,
        "binance.gz": gzip.compress(binance, mtime=0),
        "two_members.gz": gzip.compress(binance[:400], mtime=0) + gzip.compress(binance[400:], mtime=0),
        "binance.bz2": bz2.compress(binance),
        stem: lobster,
        f"{stem}.xz": lzma.compress(lobster),
        "days.csv": b3 + b"\n".join(frames["b3"]) + b"\n",
        "hour.tar": _tar({
            "l2update_15min_1.csv": b"side,price,size,time\n" + b"\n".join(frames["gdax"][1:]) + b"\n",
            "snapshot_asks.csv": b"side,price,size\nsell,101.0,1\n",
            "snapshot_bids.csv": b"side,price,size\nbuy,99.0,1\n",
        }),
        "venues.tar.xz": lzma.compress(_tar({"OKX.ws.1.0": okx, "OKX.0": okx[:60]})),
        "ibm_20131007_quote.zip": _zip({"ibm_20131007_quote.csv": b"\n".join(frames["nbbo"]) + b"\n"}),
        "levels.parquet": _parquet(frames["binance-levels"][0]),
        "trades.parquet": _parquet(frames["binance-levels"][2]),
        "quotes.parquet": _parquet(frames["cme-levels"][0], transact_time=True),
        "matrix.txt": "\n".join(" ".join(row) for row in zip(*_columns(frames["fi2010"]), strict=True)).encode(),
        "esh4.dbn": _dbn(frames["dbn"]),
        "esh4.dbn.zst": pa.compress(_dbn(frames["dbn"]), codec="zstd", asbytes=True),
    }  # fmt: skip
    return [File(name=name, data=data) for name, data in made.items()] + _pieces()


def _pieces() -> list[File]:
    if not CAPTURES.is_dir():
        return []
    paths = sorted(each for each in CAPTURES.rglob("*") if each.is_file() and each.suffix not in (".json", ".md"))
    whole = [path for path in paths if path.stat().st_size <= _PIECE or path.suffix in _CUT]
    return [File(name=path.name, data=path.read_bytes()[:_PIECE]) for path in whole if ".tar" not in path.suffixes]


def _columns(frames: tuple[bytes, ...]) -> list[list[str]]:
    return [frame.decode().split(" ") for frame in frames]


def _tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def _zip(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return packed.getvalue()


def _parquet(payload: bytes, *, transact_time: bool = False) -> bytes:
    rows: list[dict[str, Any]] = [parquet.row_of(payload)] * 3
    table = pa.Table.from_pylist(rows)
    if transact_time:
        at = table.schema.get_field_index("transact_time")
        table = table.set_column(at, "transact_time", pc.cast(table["transact_time"], pa.timestamp("ns")))
    packed = io.BytesIO()
    pq.write_table(table, packed)
    return packed.getvalue()


def _dbn(records: tuple[bytes, ...]) -> bytes:
    import databento_dbn as dbn

    metadata = dbn.Metadata(
        dataset="GLBX.MDP3", start=AT_NS, stype_out=dbn.SType.INSTRUMENT_ID, stype_in=dbn.SType.RAW_SYMBOL,
        schema=dbn.Schema.MBO, symbols=["ESH4"], partial=[], not_found=[], mappings=[_mapping()],
    )  # fmt: skip
    return bytes(metadata.encode()) + b"".join(records[:-2])


def _mapping() -> Any:
    day = datetime.date(2023, 11, 14)
    interval = SimpleNamespace(start_date=day, end_date=day + datetime.timedelta(days=1), symbol="7")
    return SimpleNamespace(raw_symbol="ESH4", intervals=[interval])


def damaged(file: File, rng: Random) -> bytes:
    """The bytes after one to three changes; half of them cut short, lost or damaged in a single place."""
    data = bytearray(file.data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        what = rng.choice((
            mutate.flip, mutate.flip, mutate.replace, mutate.remove, mutate.double, mutate.cut, mutate.insert,
            mutate.integer, mutate.integer, mutate.number, mutate.word,
        ))  # fmt: skip
        if what in (mutate.number, mutate.word) and len(data) > 20_000:
            what = mutate.flip
        what(data, rng, ())
    return bytes(data)


def read(path: Path) -> Counter[str]:
    """Everything that ingest does with a recording, except writing it.

    Only errors of our own may end it, and each is a sentence. Returns the outcome as one word.
    """
    said: Counter[str] = Counter()
    try:
        with recordings.opened([path]) as found:
            for recording in found:
                said.update(_recording(recording))
    except KeelError as error:
        if not str(error):
            raise AssertionError("an error without a sentence") from error
        said[type(error).__name__] += 1
    return said


def _recording(recording: recordings.Recording) -> Counter[str]:
    said: Counter[str] = Counter()
    venue = recording.venue
    recording.source()
    symbol_of = venue.route() if venue.route else lambda _payload: recording.key.partition(".")[2]
    kept: dict[str, list[tuple[int, int, bytes]]] = {}
    try:
        for frame in islice(venue.frames(recording.path), _READ):
            kept.setdefault(symbol_of(frame[2]) or SESSION, []).append(frame)
    except KeelError as error:
        said[f"then {type(error).__name__}"] += 1
    name = recording.key.partition(".")[0]
    for symbol, frames in kept.items():
        key = f"{name}.{symbol}"
        timed = [frame for frame in frames if frame[1] != NO_STAMP]
        try:
            instrument = find(key) if is_known(key) else infer(venue, key, timed)
        except MarketDataError:
            said["too many decimals"] += 1
            continue
        if instrument is None:
            continue
        normaliser = Normaliser(instrument, "fuzz", venue=venue)
        events = sum(len(normaliser.feed(*frame)) for frame in timed)
        said["read" if events else "read, no events"] += 1
    return said


def run(file: File, number: int, chance: str, folder: Path) -> tuple[Counter[str], bytes]:
    """Damage a recording and read it; returns its bytes and the outcome."""
    data = damaged(file, Random(f"{chance}/{file.name}/{number}"))  # noqa: S311
    path = folder / file.name
    path.write_bytes(data)
    return read(path), data
