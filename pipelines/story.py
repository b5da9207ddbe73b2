"""Runs stages one after the other, tells each result in a line, and writes down what happened (story.json)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from market.clock import NS_PER_S
from pipelines import stages
from pipelines.workspace import Workspace, replacing


@dataclass(frozen=True, kw_only=True)
class Story:
    """A run of many stages. ``tell`` shows a line to a person; ``kind`` is "simulated" or "recorded"."""

    workspace: Workspace
    tell: Callable[[str], None]
    kind: str
    chapters: list[dict[str, Any]] = field(default_factory=list)

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        self.tell("")
        self.tell(title)

    def stage(self, verb: str, **overrides: Any) -> Any:
        """Run one stage, tell its line with the time it took, and record it."""
        started = self.workspace.clock.now_ns()
        result = stages.run(verb, workspace=self.workspace, **overrides)
        self.record(verb, result.line(), started, dataclasses.asdict(result))
        return result

    def event(self, name: str, line: str, **figures: Any) -> None:
        """Record something that happened beside the stages (the market changed, a person answered)."""
        self.record(name, line, self.workspace.clock.now_ns(), figures)

    def record(self, name: str, line: str, started_ns: int, result: dict[str, Any]) -> None:
        """Append one entry and write the whole story, so that a run that dies leaves what it did."""
        seconds = (self.workspace.clock.now_ns() - started_ns) / NS_PER_S
        entry = {"stage": name, "line": line, "seconds": round(seconds, 2), "started_ns": started_ns, "result": result}
        self.chapters.append(entry)
        self.tell(f"  {name:<10} {seconds:6.1f} s  {line}")
        with replacing(self.workspace.story) as draft:
            text = {"kind": self.kind, "entries": self.chapters}
            draft.write_bytes(orjson.dumps(text, default=str, option=orjson.OPT_SERIALIZE_NUMPY))
