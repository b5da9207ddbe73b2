"""``keel data``: datasets to and from a DVC remote."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines import settings
from pipelines.cli.output import Json, print_result

data_app = typer.Typer(
    no_args_is_help=True, help="Datasets on this machine and on the remote that KEEL_DATA_REMOTE names."
)


@data_app.command("ls")
def ls(as_json: Json = False) -> None:
    """List the datasets of this machine and of the remote: id, DVC revision, rows, instrument, where.

    Example: `keel data ls`
    """
    from pipelines.features import dataset_remote

    print_result(dataset_remote.listed(workspace=settings.workspace()), as_json)


@data_app.command("put")
def put(
    dataset: Annotated[str, typer.Argument(help="Dataset id, or a unique prefix of it.")],
    pointer: Annotated[str, typer.Option(help="A .dvc file to write, for Git.")] = "",
    as_json: Json = False,
) -> None:
    """Push a dataset to the remote; what is already there is not sent again.

    Example: `keel data put 3f2a91c0 --pointer btc.dvc`
    """
    from pipelines.features import dataset_remote

    config = dataset_remote.PutConfig(dataset=dataset, pointer=pointer)
    print_result(dataset_remote.put(config, workspace=settings.workspace()), as_json)


@data_app.command("get")
def get(
    revision: Annotated[
        str,
        typer.Argument(help="Dataset id, DVC revision, INSTRUMENT@VERSION of a model; with --pointer a Git revision."),
    ],
    pointer: Annotated[str, typer.Option(help="The .dvc file in Git that REVISION refers to.")] = "",
    as_json: Json = False,
) -> None:
    """Restore a dataset from the remote byte for byte, or report what is missing or damaged and leave nothing.

    For a model: `keel data get sim-usdm.BTCUSDT@3`. For a release: `keel data get v1.2 --pointer btc.dvc`.

    Example: `keel data get 3f2a91c0`
    """
    from pipelines.features import dataset_remote

    config = dataset_remote.GetConfig(revision=revision, pointer=pointer)
    print_result(dataset_remote.get(config, workspace=settings.workspace()), as_json)
