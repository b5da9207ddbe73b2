"""``keel audit``: the append-only record."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines import settings
from pipelines.cli.output import Json, print_result

audit_app = typer.Typer(no_args_is_help=True, help="The append-only record of decisions and actions.")


@audit_app.command("ls")
def audit_ls(
    last: Annotated[int, typer.Option(help="Only this many of the latest entries; 0: all.")] = 0, as_json: Json = False
) -> None:
    """List decisions and actions: who, when, why.

    Example: `keel audit ls --last 20`
    """
    from pipelines.governance.audit import ls

    print_result(ls(settings.workspace(), last=last), as_json)


@audit_app.command("verify")
def audit_verify(as_json: Json = False) -> None:
    """Check the hash chain of the record, and that the registry's decisions and champions are those of the record.

    Example: `keel audit verify`
    """
    from pipelines.governance.audit import verify_workspace

    print_result(verify_workspace(settings.workspace()), as_json)
