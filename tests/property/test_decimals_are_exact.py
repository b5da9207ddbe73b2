"""Text to steps and back, against ``Decimal``, by both parsers."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import inf, nextafter, ulp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.budget import examples

from market.decimals import E_STEP, MAX_DIGITS, REASONS, Unit, read_quoted
from market.errors import FrameError

STEPS = [Decimal(text) for text in ("0.01", "0.1", "0.00001", "1", "0.25", "0.5", "5", "1E-8", "10")]
LIMIT = 2**40
UNITS = {step: Unit(step, limit=LIMIT, off_step="off") for step in STEPS}

texts = st.one_of(
    st.decimals(min_value=0, max_value=10**9, places=8).map(lambda d: format(d, "f")),
    st.integers(0, 10**20).map(str),
    st.from_regex(r"\A[0-9]{1,12}(\.[0-9]{1,9})?\Z"),
    st.text(alphabet="0123456789.-+eE ٣", max_size=12),
)


def by_python(unit: Unit, text: str) -> int | str:
    try:
        return unit.of(text)
    except FrameError as error:
        return error.reason


def compiled(unit: Unit, text: str) -> int | str:
    raw = np.frombuffer(b'"' + text.encode() + b'"', np.uint8)
    at, steps = read_quoted(raw, 0, np.array(unit.words, dtype=np.int64))
    if at < 0:
        return "off" if at == E_STEP else REASONS[at]
    assert at == len(raw)
    return int(steps)


def expected(step: Decimal, text: str) -> int | None:
    digits = text.replace(".", "", 1)
    if not (digits.isascii() and digits.isdigit()) or text[0] == "." or text[-1] == "." or len(digits) > MAX_DIGITS:
        return None
    steps = Decimal(text) / step
    return int(steps) if steps == int(steps) and steps <= LIMIT else None


@settings(max_examples=examples(1500), deadline=None)
@given(st.sampled_from(STEPS), texts)
def test_both_parsers_give_the_exact_number_of_steps_or_an_error(step, text):
    right = expected(step, text)
    for read in (by_python, compiled):
        seen = read(UNITS[step], text)
        assert seen == right if right is not None else isinstance(seen, str), (read, seen)


@settings(max_examples=examples(500), deadline=None)
@given(st.sampled_from(STEPS), st.integers(0, LIMIT))
def test_every_multiple_round_trips(step, steps):
    text = format(step * steps, "f")
    assert by_python(UNITS[step], text) == compiled(UNITS[step], text) == steps


def test_a_step_that_does_not_fit_is_rejected():
    with pytest.raises(ValueError, match="does not fit 64-bit"):
        Unit(Decimal(1000), limit=2**40, off_step="off")


@settings(max_examples=examples(500), deadline=None)
@given(st.sampled_from(STEPS), st.integers(0, 10**9), st.integers(0, 4))
def test_a_double_that_was_a_multiple_is_recovered(step, steps, ulps):
    value = float(steps * step)
    for _ in range(ulps):
        value = nextafter(value, inf)
    assert UNITS[step].of_float(value) == steps


@settings(max_examples=examples(500), deadline=None)
@given(st.sampled_from(STEPS), st.floats(0, 10**9))
def test_a_double_is_never_moved_by_more_than_its_last_places(step, value):
    try:
        steps = UNITS[step].of_float(value)
    except FrameError as error:
        refused = error.reason
    else:
        assert abs(Fraction(steps) * Fraction(step) - Fraction(value)) <= 5 * Fraction(ulp(value))
        return
    assert refused in ("off", "out_of_range")


@pytest.mark.parametrize(
    ("value", "reason"),
    [(float("nan"), "bad_number"), (inf, "bad_number"), (-0.5, "negative"), (1e300, "out_of_range"), (0.015, "off")],
)
def test_a_double_that_is_not_a_multiple_is_rejected(value, reason):
    with pytest.raises(FrameError) as error:
        UNITS[Decimal("0.01")].of_float(value)
    assert error.value.reason == reason
