"""Airflow on PostgreSQL: API server, scheduler (with the LocalExecutor), DAG processor and triggerer.

Three accounts: ``admin``; ``engineer`` (role op: runs and configures); ``quant`` (role viewer: sees everything and
answers what a DAG asks of a person, but cannot mark a task as done by hand).
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from market.errors import ServiceError
from pipelines.stack.environment import mail_server, variables
from pipelines.stack.server import PROBE_SECONDS, Server, get, spoken
from pipelines.stack.servers.postgresql import query
from pipelines.stack.site import CHECKOUT, HOST, Site, write_private
from pipelines.workspace import MailServer

_ROLES = {"admin": "admin", "engineer": "op", "quant": "viewer"}
SCHEDULE_OWNER = "engineer"  # answers for what a schedule or a drift starts, unless KEEL_SCHEDULE_OWNER names another
_PARTS = ("api", "scheduler", "dags", "triggerer")
_MIGRATE_SECONDS = 180.0
_ANEW = (sys.executable, "-m", "pipelines.stack.restart")


def airflow(site: Site) -> tuple[Server, ...]:
    """The four processes; the first one prepares the database, the others wait for it."""
    api = ("api-server", "--host", HOST, "--port", str(site.port("airflow")), "--workers", "1")
    others = {
        "scheduler": (("scheduler", "--skip-serve-logs"), "scheduler", "starts what is due; runs 2 tasks at a time"),
        "dags": (("dag-processor",), "dag_processor", "reads the files in dags/"),
        "triggerer": (("triggerer", "--skip-serve-logs"), "triggerer", "waits for tasks that wait"),
    }
    environment = _environment(site)
    first = Server(
        name="airflow-api",
        what="Airflow: pages and API",
        command=(sys.executable, "-m", "airflow", *api),
        ports=("airflow",),
        needs=("postgresql",),
        environment=environment,
        prepare=functools.partial(_prepare, site),
        probe=functools.partial(_probe, site, "metadatabase", "airflow-api"),
        settle=functools.partial(_settle, site),
        page=site.url("airflow"),
        stop_seconds=5,  # it waits for its clients to go; what it has answered is in PostgreSQL
    )
    rest = [
        Server(
            name=f"airflow-{name}",
            what=what,
            command=(*_ANEW, sys.executable, "-m", "airflow", *words),
            # the migration runs before the API server starts; these start once it has answered
            needs=("airflow-api",),
            environment=environment,
            probe=functools.partial(_probe, site, part, f"airflow-{name}"),
        )
        for name, (words, part, what) in others.items()
    ]
    return (first, *rest)


def open_questions(site: Site) -> list[dict[str, Any]]:
    """What DAGs are asking a person now: ``dag_id``, ``task_id``, ``subject``, ``asked_at``.

    Raises:
        ServiceError: Airflow does not answer.
    """
    url = f"{site.url('airflow')}/api/v2/dags/~/dagRuns/~/hitlDetails"
    headers = {"Authorization": f"Bearer {token(site, 'quant')}"}
    found = get(url, params={"response_received": "false"}, headers=headers).json()["hitl_details"]
    return [
        {
            "dag_id": each["task_instance"]["dag_id"],
            "task_id": each["task_instance"]["task_id"],
            "subject": each["subject"],
            "asked_at": each["created_at"],
        }
        for each in found
    ]


def token(site: Site, account: str) -> str:
    """A token of the API for one account.

    Raises:
        ServiceError: Airflow does not answer, or knows no such account.
    """
    import httpx

    url = f"{site.url('airflow')}/auth/token"
    account_and_password = {"username": account, "password": site.passwords[f"airflow-{account}"]}
    with spoken(url, httpx.HTTPError):
        answer = httpx.post(url, json=account_and_password, timeout=PROBE_SECONDS, trust_env=False)
    if not answer.is_success:
        raise ServiceError(f"{url} gave {account} no token: {answer.status_code} {answer.text[:200]}")
    return str(answer.json()["access_token"])


def _environment(site: Site) -> Mapping[str, str]:
    settings = {
        "CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "2",
        "CORE__MAX_ACTIVE_TASKS_PER_DAG": "2",
        # the life of a model goes on by itself from the first start: nobody has to switch each DAG on
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__AUTH_MANAGER": "pipelines.stack.accounts.DeskAuthManager",
        "CORE__FERNET_KEY": site.passwords["airflow-fernet"],
        "CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in _ROLES.items()),
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(site.conf / "airflow_passwords.json"),
        "CORE__EXECUTION_API_SERVER_URL": f"{site.url('airflow')}/execution/",
        "DATABASE__SQL_ALCHEMY_CONN": site.database("airflow"),
        "DATABASE__SQL_ALCHEMY_POOL_SIZE": "3",
        "API__BASE_URL": site.url("airflow"),
        "API__HOST": HOST,
        "API__PORT": str(site.port("airflow")),
        "API__SECRET_KEY": site.passwords["airflow-cookies"],
        "API_AUTH__JWT_SECRET": site.passwords["airflow-tokens"],
        "DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "60",
        # tasks of a scheduler that was killed are run again by the next one, once it has been silent for half a minute
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
        "LOGGING__BASE_LOG_FOLDER": str(site.logs / "airflow-tasks"),
        "LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(site.logs / "airflow-dags"),
        "USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    found = {f"AIRFLOW__{name}": value for name, value in settings.items()}
    if server := mail_server(site):
        found["AIRFLOW_CONN_SMTP_DEFAULT"] = _smtp_connection(server)
    return {
        **variables(site),
        **found,
        "AIRFLOW_HOME": str(site.data("airflow-api")),
        # a person who starts a run is its author; what starts by itself has an owner, who may not approve it
        "KEEL_SCHEDULE_OWNER": os.environ.get("KEEL_SCHEDULE_OWNER") or SCHEDULE_OWNER,
        "PYTHONPATH": str(CHECKOUT),
    }


def _smtp_connection(server: MailServer) -> str:
    """For DAGs of a desk's own that mail through Airflow; its hook checks certificates by the system's authorities."""
    sign_in = (
        f"{quote(server.user, safe='')}:{quote(server.password.get_secret_value(), safe='')}@" if server.user else ""
    )
    protection = server.protection
    off = {"disable_ssl": protection != "tls", "disable_tls": protection != "starttls"}  # it takes any word for true
    extra = {name: "true" for name, value in off.items() if value}
    extra["from_email"] = server.sender or "airflow@desk.example"
    return f"smtp://{sign_in}{server}/?{urlencode(extra)}"


def _prepare(site: Site) -> None:
    """Accounts and tables. Migrating takes ten seconds, so it is left out where this version has done it."""
    accounts = {name: site.passwords[f"airflow-{name}"] for name in _ROLES}
    write_private(site.conf / "airflow_passwords.json", json.dumps(accounts))
    stamp = site.data("airflow-api") / "migrated"
    version = _version()
    if stamp.is_file() and stamp.read_text() == version and _has_tables(site):
        return
    stamp.unlink(missing_ok=True)
    log = site.log("airflow-migrate")
    with log.open("ab") as sink:
        done = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env={**_own_environment(), **_environment(site)},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            check=False,
            timeout=_MIGRATE_SECONDS,
        )
    if done.returncode:
        raise ServiceError(f"'airflow db migrate' failed with {done.returncode}; see {log}")
    stamp.write_text(version)


def _settle(site: Site) -> None:
    """The pools that tasks name, with the slots that this checkout gives them."""
    import httpx

    pools = json.loads((CHECKOUT / "infra" / "airflow" / "pools.json").read_text())
    url = f"{site.url('airflow')}/api/v2/pools"
    headers = {"Authorization": f"Bearer {token(site, 'admin')}"}
    with spoken(url, httpx.HTTPError), httpx.Client(headers=headers, timeout=PROBE_SECONDS, trust_env=False) as api:
        for name, pool in pools.items():
            body = {"name": name, **pool}
            if api.post(url, json=body).status_code == httpx.codes.CONFLICT:
                api.patch(f"{url}/{name}", json=body).raise_for_status()


def _own_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("HOME", "LANG", "PATH", "TMPDIR") if name in os.environ}


def _version() -> str:
    from importlib.metadata import version

    return version("apache-airflow")


def _has_tables(site: Site) -> bool:
    rows = query(site, "airflow", "SELECT to_regclass('alembic_version')", account="postgresql-airflow")
    return rows[0][0] is not None


def _probe(site: Site, part: str, server: str) -> None:
    """The part's own word in Airflow's health report, said since the process was started."""
    report = get(f"{site.url('airflow')}/api/v2/monitor/health").json().get(part) or {}
    if report.get("status") != "healthy":
        raise ServiceError(f"Airflow says its {part} is {report.get('status') or 'not there'}")
    beats = [value for name, value in report.items() if name.startswith("latest_")]
    started = _started(site, server)
    if beats and (beats[0] is None or datetime.fromisoformat(beats[0]).timestamp() < started):
        raise ServiceError(f"Airflow has heard nothing of its {part} since it was started")


def _started(site: Site, server: str) -> float:
    from pipelines.stack.supervisor import Supervisor

    state = Supervisor(site).states().get(server)
    return state.started if state else 0.0
