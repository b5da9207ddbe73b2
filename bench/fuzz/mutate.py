"""How to damage a good frame: by bytes, by tokens (numbers, texts, fields), by structure, by other frames."""

from __future__ import annotations

import ast
import gzip
import re
from collections.abc import Callable, Sequence
from random import Random

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORD = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|[A-Za-z_]+')
_PAIR = re.compile(rb'"[A-Za-z_]\w*":(?:"[^"]*"|-?[\d.eE+-]+|true|false|null|\[\]|\{\})')
_PACKED = re.compile(rb"""b['"]\\x1f\\x8b""")  # a gzip member as a Python literal

EDGES = (
    b"0", b"-0", b"-1", b"1", b"0.0", b"00", b"007", b"1e0", b"1E400", b"-1e-400", b"1e-9", b"1e9", b"1e30", b"5e-324",
    b"0.1", b".5", b"5.", b"1.0000000000000000000000000001", b"123456789012345678", b"1234567890123456789",
    b"127", b"255", b"32768", b"65536", b"2147483648", b"4294967295", b"4294967296", b"9007199254740993",
    b"4611686018427387904", b"9223372036854775807", b"9223372036854775808", b"18446744073709551615",
    b"18446744073709551616", b"9" * 40, b"9" * 400, b"9" * 5000, b"NaN", b"nan", b"Infinity", b"-inf", b"null",
    b"true", b"false", b'""', b'"0"', b'"-1"', b'"NaN"', b'"1e400"', b'"1_000"', b'" 1"', b'"+1"', b"[]", b"{}",
    b"[[]]", b"1e-5", b"1.7976931348623157e308", b"\xd9\xa1\xd9\xa2", b'"\xd9\xa1"', b"1700000000000",
    b"253402300800000",
    b"-62135596800000", b"0001-01-01T00:00:00Z", b"9999-12-31T23:59:59.999999Z", b"1969-12-31T23:59:59Z",
    b"9500000000000", b"9500000000", b"9500000000.5", b"9500000000000000", b"2270-01-01T00:00:00Z",
)  # fmt: skip
PIECES = (
    b"\xff", b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\x00", b"\\ud800", b"\\u0000", b'"', b"\\", b"[", b"]", b"{",
    b"}", b",", b":", b"\n", b"\r\n", b"\t", b" ", b"-", b"+", b".", b"e", b"_", b"=", b"'", b"\xef\xbb\xbf",
    b"\xe2\x80\xa8", b'"a":', b"null", b",,", b"1", b"0",
)  # fmt: skip
_INTEGERS = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)

Change = Callable[[bytearray, Random, Sequence[bytes]], None]


def damaged(frame: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """``frame`` after one to four changes; ``others`` are frames to take parts from.

    Compressed content (a gzip member in text) is damaged inside as often as outside.
    """
    if _PACKED.match(frame) and rng.random() < 0.7:
        inner = gzip.decompress(ast.literal_eval(frame.decode("ascii")))
        return repr(gzip.compress(_changed(inner, rng, ()), 1, mtime=0)).encode()
    return _changed(frame, rng, others)


def _changed(frame: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    data = bytearray(frame)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        rng.choice(_CHANGES)(data, rng, others)
    return bytes(data)


def _span(data: bytearray, rng: Random, longest: int = 12) -> tuple[int, int]:
    at = rng.randrange(len(data) + 1)
    return at, min(len(data), at + rng.randrange(longest + 1))


def flip(data: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    for _ in range(rng.randint(1, 4) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def replace(data: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    at, end = _span(data, rng)
    data[at:end] = rng.randbytes(end - at)


def insert(data: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    at, _ = _span(data, rng)
    data[at:at] = rng.choice(PIECES) * rng.choice((1, 1, 1, 2, 7))


def remove(data: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    at, end = _span(data, rng, rng.choice((3, 30, 300)))
    del data[at:end]


def double(data: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    at, end = _span(data, rng, rng.choice((3, 30, 300)))
    data[at:at] = data[at:end]


def cut(data: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def splice(data: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    if others:
        other = rng.choice(others)
        data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


def number(data: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    """Replace a number with one at the edge of a range."""
    found = list(_NUMBER.finditer(data))
    if found:
        match = rng.choice(found)
        data[match.start() : match.end()] = rng.choice(EDGES)


def nearby(data: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    """Make a number a little or much larger, smaller or longer, or negate it."""
    found = list(_NUMBER.finditer(data))
    if not found:
        return
    match = rng.choice(found)
    text = match.group()
    data[match.start() : match.end()] = rng.choice((
        b"-" + text, text + b"0", text + b"1", text[:-1] or b"0", b"0" + text, text + b"e5", text + b"e-5",
        text.replace(b".", b""), text + b".5", text * 2,
    ))  # fmt: skip


def word(data: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    """Replace a number, text or name with another one: from this frame, from another, or an edge value."""
    found = list(_WORD.finditer(data))
    if not found:
        return
    match = rng.choice(found)
    source = rng.choice(others) if others and rng.random() < 0.6 else bytes(data)
    words = _WORD.findall(source)
    data[match.start() : match.end()] = rng.choice(words) if words and rng.random() < 0.8 else rng.choice(EDGES)


def repeat_key(data: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    found = list(_PAIR.finditer(data))
    if found:
        match = rng.choice(found)
        key = match.group().partition(b":")[0]
        data[match.start() : match.start()] = key + b":" + rng.choice(EDGES) + b","


def drop_key(data: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    found = list(_PAIR.finditer(data))
    if found:
        match = rng.choice(found)
        end = match.end() + (data[match.end() : match.end() + 1] == b",")
        del data[match.start() : end]


def nest(data: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    found = list(_WORD.finditer(data))
    at = rng.choice(found).start() if found else 0
    depth = rng.choice((2, 10, 100, 1_100, 5_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    data[at:at] = opening * depth + (b"1" + closing * depth + b"," if rng.random() < 0.5 else b"")


def separate(data: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    """Drop a field of a row, double it, or swap it with another."""
    sign = rng.choice((b",", b" ", b"\n", b"="))
    fields = bytes(data).split(sign)
    at, other = rng.randrange(len(fields)), rng.randrange(len(fields))
    what = rng.randrange(3)
    if what == 0:
        del fields[at]
    elif what == 1:
        fields.insert(other, fields[at])
    else:
        fields[at], fields[other] = fields[other], fields[at]
    data[:] = sign.join(fields)


def integer(data: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    """Replace bytes with a binary integer at the edge of a range."""
    width = rng.choice((1, 2, 4, 8))
    if len(data) >= width:
        at = rng.randrange(0, len(data) - width + 1, rng.choice((1, width)))
        value = rng.choice(_INTEGERS) % (1 << 8 * width)
        data[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))


def noise(data: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    if rng.random() < 0.1:
        data[:] = rng.randbytes(rng.randrange(200))


_CHANGES: tuple[Change, ...] = (
    flip, replace, insert, remove, double, cut, splice, number, number, number, nearby, nearby, word, word, word,
    repeat_key, drop_key, nest, separate, integer, noise,
)  # fmt: skip
