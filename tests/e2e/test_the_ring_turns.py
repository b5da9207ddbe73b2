"""`keel demo` on the simulated exchange, run once, and everything a person would then look at or try."""

from __future__ import annotations

import email
import email.policy
import random
import re
from pathlib import Path

import orjson
import pytest
from kit.ring import Ring, run_keel

from market.lake.lake import Lake

pytestmark = pytest.mark.heavy

STAGES = (
    *("ingest", "validate", "featurize", "train", "evaluate", "export", "register", "deploy", "approve", "promote"),
    *("serve", "skew", "monitor", "notify", "retrain", "compare", "trace"),
)


def story(ring: Ring) -> list[dict]:
    return orjson.loads((ring.home / "story.json").read_bytes())["entries"]


def results(ring: Ring, stage: str) -> list[dict]:
    return [entry["result"] for entry in story(ring) if entry["stage"] == stage]


def test_every_stage_ran_and_said_so_in_a_line(simulated: Ring) -> None:
    for stage in STAGES:
        assert results(simulated, stage), stage
        assert re.search(rf"^  {stage}\b", simulated.output, re.MULTILINE), stage


def test_the_bad_minute_is_in_quarantine_and_the_rest_went_on(simulated: Ring) -> None:
    held = Lake(simulated.home / "lake").read("quarantine", where={"stage": "validate"}).to_pylist()
    assert {row["reason"] for row in held} == {"trade_outside_book"}
    assert sum(result["passed"] for result in results(simulated, "validate")) > 20


def test_the_drift_was_found_only_after_the_market_changed_and_was_mailed_with_its_picture(simulated: Ring) -> None:
    assert [result["drifted"] for result in results(simulated, "monitor")] == [False, True]
    mails = list((simulated.home / "mail").rglob("*.eml"))
    assert len(mails) == 1
    mail = email.message_from_bytes(mails[0].read_bytes(), policy=email.policy.default)
    kinds = {part.get_content_type() for part in mail.walk()}
    assert {"text/html", "text/plain", "image/png"} <= kinds
    received = [path for path in (simulated.home / "mailsink").rglob("*") if path.is_file()]
    assert len(received) == 1


def test_live_features_were_those_of_the_batch_to_the_bit(simulated: Ring) -> None:
    assert all(result["equal"] for result in results(simulated, "skew"))


def test_no_request_failed_while_versions_were_swapped(simulated: Ring) -> None:
    swaps = [result["watched"] for result in results(simulated, "promote")]
    assert swaps
    assert all(watched["failed"] == 0 and watched["requests"] > 0 for watched in swaps)


def test_the_story_ends_as_its_test_did(simulated: Ring) -> None:
    verdict = results(simulated, "compare")[0]
    promoted = [result["version"] for result in results(simulated, "promote")]
    assert promoted == ([1, verdict["challenger"]] if verdict["verdict"] == "promote" else [1])


def test_the_report_is_one_file_that_needs_nothing_from_outside(simulated: Ring) -> None:
    page = (simulated.home / "report.html").read_text()
    assert "<img" in page or "<svg" in page
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page)
    assert simulated.report["quote_id"] in page


def test_any_quote_of_the_run_leads_back_to_its_raw_frames(simulated: Ring) -> None:
    quotes = Lake(simulated.home / "lake").read("quotes", columns=["quote_id"])["quote_id"].to_pylist()
    for quote_id in random.Random(0).sample(quotes, 3):
        done = simulated.keel("trace", quote_id, "--json")
        assert done.returncode == 0, done.stderr
        chain = orjson.loads(done.stdout)
        assert chain["reproduced"], chain["recomputed"]
        assert chain["raw"]["frames"] > 0
        assert chain["model"]["dataset_revision"]
        assert chain["dataset"]["sources"]


def test_a_quote_that_never_was_is_said(simulated: Ring) -> None:
    done = simulated.keel("trace", "q-nothing.1")
    assert done.returncode == 2
    assert "q-nothing.1" in done.stderr


def test_the_audit_record_holds_and_shows_a_changed_letter(spare_home: Ring) -> None:
    assert spare_home.keel("audit", "verify").returncode == 0
    record = next((spare_home.home / "audit").glob("*.jsonl"))
    record.write_text(record.read_text().replace('"ada"', '"eve"', 1))
    done = spare_home.keel("audit", "verify")
    assert done.returncode != 0


def test_a_rollback_brings_the_former_champion_back_and_leaves_a_record(spare_home: Ring) -> None:
    if len(results(spare_home, "promote")) < 2:
        pytest.skip("the challenger did not win its test, so there is nothing to go back to")
    done = spare_home.keel("rollback", "--json")
    assert done.returncode == 0, done.stderr
    back = orjson.loads(done.stdout)
    assert (back["version"], back["withdrawn"]) == (1, 2)
    assert back["watched"]["failed"] == 0
    assert spare_home.keel("audit", "verify").returncode == 0
    last = orjson.loads((spare_home.home / "audit" / "audit.jsonl").read_bytes().splitlines()[-1])
    assert last["kind"] == "rollback"


def test_nobody_approves_their_own_model(simulated: Ring) -> None:
    done = simulated.keel("approve", "--version", "1", "--name", "ring", "--reason", "mine")
    assert done.returncode == 7
    assert "may not approve" in done.stderr


def test_a_model_file_with_one_byte_changed_is_refused_and_mended_from_the_registry(simulated: Ring) -> None:
    weights = simulated.home / "models" / "sim-usdm.BTCUSDT" / "1" / "weights.safetensors"
    spoiled = bytearray(weights.read_bytes())
    spoiled[-1] ^= 1
    weights.write_bytes(bytes(spoiled))
    done = simulated.keel("deploy", "--version", "1")
    assert done.returncode == 5
    assert "weights.safetensors" in done.stderr
    assert simulated.keel("deploy", "--version", "1").returncode == 0


def test_a_demo_without_a_person_stops_before_it_starts(tmp_path: Path) -> None:
    done = run_keel(tmp_path / "home", "demo")
    assert done.returncode == 7
    assert "APPROVE_AS" in done.stderr
    assert not (tmp_path / "home").exists()


def test_an_unknown_variable_is_refused(tmp_path: Path) -> None:
    done = run_keel(tmp_path / "home", "validate", KEEL_TRIAN__EPOCHS="3")
    assert done.returncode == 2
    assert "KEEL_TRIAN__EPOCHS" in done.stderr
