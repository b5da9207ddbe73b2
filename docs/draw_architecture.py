"""Draws docs/architecture.svg from the code: layers as bands, modules as boxes, imports between layers as arrows.

Run ``make docs`` after adding a module; a test holds the picture against the code.
"""

from __future__ import annotations

import sys
from collections import Counter
from html import escape
from pathlib import Path

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
WIDTH, PER_ROW, BOX_W, BOX_H, GAP = 1180, 7, 140, 30, 8
ROOT = Path(__file__).resolve().parent.parent


def modules() -> dict[str, list[str]]:
    """Modules of each layer, as dotted names below it, in the order of their paths."""
    found: dict[str, list[str]] = {}
    for layer in (*LAYERS, "feature_repo"):
        paths = sorted((ROOT / layer).rglob("*.py"))
        names = [p.relative_to(ROOT / layer).with_suffix("").as_posix() for p in paths if p.name != "__init__.py"]
        found[layer] = [name.removesuffix("/__main__") for name in names]
    return found


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
        (ROOT / "dags" / f"{m}.py").read_text().count("from pipelines") for m in modules()["dags"]
    )
    return arrows


def draw() -> str:
    """The whole picture as SVG text."""
    parts: list[str] = []
    y, bands = 50, {}
    for layer, names in modules().items():
        rows = max(1, -(-len(names) // PER_ROW))
        height = 34 + rows * (BOX_H + GAP) + 6
        bands[layer] = (y, height)
        parts += _band(layer, names, y, height)
        y += height + 26
    parts += _arrows(bands)
    title = (
        '<text x="20" y="30" class="t">quotekeel: each layer imports only those below it (drawn from the code)</text>'
    )
    style = (
        "<style>text{font-family:DejaVu Sans,Arial,sans-serif;font-size:11px;fill:#222}"
        ".t{font-size:16px;font-weight:bold}.l{font-size:14px;font-weight:bold}.a{font-size:11px;fill:#555}</style>"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}">'
    return "\n".join([head, style, f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>', title, *parts, "</svg>"]) + "\n"


def _band(layer: str, names: list[str], y: int, height: int) -> list[str]:
    parts = [
        f'<rect x="20" y="{y}" width="{WIDTH - 140}" height="{height}" rx="6" fill="{COLOURS[layer]}" stroke="#999"/>',
        f'<text x="32" y="{y + 22}" class="l">{layer}</text>',
    ]
    for i, name in enumerate(names):
        x = 32 + (i % PER_ROW) * (BOX_W + GAP)
        top = y + 32 + (i // PER_ROW) * (BOX_H + GAP)
        parts.append(f'<rect x="{x}" y="{top}" width="{BOX_W}" height="{BOX_H}" rx="3" fill="#fff" stroke="#bbb"/>')
        parts.append(f'<text x="{x + BOX_W / 2:g}" y="{top + 19}" text-anchor="middle">{escape(_short(name))}</text>')
    return parts


def _short(name: str) -> str:
    return name if len(name) <= 22 else "…" + name[-21:]


def _arrows(bands: dict[str, tuple[int, int]]) -> list[str]:
    parts = []
    for lane, ((here, there), count) in enumerate(sorted(imports_between_layers().items())):
        start = bands[here][0] + bands[here][1] / 2
        end = bands[there][0] + bands[there][1] / 2
        x = WIDTH - 118 + 11 * lane
        parts.append(
            f'<path d="M{WIDTH - 120} {start:g} H{x} V{end:g} H{WIDTH - 114}" fill="none" stroke="#666"/>'
            f'<path d="M{WIDTH - 120} {end:g} l7 -4 v8 z" fill="#666"/>'
            f'<text x="{x + 2}" y="{(start + end) / 2:g}" class="a">{count}</text>'
        )
    return parts


if __name__ == "__main__":
    target = ROOT / "docs" / "architecture.svg"
    target.write_text(draw())
    sys.stdout.write(f"drew {target.relative_to(ROOT)}\n")
