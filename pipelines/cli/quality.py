"""``keel thresholds`` and ``keel quarantine``: the limits of the quality gate, and what it quarantines."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipelines import settings
from pipelines.cli.output import Json, print_result

thresholds_app = typer.Typer(no_args_is_help=True, help="An instrument's limits in the quality gate.")
quarantine_app = typer.Typer(no_args_is_help=True, help="What the quality gate has quarantined.")

Key = Annotated[str, typer.Option("--instrument", help="Instrument key, venue.SYMBOL.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other parameter.")]
Name = Annotated[str, typer.Option(help="Who decides.")]
Reason = Annotated[str, typer.Option(help="Why.")]


@thresholds_app.command("show")
def show(instrument: Key, as_json: Json = False) -> None:
    """Print the limits in force, where they come from, and the proposed ones alongside.

    Example: `keel thresholds show --instrument binance-usdm.BTCUSDT`
    """
    from pipelines.quality import thresholds

    config = thresholds.ShowConfig(instrument=instrument)
    print_result(thresholds.show(config, workspace=settings.workspace()), as_json)


@thresholds_app.command("learn")
def learn(instrument: Key, as_json: Json = False, set_: Set = None) -> None:
    """Propose limits from the minutes that passed so far; they take effect once a person has accepted them.

    Example: `keel thresholds learn --instrument binance-usdm.BTCUSDT --set at_least=60`
    """
    from pipelines.quality import thresholds

    given: dict[str, Any] = {"instrument": instrument, **settings.parse_assignments(set_ or ())}
    config = settings.stage_config("thresholds", thresholds.LearnConfig, given)
    print_result(thresholds.learn(config, workspace=settings.workspace()), as_json)


@thresholds_app.command("review")
def review(
    instrument: Key,
    name: Name,
    reason: Reason,
    reject: Annotated[bool, typer.Option("--reject", help="Reject the proposal.")] = False,
    as_json: Json = False,
) -> None:
    """Accept the proposed limits, or reject them; the decision goes on the audit record.

    Example: `keel thresholds review --instrument binance-usdm.BTCUSDT --name ada --reason "a usual week"`
    """
    from pipelines.quality import thresholds

    config = thresholds.ReviewConfig(
        instrument=instrument, name=name, reason=reason, decision="reject" if reject else "accept"
    )
    print_result(thresholds.review(config, workspace=settings.workspace()), as_json)


@quarantine_app.command("ls")
def ls(
    instrument: Annotated[str, typer.Option(help="Instrument key, venue.SYMBOL; default: all.")] = "",
    as_json: Json = False,
) -> None:
    """List the quarantined minutes with the limits that they violate.

    Example: `keel quarantine ls`
    """
    from pipelines.quality import quarantine

    config = quarantine.HeldConfig(instrument=instrument)
    print_result(quarantine.held(config, workspace=settings.workspace()), as_json)


@quarantine_app.command("release")
def release(
    batch: Annotated[str, typer.Argument(help="SOURCE/NUMBER, as `keel quarantine ls` prints it.")],
    name: Name,
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Release a minute from quarantine; the decision goes on the audit record.

    Example: `keel quarantine release file-0123456789abcdef/28333333 --name ada --reason "a real move"`
    """
    from pipelines.quality import quarantine

    config = quarantine.ReleaseConfig(batch=batch, name=name, reason=reason)
    print_result(quarantine.release(config, workspace=settings.workspace()), as_json)
