"""Exact conversion of decimal text to integer steps: a price to ticks, a size to lots, without floating point.

Two parsers of the same grammar, ``digits[.digits]``: :class:`Unit` for single texts in Python, :func:`read_quoted` for
many in compiled code. A value that is not a whole number of steps is rejected, never rounded. Recordings that went
through doubles hold the double nearest to a decimal, or one of its neighbours: :meth:`Unit.of_float` recovers those.
"""

from __future__ import annotations

from decimal import Decimal
from math import isfinite, ulp
from typing import Final

import numpy as np
from numpy.typing import NDArray

from market.compiled import compiled
from market.errors import FrameError

MAX_DIGITS: Final = 18  # so that every number fits an int64

# error codes that read_quoted() returns instead of a position
E_QUOTE: Final = -1
E_NUMBER: Final = -2
E_NEGATIVE: Final = -3
E_STEP: Final = -4
E_RANGE: Final = -5

REASONS: Final = {E_NUMBER: "bad_number", E_NEGATIVE: "negative", E_RANGE: "out_of_range"}

_REMEMBERED: Final = 1 << 14
_SHOWN: Final = 40
_ULPS: Final = 4
_CLEARER: Final = 64  # a step must be at least this many units in the last place


class Unit:
    """Multiples of ``step`` up to ``limit``, or to what 64-bit integers hold; ``off_step`` is the reason code for a
    value between two multiples.
    """

    def __init__(self, step: Decimal, *, limit: int, off_step: str) -> None:
        exponent = int(step.normalize().as_tuple().exponent)
        self.step = step
        self.off_step = off_step
        self._decimals = max(0, -exponent)
        self._factor = int(step.scaleb(self._decimals))
        if not 0 < self._factor * 10 ** (MAX_DIGITS - 1) < 2**63:
            raise ValueError(f"a step of {step} does not fit 64-bit integers")
        self._limit = min(limit, (2**63 - 1) // self._factor)
        self._known: dict[str, int] = {}  # texts of prices and sizes repeat a lot
        self._known_floats: dict[float, int] = {}

    @property
    def words(self) -> tuple[int, int, int]:
        """The arguments of :func:`read_quoted`: step = words[0] / 10**words[1], limit = words[2]."""
        return self._factor, self._decimals, self._limit

    def of(self, text: str) -> int:
        """``text`` as a number of steps.

        Raises:
            FrameError: ``bad_number``, ``negative``, ``out_of_range`` or the code ``off_step``.
        """
        known = self._known.get(text)
        if known is None:
            known = self._convert(text)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[text] = known
        return known

    def of_float(self, value: float) -> int:
        """A double computed from an exact decimal by some program, in steps: 34.160000000000004 is 3416 x 0.01.

        It must be within 4 units in its last place of the multiple (what one multiplication or sum may lose), and the
        step must be much larger than those; a value further away is not taken for the multiple.

        Raises:
            FrameError: as :meth:`of`.
        """
        known = self._known_floats.get(value)
        if known is None:
            known = self._convert_float(value)
            if len(self._known_floats) >= _REMEMBERED:
                self._known_floats.clear()
            self._known_floats[value] = known
        return known

    def _convert_float(self, value: float) -> int:
        if not isfinite(value):
            raise FrameError("bad_number", f"expected a finite number, saw {value}")
        if value < 0:
            raise FrameError("negative", f"expected a non-negative number, saw {value}")
        scale = int(10**self._decimals)
        about = value * scale / self._factor
        if about > self._limit or ulp(value) * _CLEARER > self._factor / scale:
            raise FrameError("out_of_range", f"{value} is larger than any price or size")
        steps = round(about)
        if abs(steps * self._factor / scale - value) > _ULPS * ulp(value):  # the division of integers rounds once
            raise FrameError(self.off_step, f"{value!r} is not a multiple of the step {self.step}")
        return steps

    def _convert(self, text: str) -> int:
        whole, dot, part = text.partition(".")
        digits = whole + part
        if not (digits.isascii() and digits.isdigit() and whole and bool(part) == bool(dot)):
            reason = "negative" if text.startswith("-") else "bad_number"
            raise FrameError(reason, f"expected a non-negative decimal number, saw {text[:_SHOWN]!r}")
        if len(digits) > MAX_DIGITS:
            raise FrameError("out_of_range", f"{text[:_SHOWN]!r} has more digits than any price or size")
        # value / step = digits / 10**len(part) * 10**decimals / factor
        steps, rest = divmod(int(digits) * int(10**self._decimals), int(10 ** len(part)) * self._factor)
        if steps > self._limit:
            raise FrameError("out_of_range", f"{text!r} is larger than any price or size")
        if rest:
            raise FrameError(self.off_step, f"{text!r} is not a multiple of the step {self.step}")
        return steps


_QUOTE, _DOT, _MINUS, _ZERO, _NINE = 34, 46, 45, 48, 57
_POWERS: Final = np.array([10**i for i in range(MAX_DIGITS + 1)], dtype=np.int64)


@compiled
def read_quoted(text: NDArray[np.uint8], at: int, unit: NDArray[np.int64]) -> tuple[int, int]:
    """Read ``"123.4500"`` at ``at``: the position after it and its number of steps, or a negative code and 0.

    ``text`` must hold the closing quote. ``unit`` (3,) is :attr:`Unit.words`.
    """
    if text[at] != _QUOTE:
        return E_QUOTE, 0
    at, value, places = _digits(text, at + 1)
    if at < 0:
        return at, 0
    factor, decimals, limit = unit[0], unit[1], unit[2]
    if places > decimals:
        factor *= _POWERS[places - decimals]
    elif value > limit * factor // _POWERS[decimals - places]:  # else the product below might overflow
        return E_RANGE, 0
    else:
        value *= _POWERS[decimals - places]
    if value % factor != 0:
        return E_STEP, 0
    return (at + 1, value // factor) if value // factor <= limit else (E_RANGE, 0)


@compiled
def _digits(text: NDArray[np.uint8], at: int) -> tuple[int, int, int]:
    """The position of the closing quote, all digits as one integer, and how many follow the decimal point."""
    if text[at] == _MINUS:
        return E_NEGATIVE, 0, 0
    digits, value, point = 0, 0, -1
    while text[at] != _QUOTE:
        c = int(text[at])
        if c == _DOT and point < 0 and digits > 0:
            point = digits
        elif c < _ZERO or c > _NINE:
            return E_NUMBER, 0, 0
        elif digits == MAX_DIGITS:
            return E_RANGE, 0, 0
        else:
            digits += 1
            value = value * 10 + (c - _ZERO)
        at += 1
    if digits in (0, point):  # nothing, or nothing after the point
        return E_NUMBER, 0, 0
    return at, value, digits - point if point > 0 else 0
