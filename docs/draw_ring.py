"""Draws docs/ring.svg from the table of stages: the stations of a model's life as a ring, with the verbs of each.

Run ``make docs`` after adding a stage; a test holds the picture against the code.
"""

from __future__ import annotations

import sys
from html import escape
from math import cos, pi, sin
from pathlib import Path

from pipelines import stages

# the ring in its order, and what each station hands to the next
RING = {
    "ingestion": "ticks",
    "quality": "accepted minutes",
    "features": "dataset",
    "models": "registered version",
    "deployment": "proven version",
    "quoting": "quotes, outcomes",
    "monitoring": "drift",
    "alerting": "challenger",
    "experiments": "verdict",
    "governance": "approval",
    "promotion": "champion",
}
IN_THE_MIDDLE = "reports"
SHORT_CUTS = (("alerting", "models", "retraining"), ("promotion", "quoting", "champion"))
WIDTH, HEIGHT, BOX_W, BOX_H = 1000, 640, 158, 58
MIDDLE = (570.0, 250.0)
ROOT = Path(__file__).resolve().parent.parent


def stations() -> dict[str, list[str]]:
    """The verbs of each station, in the order of the table of stages."""
    found: dict[str, list[str]] = {}
    for verb, stage in stages.table().items():
        found.setdefault(stage.function.__module__.split(".")[1], []).append(verb)
    return found


def draw() -> str:
    """The whole picture as SVG text.

    Raises:
        ValueError: a station has no place in the ring.
    """
    verbs = stations()
    if set(verbs) != {*RING, IN_THE_MIDDLE}:
        raise ValueError(f"expected the stations {[*RING, IN_THE_MIDDLE]}, saw {list(verbs)}; give each a place here")
    parts = [_arrow(here, there, RING[here]) for here, there in zip(RING, [*RING][1:], strict=False)]
    parts += [_chord(*each) for each in SHORT_CUTS]
    parts += [_box(*_place(name), name, verbs[name]) for name in RING]
    parts.append(_box(*MIDDLE, IN_THE_MIDDLE, verbs[IN_THE_MIDDLE]))
    style = (
        "<style>text{font-family:DejaVu Sans,Arial,sans-serif;font-size:11px;fill:#1f2933}"
        ".s{font-size:14px;font-weight:bold}.v{fill:#486581}.e{fill:#9b5a1e}</style>"
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#486581"/></marker></defs>'
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
    return "\n".join([head, style, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>', *parts, "</svg>"]) + "\n"


def _place(name: str) -> tuple[float, float]:
    """Centre of a station: clockwise from the top left."""
    angle = 2 * pi * [*RING].index(name) / len(RING) - pi / 2
    return WIDTH / 2 + (WIDTH / 2 - BOX_W / 2 - 20) * cos(angle), HEIGHT / 2 + (HEIGHT / 2 - BOX_H / 2 - 14) * sin(
        angle
    )


def _box(x: float, y: float, name: str, verbs: list[str]) -> str:
    half = (len(verbs) + 1) // 2 if len(" ".join(verbs)) > 24 else len(verbs)
    lines = [" ".join(verbs[:half]), " ".join(verbs[half:])]
    texts = "".join(
        f'<text x="{x:.0f}" y="{y + 8 + 14 * i:.0f}" text-anchor="middle" class="v">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    return (
        f'<rect x="{x - BOX_W / 2:.0f}" y="{y - BOX_H / 2:.0f}" width="{BOX_W}" height="{BOX_H}" rx="8" '
        f'fill="#eef4f9" stroke="#486581"/>'
        f'<text x="{x:.0f}" y="{y - 9:.0f}" text-anchor="middle" class="s">{name}</text>{texts}'
    )


def _arrow(here: str, there: str, what: str) -> str:
    (x0, y0), (x1, y1) = _edge(_place(here), _place(there)), _edge(_place(there), _place(here))
    # what is handed on is written inside the ring, beside its arrow
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    x, y = x + (WIDTH / 2 - x) * 0.2, y + (HEIGHT / 2 - y) * 0.2 + 4
    return (
        f'<path d="M{x0:.0f} {y0:.0f} L{x1:.0f} {y1:.0f}" stroke="#486581" fill="none" marker-end="url(#a)"/>'
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle" class="e">{escape(what)}</text>'
    )


def _chord(here: str, there: str, what: str) -> str:
    (x0, y0), (x1, y1) = _edge(_place(here), _place(there)), _edge(_place(there), _place(here))
    return (
        f'<path d="M{x0:.0f} {y0:.0f} L{x1:.0f} {y1:.0f}" stroke="#9b5a1e" stroke-dasharray="5 4" fill="none" '
        f'marker-end="url(#a)"/>'
        f'<text x="{x0 + (x1 - x0) * 0.3:.0f}" y="{y0 + (y1 - y0) * 0.3 - 8:.0f}" class="e">{escape(what)}</text>'
    )


def _edge(here: tuple[float, float], there: tuple[float, float]) -> tuple[float, float]:
    """Where the line from the centre of a box leaves it."""
    dx, dy = there[0] - here[0], there[1] - here[1]
    reach = min((BOX_W / 2 + 4) / abs(dx) if dx else 9e9, (BOX_H / 2 + 4) / abs(dy) if dy else 9e9)
    return here[0] + dx * reach, here[1] + dy * reach


if __name__ == "__main__":
    target = ROOT / "docs" / "ring.svg"
    target.write_text(draw())
    sys.stdout.write(f"drew {target.relative_to(ROOT)}\n")
