"""What every ``keel`` verb has in common: its result as a line, or with ``--json`` as one object."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import orjson
import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def print_result(result: Any, as_json: bool) -> None:
    """``result`` is a dataclass with a method ``line``."""
    if as_json:
        typer.echo(orjson.dumps(dataclasses.asdict(result), default=str, option=orjson.OPT_SERIALIZE_NUMPY).decode())
    else:
        typer.echo(result.line())
