"""Draws docs/architecture.svg from the code: layers as bands, rooms as boxes in the order of the contracts.

A room in a row may import the rows below it; the arrows on the right count imports between layers. Run ``make docs``
after adding a room; a test holds the picture against the code.
"""

from __future__ import annotations

import sys
import tomllib
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

import grimp

LAYERS = ("dags", "pipelines", "training", "serving", "market")
COLOURS = {
    "dags": "#e8eef7",
    "pipelines": "#dcebe3",
    "training": "#f7ecd9",
    "serving": "#f3e1e1",
    "market": "#e6e1f0",
    "feature_repo": "#eeeeee",
}
WIDTH, BOX_W, BOX_H, GAP, LEFT = 1110, 175, 26, 8, 140
ROOT = Path(__file__).resolve().parent.parent


def rows_of(layer: str) -> list[list[str]]:
    """Rooms of a layer, row by row: as its contract orders them, else the files side by side."""
    for contract in _contracts():
        if contract.get("containers") == [layer]:
            rows = [[room.strip(" ()") for room in row.split("|")] for row in contract["layers"]]
            return [[room for room in row if _exists(layer, room)] for row in rows]
    names = sorted(path.stem for path in (ROOT / layer).glob("*.py") if path.stem != "__init__")
    return [names]


def modules_in(layer: str, room: str) -> int:
    """How many modules a room has; 0 for a room that is a single file."""
    folder = ROOT / layer / room
    return sum(path.stem != "__init__" for path in folder.rglob("*.py")) if folder.is_dir() else 0


def imports_between_layers() -> Counter[tuple[str, str]]:
    """How many import statements' targets lead from one package to another."""
    packages = [name for name in (*LAYERS, "feature_repo") if name != "dags"]
    graph = grimp.build_graph(*packages, cache_dir=None)
    arrows: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for target in graph.find_modules_directly_imported_by(module):
            here, there = module.split(".")[0], target.split(".")[0]
            if here != there:
                arrows[here, there] += 1
    arrows["dags", "pipelines"] = sum(
        path.read_text().count("from pipelines") for path in sorted((ROOT / "dags").glob("*.py"))
    )
    return arrows


def draw() -> str:
    """The whole picture as SVG text."""
    parts: list[str] = []
    y, bands = 50, {}
    for layer in (*LAYERS, "feature_repo"):
        rows = rows_of(layer)
        height = 12 + len(rows) * (BOX_H + GAP) + 4
        bands[layer] = (y, height)
        parts += _band(layer, rows, y, height)
        y += height + 22
    parts += _arrows(bands)
    title = '<text x="20" y="30" class="t">quotekeel: a room imports only from rows and layers below it</text>'
    style = (
        "<style>text{font-family:DejaVu Sans,Arial,sans-serif;font-size:11px;fill:#222}"
        ".t{font-size:16px;font-weight:bold}.l{font-size:14px;font-weight:bold}.a{font-size:11px;fill:#555}</style>"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}">'
    return "\n".join([head, style, f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>', title, *parts, "</svg>"]) + "\n"


def _contracts() -> list[dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts: list[dict[str, Any]] = settings["tool"]["importlinter"]["contracts"]
    return contracts


def _exists(layer: str, room: str) -> bool:
    place = ROOT / layer / room
    return place.is_dir() or place.with_suffix(".py").exists()


def _band(layer: str, rows: list[list[str]], y: int, height: int) -> list[str]:
    parts = [
        f'<rect x="20" y="{y}" width="{WIDTH - 150}" height="{height}" rx="6" fill="{COLOURS[layer]}" stroke="#999"/>',
        f'<text x="32" y="{y + height / 2 + 5:g}" class="l">{layer}</text>',
    ]
    for row, rooms in enumerate(rows):
        top = y + 10 + row * (BOX_H + GAP)
        wide = min(BOX_W, (WIDTH - 160 - LEFT) / max(len(rooms), 1) - GAP)
        for i, room in enumerate(rooms):
            x = LEFT + i * (wide + GAP)
            count = modules_in(layer, room)
            edge = ' stroke-width="1.4"' if count else ' stroke-dasharray="3 2"'
            label = f"{escape(room)}/ {count}" if count else escape(room)
            parts.append(
                f'<rect x="{x:g}" y="{top}" width="{wide:g}" height="{BOX_H}" rx="3" fill="#fff" stroke="#999"{edge}/>'
            )
            parts.append(f'<text x="{x + wide / 2:g}" y="{top + 17}" text-anchor="middle">{label}</text>')
    return parts


def _arrows(bands: dict[str, tuple[int, int]]) -> list[str]:
    parts = []
    for lane, ((here, there), count) in enumerate(sorted(imports_between_layers().items())):
        start = bands[here][0] + bands[here][1] / 2
        end = bands[there][0] + bands[there][1] / 2
        x = WIDTH - 128 + 11 * lane
        parts.append(
            f'<path d="M{WIDTH - 130} {start:g} H{x} V{end:g} H{WIDTH - 124}" fill="none" stroke="#666"/>'
            f'<path d="M{WIDTH - 130} {end:g} l7 -4 v8 z" fill="#666"/>'
            f'<text x="{x + 2}" y="{(start + end) / 2:g}" class="a">{count}</text>'
        )
    return parts


if __name__ == "__main__":
    target = ROOT / "docs" / "architecture.svg"
    target.write_text(draw())
    sys.stdout.write(f"drew {target.relative_to(ROOT)}\n")
