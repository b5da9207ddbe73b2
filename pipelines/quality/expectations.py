"""The rules of the gate as a Great Expectations suite over a table with one row a batch, and its data docs.

A rule is up to two expectations on one column: one of severity ``warning``, one ``critical``. The docs show the newest
batches of every source that was judged, those with earlier verdicts among them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from market.files import replacing_folder
from market.quality.figures import Measured
from market.quality.limits import Limits
from market.quality.rules import QUARANTINE, RULES, WARN, Rule, Verdict

if TYPE_CHECKING:
    import pandas as pd

DOCS: Final = Path("quality", "docs")  # under the workspace's home
_SEVERITY: Final = {WARN: "warning", QUARANTINE: "critical"}
_MOST_LISTED: Final = 20


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Batches of one source by number, what is known of them and the limits they are held against."""

    instrument: str
    source: str
    batches: Sequence[tuple[int, Measured]]
    limits: Limits


Verdicts = dict[int, dict[str, Verdict]]  # batch -> rule -> warn or quarantine; a rule that is kept is not named


def run(sheets: Sequence[Sheet], docs: Path) -> list[Verdicts]:
    """What each rule says of each batch of each sheet; the data docs are written to the folder ``docs``."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    # it tells of every temporary folder, on a logger whose level it sets itself when it is imported
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    context.delete_data_docs_site("local_site")  # in a temporary folder
    with replacing_folder(docs) as draft:
        context.add_data_docs_site("gate", _site(draft))
        lake = context.data_sources.add_pandas("lake")
        found = [_judged(gx, context, lake, sheet) for sheet in sheets]
        context.build_data_docs()
    return found


def _judged(gx: Any, context: Any, lake: Any, sheet: Sheet) -> Verdicts:
    name = f"{sheet.instrument} {sheet.source}"
    suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=_expectations(sheet.limits)))
    asset = lake.add_dataframe_asset(name)
    data = asset.add_batch_definition_whole_dataframe("minutes")
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=data, suite=suite))
    checkpoint = gx.Checkpoint(name=name, validation_definitions=[definition], result_format=_RESULT_FORMAT)
    outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": _frame(sheet)})
    verdicts: Verdicts = {batch: {} for batch, _ in sheet.batches}
    for result in next(iter(outcome.run_results.values())).results:
        meta = result.expectation_config.meta
        for row in result.result.get("unexpected_index_list") or ():
            rules = verdicts[int(row["batch"])]
            if rules.get(meta["rule"]) != QUARANTINE:
                rules[meta["rule"]] = meta["verdict"]
    return verdicts


_RESULT_FORMAT: Final = {
    "result_format": "COMPLETE",
    "unexpected_index_column_names": ["minute", "batch"],
    "return_unexpected_index_query": False,
    "partial_unexpected_count": _MOST_LISTED,
}


def _frame(sheet: Sheet) -> pd.DataFrame:
    import pandas as pd

    times = pd.to_datetime([each.first_ns for _, each in sheet.batches], unit="ns")
    columns: Mapping[str, Any] = {
        "minute": times.strftime("%Y-%m-%d %H:%M"),
        "batch": [batch for batch, _ in sheet.batches],
        **{_column(rule): [each.values[rule.figure] for _, each in sheet.batches] for rule in RULES},
    }
    return pd.DataFrame(columns)


def _expectations(limits: Limits) -> list[Any]:
    return [
        expectation
        for rule in RULES
        for verdict, most in ((WARN, limits.of(rule).warn), (QUARANTINE, limits.of(rule).hold))
        if most is not None
        for expectation in [_expectation(rule, verdict, most)]
    ]


def _expectation(rule: Rule, verdict: str, most: float) -> Any:
    from great_expectations.expectations import ExpectColumnValuesToBeBetween

    said = f"{most:g} {rule.unit}".strip()
    return ExpectColumnValuesToBeBetween(
        column=_column(rule),
        min_value=0.0,
        max_value=most,
        severity=_SEVERITY[verdict],
        notes=f"**{rule.name}**: {verdict} above {said} ({rule.says})",
        meta={"rule": rule.name, "verdict": verdict},
    )


def _column(rule: Rule) -> str:
    """What a page shows as the name of the column."""
    return f"{rule.name} ({rule.unit})" if rule.unit else rule.name


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "site_name": "Quality gate",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
