"""What is written today is read by other processes and by tomorrow's code: a change of these must be meant.

``contracts.json`` holds the layouts as they were agreed. Whoever changes one on purpose changes the file in the same
commit, and says in the changelog what readers of older data have to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest

from market import errors
from market.errors import KeelError
from market.events import EVENT
from market.features import catalog
from market.labels import HORIZON_NAMES
from market.lake.schemas import PARTITIONS, SCHEMAS
from serving.manifest import Manifest
from serving.records import DECISION

AGREED = Path(__file__).with_name("contracts.json")


def layout(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Column -> [type, byte offset]; and the size of a record."""
    fields = dtype.fields or {}
    columns = {name: [field[0].str or str(field[0]), field[1]] for name, field in fields.items()}
    shapes = {name: list(field[0].shape) for name, field in fields.items() if field[0].shape}
    bases = {name: [fields[name][0].base.str, *columns[name][1:], shape] for name, shape in shapes.items()}
    return {"bytes": dtype.itemsize, "columns": columns | bases}


def exit_codes() -> dict[str, int]:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, KeelError)]
    return {each.__name__: each.exit_code for each in classes}


def today() -> dict[str, Any]:
    return {
        "event": layout(EVENT),
        "decision": layout(DECISION),
        "lake": {
            "partitions": list(PARTITIONS),
            "tables": {name: {f.name: str(f.type) for f in schema} for name, schema in SCHEMAS.items()},
        },
        "features": list(catalog.names()),
        "horizons": list(HORIZON_NAMES),
        "manifest": list(msgspec.json.schema(Manifest)["$defs"]["Manifest"]["properties"]),
        "exit_codes": exit_codes(),
    }


@pytest.mark.parametrize("what", list(today()))
def test_a_layout_is_as_agreed(what: str) -> None:
    agreed = orjson.loads(AGREED.read_bytes())
    assert today()[what] == agreed[what], f"{what} differs from contracts.json; see the head of this file"


def test_an_event_is_one_cache_line() -> None:
    assert EVENT.itemsize == 64


def test_every_deliberate_error_has_an_exit_code_of_its_branch() -> None:
    assert set(exit_codes().values()) == {1, 2, 3, 4, 5, 6, 7}
