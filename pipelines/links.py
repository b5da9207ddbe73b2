"""Addresses of pages about a model or a run, for mails and approval screens; nothing is asked of any server."""

from __future__ import annotations

from urllib.parse import quote

from pipelines.workspace import Workspace
from training.registry.registry import model_name


def mlflow(workspace: Workspace) -> str:
    """MLflow's pages, without a login in the address; empty where MLflow is a file."""
    found = without_login(workspace.tracking).rstrip("/")
    return found if found.startswith(("http://", "https://")) else ""


def version_page(workspace: Workspace, instrument: str, version: int) -> str:
    """A registered version in MLflow, from where one click leads to its run; empty without pages."""
    pages = mlflow(workspace)
    return f"{pages}/#/models/{quote(model_name(instrument), safe='')}/versions/{version}" if pages else ""


def run_page(workspace: Workspace, experiment: str, run_id: str, artifact: str = "") -> str:
    """A run in MLflow, or one of its artifacts; empty without pages."""
    pages = mlflow(workspace)
    shown = f"/artifacts/{quote(artifact)}" if artifact else ""
    return f"{pages}/#/experiments/{experiment}/runs/{run_id}{shown}" if pages else ""


def without_login(uri: str) -> str:
    """A mail or a page is read by more people than may know a password."""
    scheme, separator, rest = uri.partition("://")
    login, at, place = rest.partition("@")
    return f"{scheme}{separator}{place}" if at and "/" not in login else uri
