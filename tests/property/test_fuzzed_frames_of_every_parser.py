"""Damaged frames and files for every parser: a bounded part of `python -m bench.fuzz`, and everything it has found.

The invariants are in bench/fuzz/oracle.py: a frame is read as written or rejected with a reason of its venue and no
event, any consumer can apply the output and write it into the lake, and only our own errors end a read.
"""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from kit.budget import examples
from kit.wire_frames import SPOT, USDM, bytes_of, depth, trade

from bench.fuzz import files, frames, seeds
from bench.fuzz.oracle import Judge
from market.clock import NS_PER_S
from market.errors import FrameError
from market.feeds.normalise import Normaliser
from market.feeds.recordings import opened
from market.instruments import find
from market.venues import b3, binance, cryptofeed_binance, deribit, registry, sgx
from market.venues.dbn import Parser as DbnParser
from market.venues.formats.json_frames import ns_of_iso, ns_of_ms, ns_of_seconds, ns_of_us
from market.venues.formats.lines import read_line
from market.venues.protocol import NO_STAMP

SEEDS = seeds.hand_made()
POOL = [frame for each in SEEDS for frame in each.frames]
FILES = [each for each in files.good(SEEDS) if len(each.data) < 20_000]


def test_every_parser_has_good_frames_and_accepts_them():
    assert {each.venue.name for each in SEEDS} == {venue.name for venue in registry.VENUES}
    for each in SEEDS:
        judge = Judge(each)
        refused = {judge.feed(frame) for frame in each.frames} - {"events", "nothing", "unknown_order"}
        judge.landed()
        assert not refused, each.name


@pytest.mark.parametrize("good", SEEDS, ids=lambda each: each.name)
@seed(20)
@settings(max_examples=examples(6), deadline=None)
@given(case=st.integers(0, 2**40))
def test_a_session_with_damaged_frames_keeps_every_invariant(good, case):
    frames.run(good, 8 * case, "hypothesis", POOL, lambda _i: None)


@pytest.mark.parametrize("good", SEEDS, ids=lambda each: each.name)
@seed(20)
@settings(max_examples=examples(30), deadline=None)
@given(payload=st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_random_bytes_keep_every_invariant(good, payload):
    judge = Judge(good)
    for frame in (*good.frames[:3], payload, *good.frames[3:]):
        judge.feed(frame)


@pytest.mark.parametrize("file", FILES, ids=lambda each: each.name)
@seed(20)
@settings(max_examples=examples(10), deadline=None)
@given(case=st.integers(0, 2**40))
def test_a_damaged_file_is_read_up_to_the_damage_or_rejected_with_a_sentence(file, case, tmp_path_factory):
    files.run(file, case, "hypothesis", tmp_path_factory.mktemp("damaged"))


def test_the_same_seed_causes_the_same_damage():
    told = [frames.session(SEEDS[0], Random("3/a/1"), POOL) for _ in range(2)]
    assert told[0] == told[1]


# -- what the campaigns found ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [ns_of_ms, ns_of_us, ns_of_seconds, ns_of_iso], ids=lambda each: each.__name__)
def test_a_time_whose_ns_do_not_fit_64_bits_is_rejected(of):
    """Years 2262 to 2286 passed, and ended ingest when the event was packed."""
    late = {"ns_of_ms": "9500000000000", "ns_of_us": "9500000000000000", "ns_of_seconds": "9500000000.5"}
    with pytest.raises(FrameError) as refused:
        of(late.get(of.__name__, "2270-01-01T00:00:00Z"))
    assert refused.value.reason == "bad_time"


def test_the_second_that_overflows_63_bits_is_rejected_and_the_one_before_is_not():
    assert ns_of_seconds("9223372035.999999999") < 2**63
    with pytest.raises(FrameError):
        ns_of_seconds("9223372036.854775808")


@pytest.mark.parametrize(
    ("received", "row"),
    [
        (deribit.received, "{}-12-30T17:31:15.944181+00:00,BTC"),
        (sgx.received, "TimeStamp,{}-12-30D17:31:15.944181000"),
        (b3.received, "PETR4,1,{}-12-30 17:31:15.944181+00:00" + 6 * ","),
    ],
    ids=["deribit", "sgx", "b3"],
)
def test_a_row_received_after_2262_is_rejected(received, row):
    """Landing could not pack it, nor the minute around it."""
    assert received(row.format(2025).encode()) % NS_PER_S == 944_181_000
    with pytest.raises(FrameError) as refused:
        received(row.format(9999).encode())
    assert refused.value.reason == "bad_time"


def test_an_option_that_expires_after_2262_is_rejected():
    (good,) = (each for each in SEEDS if each.name == "deribit-options/BTC")
    payload = good.frames[0].replace(b"2026-01-16T", b"2976-01-16T")
    assert payload != good.frames[0]
    with pytest.raises(FrameError) as refused:
        deribit.Parser(good.instrument).parse(payload, seeds.AT_NS, 1)
    assert refused.value.reason == "bad_time"


@pytest.mark.parametrize("at", [9_500_000_000_000, 9_500_000_000_000_000])
def test_binance_times_must_fit_too(at):
    with pytest.raises(FrameError) as refused:
        binance.Parser(USDM).parse(bytes_of(trade(3, "60000.1", "2", at_ms=at)), seeds.AT_NS, 1)
    assert refused.value.reason == "out_of_range"


def test_a_line_with_a_receive_time_beyond_2262_has_none():
    assert read_line(b"9223372036854775807 x") == (2**63 - 1, b"x")
    with pytest.raises(FrameError, match="expected `<time> <json>`"):
        read_line(b"9223372036854775808 x")


@pytest.mark.parametrize("deep", [b"[" * 1_500, b'{"a":' * 1_500])
def test_a_value_that_is_nested_too_deep_has_the_wrong_type(deep):
    """Building the error about the wrong form read the same frame again, and failed again."""
    closing = (b"]" if deep[:1] == b"[" else b"}") * 1_500
    payload = bytes_of(depth(5, 9, on=SPOT)).replace(b'"BTCUSDT"', deep + b"1" + closing)
    with pytest.raises(FrameError) as refused:
        binance.Parser(SPOT).parse(payload, seeds.AT_NS, 1)
    assert refused.value.reason in ("wrong_type", "not_json")


def test_a_trade_of_size_zero_is_rejected():
    with pytest.raises(FrameError) as refused:
        binance.Parser(USDM).parse(bytes_of(trade(3, "60000.1", "0.000")), seeds.AT_NS, 1)
    assert refused.value.reason == "zero_size"


def test_a_symbol_that_is_not_text_has_no_route():
    payload = bytes_of(trade(3, "60000.1", "2", on=SPOT)).replace(b"BTCUSDT", b"BTC\xff\xff")
    assert cryptofeed_binance.route()(payload) is None


def test_a_dbn_record_that_is_too_short_for_its_kind_is_rejected():
    """The library panics: an exception that is not an Exception, which ended the process."""
    [record] = [frame for frame in seeds._dbn() if frame[1] == 0 and len(frame) == 48]
    with pytest.raises(FrameError) as refused:
        DbnParser(find("cme.ESH4")).parse(bytes([4]) + record[1:16], seeds.AT_NS, 1)
    assert refused.value.reason == "not_dbn"


def test_a_dbn_record_with_a_time_beyond_63_bits_is_rejected_and_has_no_receive_time(tmp_path):
    late = (2**63).to_bytes(8, "little")
    order = seeds._dbn()[0]
    with pytest.raises(FrameError) as refused:
        DbnParser(find("cme.ESH4")).parse(order[:8] + late + order[16:], seeds.AT_NS, 1)
    assert refused.value.reason == "bad_time"
    data = next(each.data for each in FILES if each.name == "esh4.dbn")
    at = data.index(order) + order.rindex(seeds.AT_NS.to_bytes(8, "little"))
    path = tmp_path / "esh4.dbn"
    path.write_bytes(data[:at] + late + data[at + 8 :])
    with opened([path]) as [recording]:
        stamps = [frame[1] for frame in recording.venue.frames(recording.path)]
    assert (stamps[0], stamps[1]) == (NO_STAMP, seeds.AT_NS)


def test_a_dbn_trade_with_another_action_is_rejected():
    [record] = [frame for frame in seeds._dbn() if frame[1] == 0 and len(frame) == 48]
    with pytest.raises(FrameError) as refused:
        DbnParser(find("cme.ESH4")).parse(record.replace(b"T", b"A"), seeds.AT_NS, 1)
    assert refused.value.reason == "unknown_frame"


@pytest.mark.parametrize(("at", "value"), [(4, 121), (6, 1)], ids=["version", "encrypted"])
def test_a_zip_that_the_library_cannot_read_gives_a_sentence(tmp_path, at, value):
    data = bytearray(next(each.data for each in FILES if each.name.endswith(".zip")))
    data[at] = data[data.index(b"PK\x01\x02") + at + 2] = value
    path = tmp_path / "quotes.zip"
    path.write_bytes(data)
    assert files.read(path) == {"CaptureError": 1}


@pytest.mark.parametrize(("name", "number"), [("ibm_20131007_quote.zip", 3275), ("trades.parquet", 5255)])
def test_files_that_a_campaign_could_not_read_give_a_sentence(tmp_path, name, number):
    """A member that ends too early, a column name that is not text."""
    file = next(each for each in FILES if each.name == name)
    assert files.run(file, number, "7", tmp_path)[0] == {"CaptureError": 1}


def test_damaged_zstd_in_a_dbn_file_gives_a_sentence(tmp_path):
    data = bytearray(next(each.data for each in FILES if each.name == "esh4.dbn.zst"))
    data[len(data) // 2] ^= 255
    path = tmp_path / "esh4.dbn.zst"
    path.write_bytes(data)
    assert set(files.read(path)) & {"CaptureError", "then CaptureError"}


def test_the_feed_survives_what_its_parser_survives():
    normaliser = Normaliser(USDM, "s")
    assert len(normaliser.feed(1, seeds.AT_NS, json.dumps({"e": "trade", "E": 9.5e12}).encode())) == 0
    assert sum(normaliser.stats.rejected.values()) == 1
