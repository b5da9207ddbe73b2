"""PostgreSQL: one private cluster that holds the metadata of Airflow, MLflow's backend and Feast's registry."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any

from market.errors import ServiceError
from pipelines.stack.server import PROBE_SECONDS, Server, spoken
from pipelines.stack.site import HOST, Site, write_private

ACCOUNT = "postgres"  # PostgreSQL refuses to run as root; Debian's package brings this account
# database -> its owner
DATABASES = {"airflow": "airflow", "mlflow": "mlflow", "mlflow_auth": "mlflow", "feast": "feast"}


def postgresql(site: Site) -> Server:
    """The cluster under ``data/postgresql``; only TCP on loopback, only with passwords."""
    settings = {
        "listen_addresses": HOST,
        "port": site.port("postgresql"),
        "unix_socket_directories": "",
        "max_connections": 100,
        "shared_buffers": "64MB",
        "log_line_prefix": "%m [%p] %u@%d ",
        "log_checkpoints": "off",
    }
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return Server(
        name="postgresql",
        what="databases of Airflow, MLflow and Feast",
        command=(_binary("postgres"), "-D", str(site.data("postgresql")), *words),
        ports=("postgresql",),
        prepare=functools.partial(_prepare, site),
        probe=functools.partial(_probe, site),
        settle=functools.partial(_settle, site),
        account=ACCOUNT if os.geteuid() == 0 else "",
        stop_signal="INT",  # the fast shutdown: clients are sent away, everything is written
        stop_seconds=30,
    )


def _binary(name: str) -> str:
    """On the path, or where Debian keeps it (the newest); the bare name where it is missing."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[-3]))
    return shutil.which(name) or (str(installed[-1]) if installed else name)


def _prepare(site: Site) -> None:
    data = site.data("postgresql")
    if (data / "PG_VERSION").exists():
        _forget_dead_owner(data)
        return
    who = _ids()
    _require_way(data.parent, *who)
    shutil.rmtree(data, ignore_errors=True)  # an initdb that was cut off
    data.mkdir(mode=0o700)
    password = data.parent / "postgresql.first"
    write_private(password, site.passwords["postgresql"])
    for path in (data, password):
        os.chown(path, *who)
    words = ["-D", str(data), "-U", ACCOUNT, "--auth=scram-sha-256", f"--pwfile={password}", "-E", "UTF8"]
    try:
        done = subprocess.run(
            [_binary("initdb"), *words, "--locale=C.UTF-8"],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=who[0],
            group=who[1],
            extra_groups=None if os.geteuid() else [],
        )
    finally:
        password.unlink()
    if done.returncode:
        shutil.rmtree(data)
        raise ServiceError(f"initdb could not make the cluster in {data}: {' '.join(done.stderr.split())[-400:]}")


def _ids() -> tuple[int, int]:
    """User and group the cluster belongs to."""
    if os.geteuid():
        return os.getuid(), os.getgid()
    entry = pwd.getpwnam(ACCOUNT)
    return entry.pw_uid, entry.pw_gid


def _require_way(folder: Path, user: int, group: int) -> None:
    """The account must be let through every folder above its data."""
    done = subprocess.run(
        ["test", "-x", str(folder)],
        check=False,
        cwd="/",
        user=user,
        group=group,
        extra_groups=None if os.geteuid() else [],
    )
    if done.returncode:
        raise ServiceError(
            f"PostgreSQL may not run as root, and the account {ACCOUNT} cannot get to {folder}: let it through the "
            "folders above (chmod o+x), or put the stack elsewhere with KEEL_STACK=FOLDER"
        )


def _forget_dead_owner(data: Path) -> None:
    """After a kill -9 the lock file names a process id that another program may have now: PostgreSQL would refuse."""
    import psutil

    lock = data / "postmaster.pid"
    try:
        owner = psutil.Process(int(lock.read_text().split()[0]))
        if owner.name() != "postgres":
            lock.unlink()
    except FileNotFoundError:
        return
    except psutil.NoSuchProcess:
        lock.unlink()


def _connect(site: Site, database: str = "postgres", account: str = "postgresql") -> Any:
    import psycopg2

    where = f"PostgreSQL at {site.address('postgresql')}"
    user = ACCOUNT if account == "postgresql" else account.removeprefix("postgresql-")
    with spoken(where, psycopg2.OperationalError):
        connection = psycopg2.connect(
            host=HOST,
            port=site.port("postgresql"),
            dbname=database,
            user=user,
            password=site.passwords[account],
            connect_timeout=int(PROBE_SECONDS),
        )
    connection.autocommit = True
    return connection


def _probe(site: Site) -> None:
    query(site, "postgres", "SELECT 1", account="postgresql")


def query(site: Site, database: str, statement: str, *, account: str) -> list[tuple[Any, ...]]:
    """Rows of one statement.

    Raises:
        ServiceError: the server is away or refuses the statement.
    """
    import psycopg2

    connection = _connect(site, database, account)
    try:
        with spoken(f"PostgreSQL at {site.address('postgresql')}", psycopg2.Error), connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())
    finally:
        connection.close()


def _settle(site: Site) -> None:
    """Owners and databases that are not there yet."""
    from psycopg2 import sql

    connection = _connect(site)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT rolname FROM pg_roles")
            roles = {name for (name,) in cursor.fetchall()}
            cursor.execute("SELECT datname FROM pg_database")
            databases = {name for (name,) in cursor.fetchall()}
            for owner in dict.fromkeys(DATABASES.values()):
                verb = "ALTER" if owner in roles else "CREATE"
                statement = sql.SQL(verb + " ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(owner), sql.Literal(site.passwords[f"postgresql-{owner}"])
                )
                cursor.execute(statement)
            for name, owner in DATABASES.items():
                if name not in databases:
                    statement = sql.SQL("CREATE DATABASE {} OWNER {}")
                    cursor.execute(statement.format(sql.Identifier(name), sql.Identifier(owner)))
    finally:
        connection.close()
