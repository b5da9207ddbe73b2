"""Writes the table of rules in docs/quality.md from the code; the rest of the page is written by hand."""

from __future__ import annotations

import sys
from pathlib import Path

from market.quality.figures import FIGURES
from market.quality.rules import RULES

TARGET = Path(__file__).with_name("quality.md")
BEGIN, END = "<!-- rules: written by `make docs` -->\n", "<!-- end of rules -->\n"


def table() -> str:
    """The rules as Markdown, in their order."""
    rows = [
        (
            f"`{rule.name}`",
            rule.says,
            f"`{rule.figure}`",
            rule.unit or "-",
            *("-" if limit is None else f"{limit:g}" for limit in (rule.limit.warn, rule.limit.hold)),
            "this minute" if rule.figure in FIGURES else "other minutes too",
        )
        for rule in RULES
    ]
    head = ("rule", "meaning", "figure", "unit", "warn above", "quarantine above", "looks at")
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


def write() -> str:
    """The whole page with today's table."""
    before, _, rest = TARGET.read_text().partition(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    TARGET.write_text(write())
    sys.stdout.write(f"wrote {TARGET.name}\n")
