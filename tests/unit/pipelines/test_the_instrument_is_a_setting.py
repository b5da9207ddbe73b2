"""Whose data and model a verb is about that names none: KEEL_INSTRUMENT, for stages, the command line and the DAGs."""

from __future__ import annotations

import pytest

from pipelines import settings
from pipelines.deployment.deploy import DeployConfig
from pipelines.ingestion.ingest import IngestConfig
from pipelines.settings import DEFAULT_INSTRUMENT, default_instrument, stage_config

OTHER = "binance-usdm.BTCUSDT"


def test_without_the_variable_it_is_the_simulated_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEEL_INSTRUMENT", raising=False)
    assert default_instrument() == stage_config("deploy", DeployConfig).instrument == DEFAULT_INSTRUMENT


def test_the_variable_counts_where_nothing_is_named_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEL_INSTRUMENT", OTHER)
    settings.refuse_unknown_variables({"KEEL_INSTRUMENT": OTHER})
    assert default_instrument() == stage_config("deploy", DeployConfig).instrument == OTHER
    assert stage_config("deploy", DeployConfig, {"instrument": "deribit.BTC"}).instrument == "deribit.BTC"
    assert stage_config("ingest", IngestConfig).instrument is None, "a recording says whose it is"
