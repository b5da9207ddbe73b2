"""Lines, whole files, damaged files, and the recognition of the venue."""

from __future__ import annotations

import gzip
import os

import pytest
from kit.wire_frames import (
    COINM,
    SPOT,
    START_NS,
    USDM,
    ToyExchange,
    bytes_of,
    depth,
    mark_price,
    stamped,
    ticker,
    trade,
    write_lines,
)

from market.errors import CaptureError, EmptyDataError, FrameError, InputError
from market.sources import source_of
from market.venues.formats.line_files import NO_STAMP, frames, recognise, recognise_key
from market.venues.formats.lines import read_line


def test_times_are_nanoseconds_with_19_digits_and_microseconds_with_16():
    assert read_line(b"1723161255030314667 {}") == (1723161255030314667, b"{}")
    assert read_line(b"1680652800005184 {}") == (1680652800005184000, b"{}")


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"123 {}", b"-723161255030314667 {}", b"17231612550303146x7 {}", b" 1723161255030314667 {}"]
)
def test_a_line_without_a_readable_time_is_marked(line):
    with pytest.raises(FrameError) as error:
        read_line(line)
    assert error.value.reason == "clock_unreadable"


@pytest.mark.parametrize("name", ["a.gz", "a.dat"])
def test_plain_and_gzip_recordings_give_the_same_frames(tmp_path, name):
    lines = list(stamped(ToyExchange().session(seconds=3)))
    read = list(frames(write_lines(tmp_path / name, lines)))
    assert [number for number, _, _ in read] == list(range(1, len(lines) + 1))
    assert [b"%d %s" % (recv_ns, payload) for _, recv_ns, payload in read] == lines


def test_blank_lines_and_carriage_returns_are_not_frames(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"\n1723161255030314667 {}\r\n\r\n1723161255030314668 []")
    assert list(frames(path)) == [(1, 1723161255030314667, b"{}"), (2, 1723161255030314668, b"[]")]


def test_a_line_without_a_time_is_a_frame_without_a_time(tmp_path):
    path = write_lines(tmp_path / "a.gz", [b"what is this", b"1723161255030314668 {}"])
    assert list(frames(path)) == [(1, NO_STAMP, b"what is this"), (2, 1723161255030314668, b"{}")]


def test_gzip_members_one_after_the_other_are_one_recording(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"1723161255030314667 1\n17231612") + gzip.compress(b"55030314668 2\n") + b"\0" * 8)
    assert [payload for _, _, payload in frames(path)] == [b"1", b"2"]


def until_error(path, match):
    """The frames before the error that must come."""
    read: list[tuple[int, int, bytes]] = []
    with pytest.raises(CaptureError, match=match):
        read.extend(frames(path))
    return read


@pytest.mark.parametrize("share", [0.3, 0.7, 0.999])
def test_a_truncated_recording_gives_what_it_has_and_then_an_error(tmp_path, share):
    lines = [b"%d %s" % (START_NS + i, os.urandom(40).hex().encode()) for i in range(5000)]
    path = write_lines(tmp_path / "a.gz", lines)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    read = until_error(path, r"a\.gz: truncated.*\d+ frames before that")
    assert [b"%d %s" % (recv_ns, payload) for _, recv_ns, payload in read] == lines[: len(read)]
    assert len(read) > share * len(lines) * 0.9


def test_a_damaged_recording_gives_what_is_before_the_damage(tmp_path):
    lines = [b"%d %s" % (START_NS + i, os.urandom(40).hex().encode()) for i in range(5000)]
    path = write_lines(tmp_path / "a.gz", lines)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    path.write_bytes(data)
    read = until_error(path, "damaged|truncated")[:2000]
    assert [b"%d %s" % (recv_ns, payload) for _, recv_ns, payload in read] == lines[:2000]


@pytest.mark.parametrize(
    ("frame", "key"),
    [
        (depth(1, 2, on=SPOT), SPOT.key),
        (ticker(1, ("1", "1"), ("2", "1"), on=SPOT), SPOT.key),
        (trade(1, "1", "1", on=SPOT, M=True), SPOT.key),
        (depth(1, 2), USDM.key),
        (ticker(1, ("1", "1"), ("2", "1")), USDM.key),
        (trade(1, "1", "1", X="MARKET"), USDM.key),
        (mark_price("1", "1", "0"), USDM.key),
        (depth(1, 2, on=COINM), COINM.key),
        (trade(1, "1", "1", on=COINM, X="MARKET"), COINM.key),
    ],
    ids=lambda x: "" if isinstance(x, dict) else x,
)
def test_the_instrument_is_recognised_from_the_format_of_a_frame(tmp_path, frame, key):
    path = write_lines(tmp_path / "a.gz", [b"1723161255030314667 " + bytes_of(frame)])
    assert recognise(path).key == key


def test_an_instrument_with_unknown_steps_is_named(tmp_path):
    frame = bytes_of(trade(1, "1", "1", X="MARKET")).replace(b"BTCUSDT", b"DOGEUSDT")
    path = write_lines(tmp_path / "a.gz", [b"1723161255030314667 " + frame])
    assert recognise_key(path) == "binance-usdm.DOGEUSDT"
    with pytest.raises(InputError, match=r"unknown instrument 'binance-usdm\.DOGEUSDT'.*Add it"):
        recognise(path)


def test_a_file_that_is_not_a_recording_is_rejected(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary\n" * 20)
    with pytest.raises(CaptureError, match=r"notes\.txt is not a recording of Binance frames"):
        recognise(path)
    path.write_bytes(b"\x1f\x8b" + os.urandom(300))
    with pytest.raises(CaptureError, match="damaged"):
        recognise(path)
    with pytest.raises(InputError, match="No such file"):
        recognise(tmp_path / "nowhere.gz")
    with pytest.raises(InputError, match="directory"):
        recognise(tmp_path)


@pytest.mark.parametrize("name", ["a.gz", "a"])
def test_an_empty_recording_is_reported_as_empty(tmp_path, name):
    with pytest.raises(EmptyDataError, match="holds no frames"):
        recognise(write_lines(tmp_path / name, []))


def test_a_source_is_named_after_the_bytes_not_the_path(tmp_path):
    a, b = (write_lines(tmp_path / name, [b"1723161255030314667 {}"]) for name in ("a", "b"))
    assert source_of(a) == source_of(b)
    assert source_of(a).startswith("file-")
    assert len(source_of(a)) == len("file-") + 16
    with pytest.raises(InputError, match="No such file"):
        source_of(tmp_path / "nowhere.gz")
