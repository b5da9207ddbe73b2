"""The only access to MLflow: quiet, without telemetry, and with its errors raised as ours.

Importing MLflow takes seconds, so it is imported when a client is first asked for.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from market.errors import FolderError, ServiceError

_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's own default retries a dead server for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}
_FULL = ("disk is full", "no space left", "file too large")  # SQLite's words, and the kernel's
_CHATTY = ("mlflow.utils.environment", "mlflow.tracking.fluent", "alembic")
_TWICE = "mlflow.store.db.utils"  # logs the trace of an error of the database, which it then raises


def mlflow() -> Any:
    """The MLflow module, set up so that it neither sends telemetry nor draws progress bars."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow as module

    _load_header_providers()
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger(_TWICE).setLevel(logging.CRITICAL)
    return module


@cache
def _load_header_providers() -> None:
    """Load what adds headers to MLflow's requests, all but Feast's.

    MLflow loads every provider that is installed at a process's first request. Feast's imports the whole of Feast
    (seven seconds and 530 MB, torch with it), and would send the token of the pod that it runs in to the tracking
    server.
    """
    from mlflow.utils import plugins

    installed = plugins.get_entry_points

    def others(group: str) -> list[EntryPoint]:
        return [each for each in installed(group) if not each.value.startswith("feast.")]

    plugins.get_entry_points = others  # MLflow has no setting for it; the registry asks once, at its import
    try:
        import_module("mlflow.tracking.request_header.registry")
    finally:
        plugins.get_entry_points = installed


def client(tracking_uri: str) -> Any:
    """A client of tracking server and registry at ``tracking_uri``.

    Raises:
        ServiceError: the store behind the URI cannot be opened.
    """
    module = mlflow()
    if tracking_uri.startswith("sqlite:///"):
        Path(tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with spoken("open the tracking store", tracking_uri):
        return module.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


@contextmanager
def pointed_at(tracking_uri: str) -> Iterator[Any]:
    """The MLflow module with its process-wide address set: some calls use it, regardless of the client's."""
    module = mlflow()
    before = module.get_tracking_uri()
    module.set_tracking_uri(tracking_uri)
    try:
        yield module
    finally:
        module.set_tracking_uri(before)


def experiment(mlflow_client: Any, name: str, artifacts: Path) -> str:
    """Id of the experiment, made when it is not there.

    The embedded store keeps artifacts under ``artifacts``; a server decides for itself where they lie.
    """
    where = mlflow_client.tracking_uri
    with spoken(f"open experiment {name}", where):
        found = mlflow_client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = None if where.startswith(("http://", "https://")) else artifacts.absolute().as_uri()
        return str(mlflow_client.create_experiment(name, artifact_location=location))


def log_folder(mlflow_client: Any, run_id: str, folder: Path, place: str) -> None:
    """Add the files of ``folder`` to the run's artifacts, under ``place``; files already there are replaced.

    Raises:
        ServiceError: the server is unreachable, or there is no such run.
    """
    where = mlflow_client.tracking_uri
    with spoken(f"keep {place} of run {run_id}", where):
        try:
            mlflow_client.log_artifacts(run_id, str(folder), place)
        except OSError as error:  # an artifact store's errors do not arrive as MLflow errors
            raise ServiceError(f"the artifact store of MLflow at {where} did not take {place}: {error}") from error


def page(mlflow_client: Any, run_id: str, place: str = "") -> str:
    """Web page of a run, or of ``place`` among its artifacts; empty if the store has no web pages.

    A login in the server's address is left out: more people read a page's address than may know a password.

    Raises:
        ServiceError: the server is unreachable, or there is no such run.
    """
    where = mlflow_client.tracking_uri
    with spoken(f"find run {run_id}", where):
        experiment_id = mlflow_client.get_run(run_id).info.experiment_id
    if not where.startswith(("http://", "https://")):
        return ""
    parts = urlsplit(where)
    server = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    address = f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"{address}/artifacts/{place}" if place else address


@contextmanager
def spoken(what: str, where: str) -> Iterator[None]:
    """Raise an error of MLflow as a :class:`ServiceError` that names the store and the failed operation.

    Where it means that the disk is full, it is a :class:`FolderError`.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if any(sign in str(error).lower() for sign in _FULL):
            raise FolderError.full(f"MLflow's store {where}, or what it was to {what},") from error
        raise ServiceError(
            f"MLflow at {where} could not {what}: {error}. Is KEEL_TRACKING_URI right and the server up?"
        ) from error


def is_absent(error: Exception) -> bool:
    """Whether MLflow means "there is no such thing" (it has two codes for it)."""
    code = getattr(error, "error_code", "")
    return code == "RESOURCE_DOES_NOT_EXIST" or (code == "INVALID_PARAMETER_VALUE" and "not found" in str(error))
