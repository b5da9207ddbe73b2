"""The documents are checked against the code they speak of."""

from __future__ import annotations

import graphlib
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import grimp
import pytest
import typer.main
from typer.testing import CliRunner

from market.venues.registry import VENUES
from pipelines import settings, stages
from pipelines.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
GROUPS = {"audit": ["verify"], "data": ["get"], "lake": ["verify"], "thresholds": ["show"], "quarantine": ["ls"]}
VERBS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    path = [verb, *GROUPS.get(verb, ())]
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    assert f"keel {' '.join(path)}" in result.output.replace("\n", " ")


def test_the_command_reference_is_written_from_todays_commands() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "write_commands.py"))["write"]()
    assert (ROOT / "docs" / "commands.md").read_text() == written, "run `make docs` and commit the page"


def test_the_table_of_venues_is_written_from_todays_venues() -> None:
    page = (ROOT / "docs" / "venues.md").read_text()
    written = runpy.run_path(str(ROOT / "docs" / "write_venues.py"))["venues"]()
    assert page.startswith(written), "run `make docs` and commit the page"
    assert all(f"\n| {venue.name} | " in written for venue in VENUES)


def test_the_table_of_rules_is_written_from_todays_rules() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "write_quality.py"))["write"]()
    assert (ROOT / "docs" / "quality.md").read_text() == written, "run `make docs` and commit the page"


def test_every_venue_has_captures_in_the_document_or_is_said_to_have_none() -> None:
    figures = (ROOT / "docs" / "venues.md").read_text().partition("## What became of the captures")[2]
    shown = {row.split(" | ")[1] for row in figures.splitlines() if row.startswith("| ") and row.count(" | ") > 4}
    without = set(re.findall(r"^\* No capture of `([^`]+)`", figures, re.MULTILINE))
    assert {venue.name for venue in VENUES} == (shown - {"venue", "---"}) | without
    assert not shown & without


def test_every_stage_is_a_verb() -> None:
    assert set(stages.table()) <= set(VERBS)


def test_every_parameter_section_belongs_to_a_verb() -> None:
    assert set(settings.parameters()) <= set(VERBS)


def test_make_targets_named_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"README names `make {target}`"


def commands_in(page: Path) -> list[str]:
    """``keel ...`` lines of the page's code blocks, without what is said of them behind several blanks."""
    blocks = re.findall(r"```\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line.removeprefix(".venv/bin/") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [re.split(r"\s{2,}| #", line)[0] for line in lines if line.startswith("keel ")]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_every_command_line_of_a_page_names_a_verb_and_its_options(page: Path) -> None:
    for line in commands_in(page):
        command: Any = typer.main.get_command(app)
        words = shlex.split(line)[1:]
        while hasattr(command, "commands"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, line


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.relative_to(ROOT)} links to {link}"


def test_every_test_named_in_the_documents_exists() -> None:
    pages = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "adr").glob("*.md"))]
    pages.remove(ROOT / "docs" / "log.md")  # its entries name the tests of their day
    named = {each for page in pages for each in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text())}
    assert len(named) > 40
    texts = {path: (ROOT / path).read_text() if (ROOT / path).is_file() else "" for path, _ in named}
    wanted = [(path, f"def {name}(" if name else '"""') for path, name in sorted(named)]
    missing = [f"{path}: {definition}" for path, definition in wanted if definition not in texts[path]]
    assert missing == []


@pytest.mark.parametrize("picture", ["architecture", "ring"])
def test_the_pictures_are_drawn_from_todays_code(picture: str) -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / f"draw_{picture}.py"))["draw"]()
    assert (ROOT / "docs" / f"{picture}.svg").read_text() == drawn, "run `make docs` and commit the picture"


def test_the_readme_names_every_room_of_the_ring() -> None:
    rooms = {path.parent.name for path in (ROOT / "pipelines").glob("*/__init__.py")}
    named = set(re.findall(r"^  (\w+)/", README, re.MULTILINE))
    assert named == rooms


def test_the_command_line_starts_without_loading_a_heavy_library() -> None:
    heavy = "torch mlflow ray feast evidently great_expectations airflow lightgbm sklearn matplotlib pandas"
    code = (
        "import sys; from pipelines.cli import main as cli; from pipelines import stages; stages.table();"
        f"print([m for m in '{heavy}'.split() if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_every_package_of_the_checkout_has_its_layer() -> None:
    linted = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"bench"}
    assert packages == set(linted)


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = grimp.build_graph("pipelines", "training", "serving", "market", "feature_repo", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError and names the cycle
