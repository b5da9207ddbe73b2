"""A synthetic file of FI-2010's layout, and the ways in which one can be wrong."""

from __future__ import annotations

import gzip
import hashlib
from decimal import Decimal

import numpy as np
import pytest

from market.books.price_book import Book
from market.errors import CaptureError, FrameError, InputError
from market.instruments import Instrument
from market.venues import fi2010


def matrix(columns=7, rows=149):
    rng = np.random.default_rng(1)
    values = rng.random((rows, columns))
    values[-5:] = rng.integers(1, 4, (5, columns))
    return values


def written(path, values):
    np.savetxt(path, values, fmt="%.7e", delimiter="   ")
    return path


def test_a_file_becomes_book_features_and_labels(tmp_path):
    values = matrix()
    path = written(tmp_path / "a.txt", values)
    assert fi2010.recognise(path) == fi2010.KEY
    read = fi2010.read(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert (read.book_TF.shape, read.features_TF.shape, read.labels_TK.shape) == ((7, 40), (7, 104), (7, 5))
    assert np.allclose(read.book_TF[3], values[:40, 3])
    assert np.allclose(read.features_TF[3], values[40:144, 3])
    assert (read.labels_TK == values[144:].T).all()


def test_a_packed_file_is_the_same(tmp_path):
    path = written(tmp_path / "a.txt", matrix())
    packed = tmp_path / "b"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert fi2010.read(packed).sha256 == fi2010.read(path).sha256


def test_what_is_no_such_file_is_not_recognised(tmp_path):
    path = tmp_path / "a"
    for text in ("dear diary, it rained\n", "1 2 3\n" * 148, "1 2 3\n" * 150):
        path.write_text(text)
        assert fi2010.recognise(path) is None
    with pytest.raises(InputError, match="No such file"):
        fi2010.recognise(tmp_path / "nowhere")


def test_a_column_is_a_frame_whose_levels_are_the_book(tmp_path):
    values = matrix(columns=5000)
    found = list(fi2010.frames(written(tmp_path / "a.txt", values)))
    assert [(number, recv_ns) for number, recv_ns, _ in found] == [(i, 0) for i in range(1, 5001)]
    assert np.allclose([float(text) for text in found[4500][2].split()], values[:, 4500])


def ladder(best_bid):
    """A column of ten levels of one step each, with features that are not read."""
    column = [f"{v:.7e}" for i in range(10) for v in (best_bid + 0.01 * (i + 1), 0.5, best_bid - 0.01 * i, 0.25)]
    return " ".join([*column, *["-1"] * 109]).encode()


def test_levels_are_told_as_changes_without_any_time():
    parser = fi2010.Parser(Instrument(venue="fi2010", symbol="STOCKS", tick=Decimal("0.01"), lot=Decimal("0.01")))
    book = Book()
    for frame, best in enumerate((1.0, 1.01), 1):
        parsed = parser.parse(ladder(best), 0, frame)
        assert (parsed.kind, parsed.exch_ns) == ("diff", 0)
        book.apply_batch(parsed.events)
    assert (book.bids(1).tolist(), book.asks(1).tolist()) == ([[101, 25]], [[102, 50]])


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"1 2", "wrong_columns"),
        (ladder(1.0).replace(b"5.0000000e-01", b"x", 1), "bad_number"),
        (ladder(1.0).replace(b"5.0000000e-01", b"0", 1), "zero_size"),
        (ladder(-0.5), "negative"),
        (ladder(1.005), "off_tick"),
    ],
)
def test_a_column_that_shows_no_book_is_refused_with_its_reason(payload, reason):
    parser = fi2010.Parser(Instrument(venue="fi2010", symbol="STOCKS", tick=Decimal("0.01"), lot=Decimal("0.01")))
    with pytest.raises(FrameError) as error:
        parser.parse(payload, 0, 1)
    assert error.value.reason == reason


def bad_label(values):
    values[-1, 2] = 4
    return values


def not_finite(values):
    values[5, 2] = np.nan
    return values


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("a.txt", matrix(rows=148), r"expected a matrix of 149 x 7, saw 148 x 7"),
        ("Test_Dst_NoAuction_DecPre_CF_9.txt", matrix(), r"expected a matrix of 149 x 31937, saw 149 x 7"),
        ("a.txt", bad_label(matrix()), "a label is none of 1, 2, 3"),
        ("a.txt", not_finite(matrix()), "a value is not finite"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path, name, values, words):
    with pytest.raises(CaptureError, match=words):
        fi2010.read(written(tmp_path / name, values))


def test_another_sum_and_another_text_are_refused(tmp_path):
    path = written(tmp_path / "a.txt", matrix())
    with pytest.raises(CaptureError, match="expected sha256 00, saw"):
        fi2010.read(path, sha256="00")
    path.write_text("1 2 3\n1 x 3\n")
    with pytest.raises(CaptureError, match="not a matrix of numbers"):
        fi2010.read(path)
