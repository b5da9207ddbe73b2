"""MLflow: experiments, runs and the model registry, behind names and passwords.

Three accounts: ``admin``; ``keel``, with which the pipeline works (it may change what it made); ``quant``, who reads.
"""

from __future__ import annotations

import functools
import sys

import httpx

from market.errors import ServiceError
from pipelines.stack.server import PROBE_SECONDS, Server, certificates, get, spoken
from pipelines.stack.site import CHECKOUT, HOST, Site

_ACCOUNTS = ("keel", "quant")


def mlflow(site: Site) -> Server:
    """The tracking server; artifacts lie under ``data/mlflow`` and go through it."""
    words = ["--host", HOST, "--port", str(site.port("mlflow")), "--workers", "1", "--app-name", "basic-auth"]
    return Server(
        name="mlflow",
        what="runs and model registry",
        command=(sys.executable, "-m", "mlflow", "server", *words),
        ports=("mlflow",),
        needs=("postgresql",),
        environment={
            # in the environment and not on the command line, which everybody on the machine can read
            "MLFLOW_BACKEND_STORE_URI": site.database("mlflow"),
            "MLFLOW_ARTIFACTS_DESTINATION": (site.data("mlflow") / "artifacts").as_uri(),
            "MLFLOW_AUTH_CONFIG_PATH": str(site.conf / "mlflow_auth.ini"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": site.passwords["mlflow-cookies"],
            # else workers for jobs nobody starts here outlive the server
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(CHECKOUT),
        },
        prepare=functools.partial(_prepare, site),
        probe=functools.partial(_probe, site),
        settle=functools.partial(_settle, site),
        page=site.url("mlflow"),
        stop_seconds=5,  # it waits for its clients to go; what it has answered is in PostgreSQL
    )


def _prepare(site: Site) -> None:
    site.render("local/mlflow_auth.ini.j2")


def _probe(site: Site) -> None:
    """The registry answers whoever has a password, and nobody else."""
    url = f"{site.url('mlflow')}/api/2.0/mlflow/registered-models/search"
    get(url, auth=("admin", site.passwords["mlflow-admin"]))
    with spoken(url, httpx.HTTPError):
        stranger = httpx.get(url, timeout=PROBE_SECONDS, trust_env=False, verify=certificates())
    if stranger.status_code != httpx.codes.UNAUTHORIZED:
        raise ServiceError(f"{url} answered a stranger with {stranger.status_code}, expected 401")


def _settle(site: Site) -> None:
    """The accounts that are not there yet."""
    users = f"{site.url('mlflow')}/api/2.0/mlflow/users"
    with (
        spoken(users, httpx.HTTPError),
        httpx.Client(
            auth=("admin", site.passwords["mlflow-admin"]), timeout=2 * PROBE_SECONDS, trust_env=False
        ) as client,
    ):
        for name in _ACCOUNTS:
            if client.get(f"{users}/get", params={"username": name}).status_code == httpx.codes.OK:
                continue
            account = {"username": name, "password": site.passwords[f"mlflow-{name}"]}
            client.post(f"{users}/create", json=account).raise_for_status()
