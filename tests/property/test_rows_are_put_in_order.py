"""Rows are returned in their table's order, however they are spread over files and however far apart their keys are."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.budget import examples

from market.lake.rows import in_order

KEYS = st.integers(-3, 3) | st.sampled_from([-(2**63), 2**62, 2**63 - 1])


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["b", "a", "ab", ""]), KEYS, KEYS), max_size=30))
def test_rows_are_sorted_by_each_column_in_turn_and_ties_stay(rows):
    numbered = [(*row, number) for number, row in enumerate(rows)]
    names = ["source", "batch", "row", "number"]
    table = pa.table({name: [row[i] for row in numbered] for i, name in enumerate(names)})
    if rows:
        found = in_order(table, ["source", "batch", "row"])
        assert list(zip(*(found[name].to_pylist() for name in names), strict=True)) == sorted(numbered)
