"""Output of every ``keel`` verb: progress bars while a stage runs, its result as a line or, with ``--json``, as one
object."""

from __future__ import annotations

import dataclasses
from types import TracebackType
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def print_result(result: Any, as_json: bool) -> None:
    """``result`` is a dataclass with a method ``line``."""
    if as_json:
        typer.echo(orjson.dumps(dataclasses.asdict(result), default=str, option=orjson.OPT_SERIALIZE_NUMPY).decode())
    else:
        typer.echo(result.line())


class Bars:
    """A :class:`pipelines.workspace.Progress` on stderr; ``quiet`` shows nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._rich = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._open: list[TaskID] = []

    def __enter__(self) -> Bars:
        self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rich.stop()

    def start(self, what: str, total: float | None) -> None:
        self._open.append(self._rich.add_task(what, total=total))

    def advance(self, amount: float) -> None:
        if self._open:
            self._rich.advance(self._open[-1], amount)

    def stop(self) -> None:
        if self._open:
            self._rich.remove_task(self._open.pop())

    def tell(self, line: str) -> None:
        """Print a line above the bars."""
        self._rich.console.print(line, markup=False)
