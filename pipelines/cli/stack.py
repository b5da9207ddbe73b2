"""The local stack: ``keel up``, ``down``, ``status``; ``keel simulate`` and ``keel triton`` run one server of it."""

from __future__ import annotations

from typing import Annotated

import typer

from market.errors import ServiceError
from pipelines import settings
from pipelines.cli.output import Json, print_result

stack_app = typer.Typer()


@stack_app.command()
def up(
    first_port: Annotated[int | None, typer.Option(help="First port; the servers take the ports from here on.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="A server to leave out; repeatable.")] = None,
    pace: Annotated[
        float | None, typer.Option(help="Pace of the quoter's exchange, as a multiple of real time.")
    ] = None,
    env: Annotated[
        bool, typer.Option("--env", help="Print only the shell lines that point the pipeline at the stack.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start the local stack: real servers on loopback, each started in order and health-checked.

    Example: `keel up` and then `eval "$(keel up --env)"`
    """
    from pipelines.stack import environment, site
    from pipelines.stack.up import UpConfig
    from pipelines.stack.up import up as bring_up

    given = {"first_port": first_port, "without": tuple(without) if without else None, "pace": pace}
    config = settings.stage_config("up", UpConfig, {k: v for k, v in given.items() if v is not None})
    workspace = settings.workspace()
    result = bring_up(config, workspace=workspace, tell=lambda line: typer.echo(line, err=True))
    if env:
        there = site.find(workspace.stack)
        typer.echo(environment.export_lines(there) if there else "", nl=False)
    else:
        print_result(result, as_json)


@stack_app.command()
def down(as_json: Json = False) -> None:
    """Stop the local stack; its data stays.

    Example: `keel down`
    """
    from pipelines.stack.down import DownConfig
    from pipelines.stack.down import down as bring_down

    config = settings.stage_config("down", DownConfig)
    print_result(
        bring_down(config, workspace=settings.workspace(), tell=lambda line: typer.echo(line, err=True)), as_json
    )


@stack_app.command()
def status(as_json: Json = False) -> None:
    """Show what is up, which model serves which instrument, last data, last drift and open approvals: one screen.

    Exits with 6 when a server of a started stack does not respond.

    Example: `keel status --json`
    """
    from pipelines.stack.status import StatusConfig
    from pipelines.stack.status import status as look

    result = look(settings.stage_config("status", StatusConfig), workspace=settings.workspace())
    print_result(result, as_json)
    if not result.well:
        raise typer.Exit(ServiceError.exit_code)


@stack_app.command()
def simulate(
    port: Annotated[int, typer.Option(help="Loopback port; 0 takes a free one.")] = 0,
    seed: Annotated[int, typer.Option(help="Same seed, same market.")] = 7,
    regime: Annotated[str, typer.Option(help="calm, volatile or thin.")] = "calm",
) -> None:
    """Run the simulated exchange in the foreground until Ctrl-C.

    Example: `keel simulate --port 9443 --seed 7`
    """
    from pipelines.stack.exchange import SimulateConfig
    from pipelines.stack.exchange import simulate as run_exchange

    run_exchange(SimulateConfig(port=port, seed=seed, regime=regime), announce=typer.echo)


@stack_app.command()
def triton(
    grpc_port: Annotated[int, typer.Option(help="0 takes a free one, here and below.")] = 0,
    http_port: Annotated[int, typer.Option()] = 0,
    metrics_port: Annotated[int, typer.Option()] = 0,
) -> None:
    """Run Triton with every version in service until Ctrl-C.

    Example: `keel triton`
    """
    from pipelines.deployment.inference_server import TritonPorts, hold_server

    ports = TritonPorts(grpc=grpc_port, http=http_port, metrics=metrics_port)
    hold_server(settings.workspace(), announce=typer.echo, ports=ports)
