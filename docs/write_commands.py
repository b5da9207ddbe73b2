"""Writes docs/commands.md from the ``keel`` command itself: verbs, examples, options, variables, exit codes."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import typer.main

from pipelines import settings
from pipelines.cli.main import app

TARGET = Path(__file__).with_name("commands.md")
EXIT_CODES = {
    0: "done",
    1: "an error of quotekeel",
    2: "wrong input: the sentence says what was expected and what was seen",
    3: "the market data contradicts itself, or there is none",
    4: "a table of the lake cannot be read or written",
    5: "a model was refused (tampered, expired, wrong feature set, golden vectors do not reproduce)",
    6: "a server is away, or its port is taken",
    7: "a gate said no (quality, approval, test verdict)",
    130: "stopped by Ctrl-C; running the same command again goes on from there",
}


def write() -> str:
    """The whole page as Markdown."""
    lines = ["# Commands", "", "Written from the code by `make docs`.", ""]
    group = typer.main.get_command(app)
    lines += _verbs(group, "keel")
    lines += ["## Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    lines += ["", "## Variables", "", "| variable | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in settings.VARIABLES.items()]
    lines += ["", "`KEEL_<STAGE>__<PARAMETER>` overrides one parameter of a stage, as `--set` does.", ""]
    return "\n".join(lines)


def _verbs(group: object, prefix: str) -> list[str]:
    lines: list[str] = []
    for name, command in getattr(group, "commands", {}).items():
        if hasattr(command, "commands"):
            lines += _verbs(command, f"{prefix} {name}")
            continue
        lines += [f"## `{prefix} {name}`", "", (command.help or "").strip(), "", "| option | meaning |", "|---|---|"]
        context = click.Context(command, info_name=name)
        for parameter in command.params:
            record = parameter.get_help_record(context)
            if record:
                lines.append(f"| `{record[0].strip().replace('|', '/')}` | {record[1].strip()} |")
        lines.append("")
    return lines


if __name__ == "__main__":
    TARGET.write_text(write())
    sys.stdout.write(f"wrote {TARGET.name}\n")
