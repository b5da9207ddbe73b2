"""The variables with which the pipeline works on a stack instead of on files: the only difference between the two."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from pipelines import settings
from pipelines.stack.site import HOST, Site, write_private
from pipelines.workspace import MailServer

APPROVER = "quant"  # an account of pipelines.stack.servers.airflow


def variables(site: Site) -> Mapping[str, str]:
    """What a shell, or a task of Airflow, sets. A server that was left out is not named: its embedded form is used.

    Mail is the exception: a stack without the server that keeps mails uses the one that our own environment names.
    """
    up = site.has
    found = {"KEEL_HOME": str(site.home), "KEEL_STACK": str(site.folder)}
    if os.environ.get("KEEL_INSTRUMENT"):
        found["KEEL_INSTRUMENT"] = os.environ["KEEL_INSTRUMENT"]
    if site.params.is_file():
        found["KEEL_PARAMS"] = str(site.params)
    if up("mlflow"):
        found |= {
            "KEEL_TRACKING_URI": site.url("mlflow"),
            "MLFLOW_TRACKING_USERNAME": "keel",
            "MLFLOW_TRACKING_PASSWORD": site.passwords["mlflow-keel"],
        }
    if up("postgresql") and up("redis"):
        found |= {
            "KEEL_FEAST_REGISTRY": site.database("feast"),
            "KEEL_FEAST_ONLINE": f"{site.address('redis')},password={site.passwords['redis']}",
        }
    if up("mail"):
        found["KEEL_MAIL"] = f"{HOST}:{site.port('mail')}"
    else:
        found |= _mail_variables()
    if up("kafka"):
        found["KEEL_KAFKA_SERVERS"] = str(site.address("kafka"))
    if up("airflow-api"):
        # the one account of a person who judges models; in a terminal it is the name to give
        found |= {"KEEL_AIRFLOW_URL": site.url("airflow"), "KEEL_APPROVERS": APPROVER}
    if up("triton"):
        found["KEEL_TRITON_GRPC"] = str(site.address("triton-grpc"))
    return found


def mail_server(site: Site) -> MailServer | None:
    """Who takes the mails of Airflow and Alertmanager.

    Raises:
        SettingsError: the one that our environment names cannot work.
    """
    return MailServer(host=HOST, port=site.port("mail")) if site.has("mail") else settings.mail_server()


def _mail_variables() -> dict[str, str]:
    names = ("KEEL_MAIL", *(name for name in settings.VARIABLES if name.startswith("KEEL_SMTP_")))
    given = {name: value for name in names if (value := os.environ.get(name))}
    # servers of the stack work in a folder of their own
    return {name: str(Path(value).absolute()) if name.endswith("_FILE") else value for name, value in given.items()}


def write_environment(site: Site) -> None:
    """``stack.env``: for ``set -a; . stack.env``, for ``eval`` and for containers."""
    write_private(site.folder / Site.ENVIRONMENT_FILE, export_lines(site))


def export_lines(site: Site) -> str:
    """Shell lines, passwords included: for ``eval`` only, never for a screen."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables(site).items())
