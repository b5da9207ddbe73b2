"""What a stage may touch, and where everything a run makes lies.

A :class:`Workspace` is chosen once per process (by the ``keel`` command, a DAG task or a test) and handed to every
stage as ``stage(config, *, workspace)``. All paths are under ``KEEL_HOME``; nothing is created until it is written.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from pydantic import SecretStr

from market.clock import Clock, SystemClock
from market.errors import SettingsError
from serving.risk.safe_state import STANCE_FILE
from serving.rollout.roles import STATE_FILE

MAIL_SECURITY: Final = ("none", "starttls", "tls")


class Progress(Protocol):
    """How long work tells how far it is. ``total`` is in the work's own unit; None when unknown."""

    def start(self, what: str, total: float | None) -> None: ...

    def advance(self, amount: float) -> None: ...

    def stop(self) -> None: ...


class Silent:
    """Progress nobody watches."""

    def start(self, what: str, total: float | None) -> None: ...

    def advance(self, amount: float) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Address:
    """A server on the network."""

    host: str = "127.0.0.1"
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class MailServer(Address):
    """An SMTP server, how the connection to it is protected, and who we are there. No representation shows a password.

    ``security``: ``none``, ``starttls`` (encrypted after a greeting in the clear, usually port 587) or ``tls``
    (encrypted from the first byte, usually port 465). Empty: ``none`` on loopback without a user, else ``starttls``.
    ``ca_file`` (PEM): the authority that the server's certificate is checked by, instead of the system's. ``sender``:
    the address that mails are from, instead of the one in the parameters.
    """

    security: str = ""
    user: str = ""
    password: SecretStr = field(default_factory=lambda: SecretStr(""))
    ca_file: str = ""
    sender: str = ""

    def __post_init__(self) -> None:
        """Raises SettingsError: what cannot work, or would show a password, is refused before anything is sent."""
        if self.security not in ("", *MAIL_SECURITY):
            raise SettingsError(f"expected a mail security of {', '.join(MAIL_SECURITY)}, saw {self.security!r}")
        secret = self.password.get_secret_value()
        if bool(self.user) != bool(secret):
            missing = "password" if self.user else "user"
            raise SettingsError(f"expected the mail server's user and password together, saw no {missing}")
        if not (self.user + secret).isascii():  # smtplib signs in with these only
            raise SettingsError("expected ASCII in the mail server's user and password, saw other characters")
        if self.protection == "none" and self.user:
            raise SettingsError("mail security none would send the password in the clear; use starttls or tls")
        if self.protection == "none" and self.ca_file:
            raise SettingsError("mail security none checks nothing by the ca_file; use starttls or tls")
        if self.ca_file and not Path(self.ca_file).is_file():
            raise SettingsError(f"the mail server's ca_file: there is no file {self.ca_file}")

    @property
    def protection(self) -> str:
        """``security`` with its default filled in."""
        return self.security or ("none" if _is_loopback(self.host) and not self.user else "starttls")


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The folder and the servers a run works with.

    ``lake_uri`` and ``tracking_uri`` default to files under ``home``; the real stack sets them to S3 and to an MLflow
    server. ``mail`` None means: mails are written under ``home`` and not sent, and the stage says so.
    ``feast_registry`` (an SQLAlchemy address) and ``feast_online`` (a Redis connection string) go together; they
    may hold a password. ``data_remote``: where DVC keeps datasets, a folder or ``s3://bucket/prefix``.
    ``approvers``: who may approve and end a safe state (empty: any person). ``airflow_url`` and ``airflow_run`` are
    Airflow's address and the page of the run this process is a task of, for links; empty without.
    """

    home: Path
    clock: Clock = field(default_factory=SystemClock)
    progress: Progress = field(default_factory=Silent)
    author: str = ""
    lake_uri: str = ""
    data_remote: str = ""
    tracking_uri: str = ""
    triton_grpc: Address | None = None
    mail: MailServer | None = None
    feast_registry: str = ""
    feast_online: str = ""
    stack_folder: Path | None = None
    approvers: tuple[str, ...] = ()
    airflow_url: str = ""
    airflow_run: str = ""

    @property
    def stack(self) -> Path:
        """Where the local stack lies that works, or would work, for this run."""
        return self.stack_folder or self.home / "stack"

    @property
    def lake(self) -> str:
        return self.lake_uri or str(self.home / "lake")

    @property
    def tracking(self) -> str:
        """MLflow tracking and registry URI."""
        return self.tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """MLflow artifacts of the embedded default."""
        return self.home / "mlartifacts"

    @property
    def datasets(self) -> Path:
        """``<dataset_id>/dataset.parquet`` and ``dataset.json``; a DVC repository of its own."""
        return self.home / "datasets"

    @property
    def feast(self) -> Path:
        return self.home / "feast"

    @property
    def runs(self) -> Path:
        """``<run_id>/``: weights, checkpoints, evaluation, bundle of one training run."""
        return self.home / "runs"

    @property
    def models(self) -> Path:
        """``<instrument key>/<registry version>/``: verified bundles that serving loads."""
        return self.home / "models"

    @property
    def triton_repository(self) -> Path:
        return self.home / "triton" / "repository"

    @property
    def reports(self) -> Path:
        return self.home / "reports"

    @property
    def sessions(self) -> Path:
        """``<session>.json`` of each quoting session, and what a session that follows writes about itself."""
        return self.home / "sessions"

    @property
    def roles(self) -> Path:
        """Where it is written which versions are in service."""
        return self.home / STATE_FILE

    @property
    def stances(self) -> Path:
        """Where it is written which instruments are in their safe state."""
        return self.home / STANCE_FILE

    @property
    def audit_record(self) -> Path:
        return self.home / "audit" / "audit.jsonl"

    @property
    def thresholds(self) -> Path:
        """``<instrument key>.json``: limits of the quality gate that a person accepted, and those proposed."""
        return self.home / "thresholds"

    @property
    def quality(self) -> Path:
        """Pages of the quality gate."""
        return self.home / "quality"

    @property
    def retrainings(self) -> Path:
        """When each instrument was last retrained."""
        return self.home / "retrainings"

    @property
    def turns(self) -> Path:
        """Whose turn it is to ask a person about an instrument."""
        return self.home / "turns"

    @property
    def ray(self) -> Path:
        """Ray's own files."""
        return self.home / "ray"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def story(self) -> Path:
        """What a demo did, stage by stage."""
        return self.home / "story.json"

    @property
    def mails(self) -> Path:
        return self.home / "mail"


@contextmanager
def tracked(progress: Progress, what: str, total: float | None = None) -> Iterator[Progress]:
    """Show ``what`` while the block runs."""
    progress.start(what, total)
    try:
        yield progress
    finally:
        progress.stop()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
