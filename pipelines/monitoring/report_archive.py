"""A monitor's report beside the run of the model it speaks of: MLflow keeps it, whoever reads the run finds it.

MLflow may be away: the verdict does not wait for it. A report that is not kept yet is marked in its folder, and goes
along with the next one that is.

A look that found nothing leaves its figures and its picture there. Its page, megabytes a quarter of an hour that nobody
opens, stays in the folder while it is among the newest (:func:`forget_pages`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from market.errors import FolderError, ServiceError
from market.files import replacing
from pipelines.workspace import Workspace

REPORT_FILE = "monitor.json"
PAGE_FILE = "evidently.html"
WAITING_FILE = "waiting.json"
_MOST = 20  # earlier reports that go along with one

Write = Callable[["Links"], None]


@dataclass(frozen=True, kw_only=True)
class Links:
    """Where a report is kept. ``artifacts`` is MLflow's own address of it, ``page`` that for a browser (empty without a
    server), ``waiting`` why MLflow does not have it yet (empty: it has)."""

    artifacts: str
    page: str = ""
    waiting: str = ""


def keep(workspace: Workspace, folder: Path, run_id: str, write: Write) -> Links:
    """Log the files of a report's ``folder`` under ``monitoring/<name of the folder>`` of the run.

    ``write`` is called with what is known of the links, before the files are logged and again when that failed.
    """
    from training.registry import tracking

    place = f"monitoring/{folder.name}"
    links = Links(artifacts=f"runs:/{run_id}/{place}")
    mark = folder / WAITING_FILE
    with replacing(mark) as draft:
        draft.write_bytes(orjson.dumps({"run_id": run_id}))
    try:
        client = tracking.client(workspace.tracking)
        links = replace(links, page=tracking.page(client, run_id, place))
        write(links)
        _log(client, run_id, folder, place)
    except (ServiceError, FolderError) as error:
        links = replace(links, waiting=str(error))
        write(links)
        return links
    mark.unlink()
    _earlier(client, workspace, besides=folder)
    return links


def is_quiet(report: Mapping[str, Any]) -> bool:
    """Whether a look found neither a drift, which is mailed, nor a failing check."""
    return not report["drifted"] and all(check["verdict"] != "fail" for check in report["checks"])


def forget_pages(workspace: Workspace, keep: int) -> None:
    """Remove the pages of quiet looks but for the newest ``keep``; the same look, taken again, draws its page anew."""
    pages = sorted(workspace.reports.glob(f"*/{PAGE_FILE}"), key=lambda page: page.stat().st_mtime_ns, reverse=True)
    reports = [(page, page.with_name(REPORT_FILE)) for page in pages]
    quiet = [page for page, report in reports if report.is_file() and is_quiet(orjson.loads(report.read_bytes()))]
    for page in quiet[keep:]:
        page.unlink()


def _earlier(client: Any, workspace: Workspace, *, besides: Path) -> None:
    """Reports that waited; one that MLflow still does not take goes on waiting."""
    from training.registry import tracking

    for mark in sorted(workspace.reports.glob(f"*/{WAITING_FILE}"))[:_MOST]:
        folder = mark.parent
        if folder == besides or not (folder / REPORT_FILE).is_file():
            continue
        run_id, place = str(orjson.loads(mark.read_bytes())["run_id"]), f"monitoring/{folder.name}"
        try:
            _say(folder, page=tracking.page(client, run_id, place), waiting="")
            _log(client, run_id, folder, place)
        except (ServiceError, FolderError) as error:
            _say(folder, waiting=str(error))
            continue
        mark.unlink()


def _say(folder: Path, **links: str) -> None:
    """Change what a report says of its own links."""
    report = folder / REPORT_FILE
    found = orjson.loads(report.read_bytes())
    found["links"].update(links)
    with replacing(report) as draft:
        draft.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))


def _log(client: Any, run_id: str, folder: Path, place: str) -> None:
    """Through a folder of its own: what lies in the report's folder and is no part of the report stays there."""
    from training.registry import tracking

    quiet = is_quiet(orjson.loads((folder / REPORT_FILE).read_bytes()))
    with tempfile.TemporaryDirectory(prefix="keel-report-") as copy:
        for path in folder.iterdir():
            mine = path.suffix in (".json", ".html", ".png") and path.name != WAITING_FILE
            if mine and not (quiet and path.name == PAGE_FILE):
                shutil.copy2(path, copy)
        tracking.log_folder(client, run_id, Path(copy), place)
