"""The report over what a run leaves behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson
import pytest
from kit.small_story import TEST, live_through

from market.errors import InputError
from pipelines.reports.report import ReportConfig, ReportResult, report
from pipelines.workspace import Workspace


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, write_seeded_bundle: Callable[..., Path]) -> Workspace:
    return live_through(tmp_path_factory.mktemp("run") / "home", write_seeded_bundle)


@pytest.fixture(scope="module")
def written(told: Workspace) -> ReportResult:
    return report(ReportConfig(), workspace=told)


@pytest.fixture(scope="module")
def page(written: ReportResult) -> str:
    return Path(written.page).read_text()


@pytest.fixture(scope="module")
def figures(written: ReportResult) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(Path(written.figures).read_bytes())
    return found


class _Outside(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "iframe", "object", "embed"):
            self.found.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action") and value and not value.startswith(("#", "data:")):
                self.found.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                self.found.append(f"{tag} {name}")


def test_the_page_is_one_file_that_loads_and_runs_nothing(page: str) -> None:
    outside = _Outside()
    outside.feed(page)
    assert outside.found == []
    assert not re.search(r"url\((?!#)", page)


def test_words_from_outside_cannot_become_markup(page: str) -> None:
    assert "unexpected end &lt;script&gt;" in page


def test_every_part_of_the_ring_has_its_picture(page: str) -> None:
    for part in ("ring", "models", "drift", "latency", "test", "quotes"):
        section = page.split(f'<section id="{part}">')[1].split("</section>", maxsplit=1)[0]
        assert "<svg" in section, part


def test_page_and_figures_agree(page: str, figures: dict[str, Any], written: ReportResult) -> None:
    assert figures["quote_id"] == written.quote_id == f"q-{TEST.name}.4011"
    assert written.quote_id in page
    assert figures["verdict"] == written.verdict == "promote"
    assert figures["champion"] == written.champion == 2
    for line in figures["summary"]:
        assert line.split(" (")[0].replace("'", "&#39;") in page
    assert figures["latency"]["hot path, one model"]["samples"] > 0
    assert {m["version"] for m in figures["models"]} == {1, 2}


def test_each_network_stands_beside_rules_linear_model_and_trees(figures: dict[str, Any]) -> None:
    for model in figures["models"]:
        names = {m["model"] for m in model["evaluation"]["models"]}
        assert names >= {"network", "LightGBM", "logistic regression", "imbalance rule", "last move rule", "prior"}


def test_a_network_that_lost_to_the_trees_is_said_to_have_lost(figures: dict[str, Any]) -> None:
    assert "behind LightGBM" in figures["summary"][1]


def test_a_simulation_claims_nothing_about_real_markets(figures: dict[str, Any]) -> None:
    assert "say nothing about what any model would earn" in " ".join(figures["caveats"])


def test_the_next_steps_are_commands_on_this_run(written: ReportResult, told: Workspace) -> None:
    assert len(written.next_steps) == 3
    assert written.next_steps[-1].startswith(f"KEEL_HOME={told.home} ")
    assert written.next_steps[-1].endswith(f"/keel trace {written.quote_id}")


def test_writing_it_again_changes_no_figure(written: ReportResult, told: Workspace) -> None:
    assert report(ReportConfig(), workspace=told) == written


def _cut(told: Workspace, home: Path, *, kind: str, stages: set[str]) -> ReportResult:
    """A report on part of the story, beside the same lake."""
    story = orjson.loads((told.home / "story.json").read_bytes())
    kept = [e for e in story["entries"] if e["stage"] in stages]
    home.mkdir()
    (home / "story.json").write_bytes(orjson.dumps({"kind": kind, "entries": kept}))
    return report(ReportConfig(), workspace=Workspace(home=home, clock=told.clock, lake_uri=told.lake))


def test_what_a_run_did_not_do_is_said_to_be_absent(told: Workspace, tmp_path: Path) -> None:
    result = _cut(told, tmp_path / "home", kind="recorded", stages={"ingest", "validate"})
    assert set(result.missing) == {"compare", "quotes", "trace"}
    page = Path(result.page).read_text()
    for why in (
        "no run was evaluated",
        "drift was not looked for",
        "were not compared in this run",
        "no quote was traced",
        "no Triton was at hand",
    ):
        assert why in page
    assert "no fill, no spread earned and no inventory is claimed" in page


def test_a_run_that_died_early_still_has_a_report(told: Workspace, tmp_path: Path) -> None:
    result = _cut(told, tmp_path / "home", kind="simulated", stages={"ingest"})
    assert "no version became champion" in result.summary[-1]


def test_without_a_story_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run keel demo first"):
        report(ReportConfig(), workspace=Workspace(home=tmp_path))
    (tmp_path / "story.json").write_text("{}")
    with pytest.raises(InputError, match="not the story of a run"):
        report(ReportConfig(), workspace=Workspace(home=tmp_path))
