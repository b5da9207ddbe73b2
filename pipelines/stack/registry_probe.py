"""The registry's champions, read without MLflow's library: its import takes longer than all the rest of ``status``."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import httpx

from market.errors import ServiceError
from pipelines.links import without_login
from pipelines.stack.server import PROBE_SECONDS, spoken
from pipelines.stack.site import Site
from pipelines.workspace import Workspace
from training.registry.registry import CHAMPION

_QUERY = "select name, version from registered_model_aliases where alias = ?"


def champions(ring: Workspace, site: Site | None, models: Iterable[str]) -> dict[str, int | None]:
    """Version of the alias "champion" by model; None where a model has none.

    Raises:
        ServiceError: the registry is away, says no, or is of a kind that only MLflow's library reads.
    """
    uri = ring.tracking_uri or (site.url("mlflow") if site and site.has("mlflow") else ring.tracking)
    wanted = tuple(models)
    if uri.startswith("sqlite:///"):
        return _of_file(Path(uri.removeprefix("sqlite:///")), wanted)
    if not uri.startswith(("http://", "https://")):
        raise ServiceError(f"the champions in {without_login(uri)}: ask keel audit verify")
    login = (os.environ.get("MLFLOW_TRACKING_USERNAME", ""), os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
    if not ring.tracking_uri and site is not None:
        login = ("keel", site.passwords["mlflow-keel"])
    return {model: _of_server(uri.rstrip("/"), login, model) for model in wanted}


def _of_file(path: Path, models: tuple[str, ...]) -> dict[str, int | None]:
    found: dict[str, int] = {}
    if path.is_file():
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as store:
                found = {name: int(version) for name, version in store.execute(_QUERY, (CHAMPION,))}
        except sqlite3.Error as error:
            raise ServiceError(f"the registry in {path} cannot be read ({error}); see keel audit verify") from None
    return {model: found.get(model) for model in models}


def _of_server(uri: str, login: tuple[str, str], model: str) -> int | None:
    url = f"{uri}/api/2.0/mlflow/registered-models/get"
    with spoken(without_login(url), httpx.HTTPError):
        answer = httpx.get(
            url, params={"name": model}, auth=login if all(login) else None, timeout=PROBE_SECONDS, trust_env=False
        )
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    if not answer.is_success:
        raise ServiceError(f"{without_login(url)} answered {answer.status_code}: {answer.text[:200]}")
    aliases = answer.json()["registered_model"].get("aliases", [])
    return next((int(each["version"]) for each in aliases if each["alias"] == CHAMPION), None)
