"""``python -m bench`` with tiny parts: what was measured is kept whatever happens to the others, on one page a day."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import PARTS, main
from bench.page import DayPage

ABOUT = {"commit": "abc1234", "machine": "2 cores", "load": "0.1", "command": "make bench"}


class Part:
    """Measures a number."""

    def __init__(self, name: str, value: float = 1.0) -> None:
        self.name, self.value, self.given = name, value, ()

    def run(self, *given: str) -> dict[str, Any]:
        self.given = given
        row = {
            "what": "speed",
            "value": self.value,
            "unit": "rows/s",
            "peer": "a peer",
            "peer_value": 2.0,
            "ratio": 0.5,
        }
        return {"title": f"Speed of {self.name}", "rows": [row], "notes": [f"note of {self.name}"]}


class WithLines(Part):
    def page(self, found: dict[str, Any]) -> list[str]:
        return ["## More of it", "", f"{found['rows'][0]['value']:g} again", ""]


class Broken(Part):
    def run(self, *given: str) -> dict[str, Any]:
        raise FileNotFoundError("/somewhere/on/this/machine")


class Lacking(Part):
    def lacks(self) -> str:
        return "no broker is installed here"

    def run(self, *given: str) -> dict[str, Any]:
        raise AssertionError("a part that lacks something is not run")


def finder(*odd: Part) -> Callable[[str], Part]:
    """Parts by name; those that are not given are plain ones."""
    named = {part.name: part for part in odd}
    return lambda name: named.get(name) or Part(name)


def only_page(folder: Path) -> str:
    (page,) = folder.glob("*.md")
    assert page.with_suffix(".json").is_file()
    return page.read_text()


def test_a_part_that_fails_takes_nothing_from_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], find=finder(Broken("features")), folder=tmp_path) == 1
    page = only_page(tmp_path)
    assert [name for name in PARTS if f"## Speed of {name}" in page] == [name for name in PARTS if name != "features"]
    assert "* features: failed with FileNotFoundError" in page
    assert "/somewhere" not in page  # pages are committed
    said = capsys.readouterr().err
    assert "/somewhere/on/this/machine" in said
    assert said.strip().endswith("not measured: features (see above)")


def test_a_part_that_cannot_be_loaded_is_a_failure_of_its_own(tmp_path: Path) -> None:
    def find(name: str) -> Part:
        if name == "kafka":
            raise ModuleNotFoundError(name)
        return Part(name)

    assert main([], find=find, folder=tmp_path) == 1
    assert "* kafka: failed with ModuleNotFoundError" in only_page(tmp_path)


def test_what_was_measured_is_on_disk_before_the_next_part_begins(tmp_path: Path) -> None:
    class Stopped(Part):
        def run(self, *given: str) -> dict[str, Any]:
            assert "## Speed of frames" in only_page(tmp_path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        main([], find=finder(Stopped("features")), folder=tmp_path)
    assert "## Speed of frames" in only_page(tmp_path)


def test_a_part_that_lacks_something_is_left_out_by_name(tmp_path: Path) -> None:
    assert main([], find=finder(Lacking("kafka")), folder=tmp_path) == 0
    assert "* kafka: left out: no broker is installed here" in only_page(tmp_path)
    # unless it was asked for
    assert main(["kafka"], find=finder(Lacking("kafka")), folder=tmp_path) == 1


def test_a_part_measured_again_replaces_its_section_and_keeps_the_others(tmp_path: Path) -> None:
    main([], find=finder(Broken("kafka")), folder=tmp_path)
    assert main(["kafka", "frames", "lake"], find=finder(Part("frames", 7.0), WithLines("lake")), folder=tmp_path) == 0
    page = only_page(tmp_path)
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert headings[1:5] == [f"## Speed of {name}" for name in ("frames", "features", "hotpath", "training")]
    assert headings[5:] == ["## Speed of kafka", "## Speed of lake", "### More of it"]
    assert page.count("| speed | 7 rows/s | a peer | 2 | 0.5 | - |") == 1
    assert page.count("Written by `make bench`.") == 3
    assert "Written by `python -m bench frames`." in page
    assert "Not measured" not in page


def test_a_failure_later_in_the_day_keeps_what_was_measured(tmp_path: Path) -> None:
    main(["frames"], find=finder(), folder=tmp_path)
    assert main(["frames"], find=finder(Broken("frames")), folder=tmp_path) == 1
    page = only_page(tmp_path)
    assert "## Speed of frames" in page
    assert "* frames: failed with FileNotFoundError" in page


def test_words_that_are_no_part_go_to_the_part_before_them(tmp_path: Path) -> None:
    peers = Part("peers")
    main(["peers", "a.gz", "frames"], find=finder(peers), folder=tmp_path)
    assert peers.given == ("a.gz",)
    with pytest.raises(SystemExit, match="expected a part"):
        main(["a.gz"], find=finder(), folder=tmp_path)


def test_a_page_of_the_older_form_is_gone_on_with(tmp_path: Path) -> None:
    rows = Part("frames").run()
    old = {"date": "2026-11-21", "commit": "6567bc1", "machine": "2 cores", "parts": {"frames": rows}}
    (tmp_path / "2026-11-21.json").write_text(json.dumps(old))
    page = DayPage(folder=tmp_path, date="2026-11-21")
    page.put("lake", Part("lake").run(), ABOUT)
    text = page.path.read_text()
    assert "Commit `6567bc1`, 2 cores. Written by `make bench`." in text
    assert "Commit `abc1234`, 2 cores; the load average when it began was 0.1." in text
