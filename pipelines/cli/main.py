"""The ``keel`` command: one verb for each stage, and the operator's tools around them.

This is a composition root: it chooses the clock, the progress display and the workspace, calls one stage function and
turns its result into a line (or ``--json``) and its errors into a sentence and an exit code.

Exit codes: 0 done; 1 an error of ours; 2 wrong input; 3 the data contradicts itself; 4 the lake or another
file; 5 a model was refused;
6 a server is unavailable or its port is taken; 7 a gate failed; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import orjson
import typer

from market.errors import FolderError, KeelError, SettingsError
from pipelines import settings, stages
from pipelines.cli.audit import audit_app
from pipelines.cli.data import data_app
from pipelines.cli.lake import lake_app
from pipelines.cli.output import Bars, Json, print_result
from pipelines.cli.quality import quarantine_app, thresholds_app
from pipelines.cli.stack import stack_app
from pipelines.settings import DEFAULT_INSTRUMENT

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="The life of the models that keep a market maker's quotes stable. `keel VERB --help` has an example of each.",
)
app.add_typer(stack_app)
app.add_typer(audit_app, name="audit")
app.add_typer(lake_app, name="lake")
app.add_typer(data_app, name="data")
app.add_typer(thresholds_app, name="thresholds")
app.add_typer(quarantine_app, name="quarantine")

Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other parameter of the stage.")]
Instrument = Annotated[str, typer.Option(help="Instrument key, venue.SYMBOL.", envvar="KEEL_INSTRUMENT")]

STOPPED = 130


def _run(verb: str, as_json: bool, assignments: list[str] | None, **overrides: Any) -> None:
    """Run a stage with the options of the command line (``None`` means not given) and print its result."""
    given = {name: value for name, value in overrides.items() if value is not None}
    given.update(settings.parse_assignments(assignments or ()))
    with Bars(quiet=as_json) as bars:
        result = stages.run(verb, workspace=settings.workspace(progress=bars), **given)
    print_result(result, as_json)


@app.command()
def ingest(
    files: Annotated[list[Path] | None, typer.Argument(help="Recordings; the venue is detected.")] = None,
    url: Annotated[str | None, typer.Option(help="A WebSocket stream, or a kafka:// topic.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop after this much market time.")] = None,
    instrument: Annotated[str | None, typer.Option(help="Instrument of the frames; required with a URL.")] = None,
    venue: Annotated[str | None, typer.Option(help="Format of the recordings; default: detected.")] = None,
    lake: Annotated[str | None, typer.Option(help="Folder or URI of the lake; default: the workspace's.")] = None,
    tick: Annotated[str | None, typer.Option(help="Price step of an unknown instrument; default: inferred.")] = None,
    lot: Annotated[str | None, typer.Option(help="Its size step.")] = None,
    feed: Annotated[list[str] | None, typer.Option(help="VENUE.SYMBOL=URL: a stream; repeatable.")] = None,
    as_json: Json = False,
    set_: Set = None,
) -> None:
    """Land market data of any known venue: raw frames, then ticks.

    Example: `keel ingest usdm_btcusdt_20240808.gz --json`
    """
    given = [str(path) for path in files] if files else None
    named = {"venue": venue, "lake": lake, "tick": tick, "lot": lot, "feeds": feed}
    _run("ingest", as_json, set_, files=given, url=url, seconds=seconds, instrument=instrument, **named)


@app.command()
def forward(
    to: Annotated[str, typer.Option(help="The topic, kafka://host:port/topic.")],
    files: Annotated[list[Path] | None, typer.Argument(help="Recordings of one instrument each.")] = None,
    url: Annotated[str | None, typer.Option(help="A WebSocket stream instead of recordings.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop after this much market time.")] = None,
    instrument: Annotated[str | None, typer.Option(help="Instrument of the frames; required with a URL.")] = None,
    partitions: Annotated[int, typer.Option(help="Create a missing topic with this many; 0: do not create it.")] = 0,
    as_json: Json = False,
    set_: Set = None,
) -> None:
    """Send raw frames to a Kafka topic, from which `keel ingest --url kafka://...` lands them.

    Example: `keel forward usdm_btcusdt_20240808.gz --to kafka://127.0.0.1:9092/frames --partitions 1`
    """
    given = [str(path) for path in files] if files else None
    named = {"seconds": seconds, "instrument": instrument, "partitions": partitions}
    _run("forward", as_json, set_, to=to, files=given, url=url, **named)


@app.command()
def validate(as_json: Json = False, set_: Set = None) -> None:
    """Validate every landed minute; quarantine the bad ones with their reasons and accept the rest.

    Example: `keel validate --json`
    """
    _run("validate", as_json, set_)


@app.command()
def featurize(instrument: Instrument = DEFAULT_INSTRUMENT, as_json: Json = False, set_: Set = None) -> None:
    """Compute features and labels, register them in Feast, cut a dataset and version it with DVC.

    Example: `keel featurize --instrument binance-usdm.BTCUSDT`
    """
    _run("featurize", as_json, set_, instrument=instrument)


@app.command()
def refresh(instrument: Instrument = DEFAULT_INSTRUMENT, as_json: Json = False, set_: Set = None) -> None:
    """Compute features and labels of new lake data and publish the newest online; cuts no dataset.

    Example: `keel refresh --instrument binance-usdm.BTCUSDT`
    """
    _run("refresh", as_json, set_, instrument=instrument)


@app.command()
def train(
    dataset: Annotated[str, typer.Option(help="Dataset id, as featurize printed it.")],
    as_json: Json = False,
    set_: Set = None,
) -> None:
    """Train the streaming network on Ray: two workers, bf16, exact resume.

    Example: `keel train --dataset 5f0c9d1e2b3a4c5d --set epochs=6`
    """
    _run("train", as_json, set_, dataset_id=dataset)


Run = Annotated[str, typer.Option("--run", help="Run id, as train printed it.")]


@app.command()
def evaluate(run: Run, as_json: Json = False, set_: Set = None) -> None:
    """Compare a run with naive rules, logistic regression, LightGBM and the champion on the same rows.

    Example: `keel evaluate --run 0a1b2c3d4e5f --json`
    """
    _run("evaluate", as_json, set_, run_id=run)


@app.command()
def export(run: Run, as_json: Json = False, set_: Set = None) -> None:
    """Write the bundle: ONNX step model, safetensors, golden vectors, manifest; INT8 only if it passes.

    Example: `keel export --run 0a1b2c3d4e5f`
    """
    _run("export", as_json, set_, run_id=run)


@app.command()
def register(run: Run, as_json: Json = False, set_: Set = None) -> None:
    """Register a bundle in MLflow as challenger, with its lineage.

    Example: `keel register --run 0a1b2c3d4e5f`
    """
    _run("register", as_json, set_, run_id=run)


@app.command()
def deploy(
    instrument: Instrument = DEFAULT_INSTRUMENT,
    version: Annotated[int | None, typer.Option(help="Registry version; default: the challenger's.")] = None,
    platform: Annotated[
        str | None, typer.Option(help="Triton's backend: python, onnxruntime or tensorrt; default: the current one.")
    ] = None,
    as_json: Json = False,
    set_: Set = None,
) -> None:
    """Load a registered version into Triton and the hot path; its golden vectors must pass before any traffic.

    Example: `keel deploy --instrument sim-usdm.BTCUSDT --version 2`
    """
    _run("deploy", as_json, set_, instrument=instrument, version=version, platform=platform)


@app.command()
def serve(
    url: Annotated[str | None, typer.Option(help="The exchange's stream.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Market time to quote for.")] = None,
    instrument: Instrument = DEFAULT_INSTRUMENT,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep running and follow changes of what is in service.")
    ] = False,
    as_json: Json = False,
    set_: Set = None,
) -> None:
    """Quote: turn events into predictions and quotes at the exchange, and record the outcomes.

    Example: `keel serve --url ws://127.0.0.1:9443 --seconds 60`
    """
    if follow:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    _run("serve", as_json, set_, url=url, seconds=seconds, instrument=instrument, follow=follow or None)


@app.command()
def skew(
    session: Annotated[str, typer.Option(help="Serving session.")], as_json: Json = False, set_: Set = None
) -> None:
    """Recompute a session's features from the lake; they must match what was served bit for bit.

    Example: `keel skew --session live-20261121T080000-1a2b`
    """
    _run("skew", as_json, set_, session=session)


@app.command()
def monitor(instrument: Instrument = DEFAULT_INSTRUMENT, as_json: Json = False, set_: Set = None) -> None:
    """Check for drift: an Evidently report, and a verdict by effect size over the last windows.

    Example: `keel monitor --instrument sim-usdm.BTCUSDT --json`
    """
    _run("monitor", as_json, set_, instrument=instrument)


@app.command()
def notify(as_json: Json = False, set_: Set = None) -> None:
    """Send the mail about a drift verdict exactly once.

    Example: `keel notify --set recipients=[quant@desk.example]`
    """
    _run("notify", as_json, set_)


@app.command()
def acknowledge(
    event_id: Annotated[str, typer.Argument(help="The drift's id, from the mail.")],
    name: Annotated[str, typer.Option(help="Who acknowledges it.")],
    as_json: Json = False,
    set_: Set = None,
) -> None:
    """Record that a person has seen a drift.

    Example: `keel acknowledge drift-ffa43d7e3574 --name ada`
    """
    _run("acknowledge", as_json, set_, event_id=event_id, name=name)


@app.command()
def escalate(as_json: Json = False, set_: Set = None) -> None:
    """Escalate unacknowledged alerts when due: a second mail, then the safe state. Run it every few minutes.

    Example: `keel escalate --set acknowledge_within=900 --set escalate_to=[head@desk.example]`
    """
    _run("escalate", as_json, set_)


Name = Annotated[str, typer.Option(envvar="APPROVE_AS", help="Who decides; prompted for when absent.")]
Reason = Annotated[str, typer.Option(help="Why; prompted for when absent.")]


@app.command()
def safe(instrument: Instrument, name: Name = "", reason: Reason = "", as_json: Json = False, set_: Set = None) -> None:
    """Put an instrument into the safe state: wider and smaller quotes.

    Example: `keel safe --instrument sim-usdm.BTCUSDT --name ada --reason "the venue is under maintenance"`
    """
    _run("safe", as_json, set_, instrument=instrument, name=name or _ask("Who"), reason=reason or _ask("Why"))


@app.command()
def resume(
    instrument: Instrument, name: Name = "", reason: Reason = "", as_json: Json = False, set_: Set = None
) -> None:
    """End the safe state of an instrument; only a person may, and not the author of the champion.

    Example: `keel resume --instrument sim-usdm.BTCUSDT --name ada --reason "the drift is understood"`
    """
    _run("resume", as_json, set_, instrument=instrument, name=name or _ask("Who"), reason=reason or _ask("Why"))


@app.command()
def retrain(instrument: Instrument = DEFAULT_INSTRUMENT, as_json: Json = False, set_: Set = None) -> None:
    """Train, evaluate, export and register a challenger on newer data; one at a time.

    Example: `keel retrain --instrument sim-usdm.BTCUSDT`
    """
    _run("retrain", as_json, set_, instrument=instrument)


@app.command()
def compare(instrument: Instrument = DEFAULT_INSTRUMENT, as_json: Json = False, set_: Set = None) -> None:
    """Compare champion and challenger over switchback blocks with an always-valid sequential test.

    Example: `keel compare --instrument sim-usdm.BTCUSDT`
    """
    _run("compare", as_json, set_, instrument=instrument)


@app.command()
def withdraw(
    compare_id: Annotated[str, typer.Argument(help="The lost test, as keel compare names it.")],
    instrument: Instrument = DEFAULT_INSTRUMENT,
    as_json: Json = False,
    set_: Set = None,
) -> None:
    """Take a challenger that lost its test out of service; monitor_drift does so automatically.

    Example: `keel withdraw compare-9f86d081884c --instrument sim-usdm.BTCUSDT`
    """
    _run("withdraw", as_json, set_, instrument=instrument, compare_id=compare_id)


@app.command()
def dossier(
    instrument: Instrument = DEFAULT_INSTRUMENT,
    version: Annotated[int | None, typer.Option(help="Registry version; default: the challenger's.")] = None,
    as_json: Json = False,
    set_: Set = None,
) -> None:
    """Show the evidence for approving a version, as on Airflow's approval screen.

    Example: `keel dossier --version 2`
    """
    _run("dossier", as_json, set_, instrument=instrument, version=version)


@app.command()
def approve(
    version: Annotated[int, typer.Option(help="Registry version.")],
    instrument: Instrument = DEFAULT_INSTRUMENT,
    name: Annotated[str, typer.Option(envvar="APPROVE_AS", help="Who approves; prompted for when absent.")] = "",
    reason: Annotated[str, typer.Option(help="Why; prompted for when absent.")] = "",
    show: Annotated[bool, typer.Option("--show", help="Only show the evidence; record no decision.")] = False,
    as_json: Json = False,
    set_: Set = None,
) -> None:
    """Record a person's approval of a version: name and reason, never the author of the run.

    Example: `keel approve --version 2 --name ada --reason "better calibrated in the new regime"`
    """
    if show:
        _run("dossier", as_json, None, instrument=instrument, version=version)
        return
    name = name or _ask("Who approves")
    reason = reason or _ask("Why")
    _run("approve", as_json, set_, instrument=instrument, version=version, name=name, reason=reason)


def _ask(question: str) -> str:
    if not sys.stdin.isatty():
        raise SettingsError(f"{question}? There is no terminal to ask at; give it as an option (keel approve --help).")
    return str(typer.prompt(question))


@app.command()
def promote(
    version: Annotated[int, typer.Option(help="Registry version, already approved.")],
    instrument: Instrument = DEFAULT_INSTRUMENT,
    as_json: Json = False,
    set_: Set = None,
) -> None:
    """Make an approved version champion without a failed request; the previous one stays loaded.

    Example: `keel promote --version 2`
    """
    _run("promote", as_json, set_, instrument=instrument, version=version)


@app.command()
def rollback(instrument: Instrument = DEFAULT_INSTRUMENT, as_json: Json = False, set_: Set = None) -> None:
    """Return to the previous champion, which is still loaded.

    Example: `keel rollback --instrument sim-usdm.BTCUSDT`
    """
    _run("rollback", as_json, set_, instrument=instrument)


@app.command()
def trace(
    quote_id: Annotated[str, typer.Argument(help="A quote id from the quotes table or a report.")],
    as_json: Json = False,
    set_: Set = None,
) -> None:
    """Why was this quote made: quote, prediction, features, model, run, dataset, raw frames.

    Example: `keel trace q-live-20261121T080000-1a2b.1042`
    """
    given = settings.parse_assignments(set_ or ())
    result = stages.run("trace", workspace=settings.workspace(), quote_id=quote_id, **given)
    if as_json:
        print_result(result, True)
    else:
        typer.echo(result.text())


@app.command()
def report(as_json: Json = False, set_: Set = None) -> None:
    """Rewrite report.html and report.json of the last demo.

    Example: `keel report`
    """
    _run("report", as_json, set_)


@app.command()
def demo(
    capture: Annotated[list[Path] | None, typer.Option(help="Recordings to run the ring on.")] = None,
    as_json: Json = False,
    set_: Set = None,
) -> None:
    """Run the whole life of a model on this machine and end with a report.

    Example: `APPROVE_AS=ada keel demo`
    """
    from pipelines.demo import DemoConfig
    from pipelines.demo import demo as run_demo

    overrides: dict[str, Any] = settings.parse_assignments(set_ or ())
    if capture:
        overrides["captures"] = tuple(str(path) for path in capture)
    config = settings.stage_config("demo", DemoConfig, overrides)
    with Bars(quiet=as_json) as bars:
        result = run_demo(config, workspace=settings.workspace(progress=bars), tell=_teller(as_json, bars))
    print_result(result, as_json)


def _teller(as_json: bool, bars: Bars) -> Callable[[str], None]:
    return (lambda _line: None) if as_json else bars.tell


@app.command("settings")
def show_settings(as_json: Json = False) -> None:
    """Print the variables and the parameters in force.

    Example: `keel settings`
    """
    variables = {
        name: {"meaning": meaning, "value": settings.shown(name)} for name, meaning in settings.VARIABLES.items()
    }
    parameters = settings.parameters()
    if as_json:
        typer.echo(orjson.dumps({"variables": variables, "parameters": parameters}).decode())
        return
    for name, entry in variables.items():
        typer.echo(f"{name:18} {entry['value'] or '-':20} {entry['meaning']}")
    for section, values in parameters.items():
        typer.echo(f"{section:18} {values}")


def _fail(error: KeelError) -> NoReturn:
    if "--json" in sys.argv:
        typer.echo(orjson.dumps({"error": str(error), "kind": type(error).__name__}).decode())
    typer.echo(f"{type(error).__name__}: {error}", err=True)
    sys.exit(error.exit_code)


def main() -> None:
    """Entry point: stage errors become a sentence on stderr and an exit code."""
    try:
        app()
    except KeelError as error:
        _fail(error)
    except OSError as error:
        said = FolderError.of(error)
        if said is None:
            raise
        _fail(said)
    except SystemExit as ended:
        # Typer turns KeyboardInterrupt into this code without a message
        if ended.code == STOPPED:
            typer.echo(
                "stopped by Ctrl-C; what was committed stays, and running the same command again goes on from there",
                err=True,
            )
        raise


if __name__ == "__main__":
    main()
