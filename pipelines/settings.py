"""Settings: where a run works and with what numbers.

Three places, the later wins: ``pipelines/params.yaml`` (the numbers, versioned with the code and tracked by DVC),
the file named by ``KEEL_PARAMS``, and environment variables (``KEEL_HOME``, ``KEEL_TRAIN__EPOCHS=3``). A name nobody
knows is refused, so that a typing mistake cannot pass for a setting.
"""

from __future__ import annotations

import dataclasses
import getpass
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

import yaml
from pydantic import SecretStr, TypeAdapter, ValidationError

from market.bus.cluster import Cluster, topic_named
from market.clock import Clock, SystemClock
from market.errors import SettingsError
from pipelines.workspace import Address, MailServer, Progress, Silent, Workspace

T = TypeVar("T")

DEFAULT_INSTRUMENT = "sim-usdm.BTCUSDT"
PARAMS = Path(__file__).with_name("params.yaml")

# Variables that are not stage parameters, with what they mean; `keel settings` prints them.
VARIABLES: Mapping[str, str] = {
    "KEEL_HOME": "folder that holds everything a run makes (default: .keel in the current folder)",
    "KEEL_PARAMS": "a YAML file laid over pipelines/params.yaml",
    "KEEL_INSTRUMENT": "whose data and model a verb or a DAG is about that names none (default: sim-usdm.BTCUSDT)",
    "KEEL_AUTHOR": "who trains; recorded with every run, and barred from approving it (default: the login name)",
    "KEEL_SCHEDULE_OWNER": "the author of what a schedule or a drift starts in Airflow (default: KEEL_AUTHOR)",
    "KEEL_LAKE_URI": "the lake's address when it is not a folder under KEEL_HOME: s3://bucket/prefix, or a folder",
    "KEEL_DATA_REMOTE": "where `keel data` keeps datasets: a folder, or s3://bucket/prefix",
    "KEEL_TRACKING_URI": "the MLflow server when it is not a file under KEEL_HOME",
    "KEEL_TRITON_GRPC": "host:port of a running Triton",
    "KEEL_MAIL": "host:port of the mail server",
    "KEEL_SMTP_SECURITY": "none, starttls or tls (default: none on loopback without a user, else starttls)",
    "KEEL_SMTP_USER": "the user at the mail server",
    "KEEL_SMTP_PASSWORD": "that user's password; never sent over a connection in the clear",
    "KEEL_SMTP_PASSWORD_FILE": "a file that holds the password, instead of the variable",
    "KEEL_SMTP_CA_FILE": "certificates (PEM) that the mail server is checked by (default: the system's)",
    "KEEL_SMTP_FROM": "the address that mails are from (default: `sender` of notify and of escalate)",
    "KEEL_APPROVERS": "names, with commas between, who may approve and end a safe state (default: any person)",
    "KEEL_AIRFLOW_URL": "Airflow's address, for links in mails",
    "KEEL_TRITON_HOME": "where the Triton server is installed (default: .serving beside the code)",
    "KEEL_STACK": "folder of the local stack (default: stack under KEEL_HOME)",
    "KEEL_FEAST_REGISTRY": "SQLAlchemy address of Feast's registry when not a file under KEEL_HOME; with the next",
    "KEEL_FEAST_ONLINE": "Redis connection string of Feast's online store: host:port,password=...",
    "KEEL_KAFKA_HOME": "where the Kafka broker is installed (default: .kafka beside the code)",
    "KEEL_KAFKA_SERVERS": "host:port of one or more brokers of the Kafka cluster, with commas between them",
    "KEEL_KAFKA_SECURITY": "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL; needed for a cluster that is not on loopback",
    "KEEL_KAFKA_CA_FILE": "certificates (PEM) that the brokers are checked by (default: the system's)",
    "KEEL_KAFKA_CERTIFICATE_FILE": "our own certificate (PEM), where the brokers ask for one",
    "KEEL_KAFKA_KEY_FILE": "its private key (PEM)",
    "KEEL_KAFKA_KEY_PASSWORD": "the password of that key",
    "KEEL_KAFKA_SASL_MECHANISM": "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
    "KEEL_KAFKA_SASL_USER": "the user at the Kafka cluster",
    "KEEL_KAFKA_SASL_PASSWORD": "that user's password",
    "KEEL_FEAST_HOME": "set by quotekeel itself for Feast's configuration",
}

# Their values are not for a screen.
_SECRET = frozenset(
    {
        *("KEEL_FEAST_REGISTRY", "KEEL_FEAST_ONLINE", "KEEL_KAFKA_KEY_PASSWORD", "KEEL_KAFKA_SASL_PASSWORD"),
        "KEEL_SMTP_PASSWORD",
    }
)


def shown(variable: str) -> str | None:
    """The value of a variable as it may be printed; None when it is not set."""
    value = os.environ.get(variable)
    return "(set, holds a password)" if value and variable in _SECRET else value


def workspace(*, clock: Clock | None = None, progress: Progress | None = None, author: str = "") -> Workspace:
    """The workspace that the environment describes; ``author`` is who asked for this, where that is known better.

    Raises:
        SettingsError: a ``KEEL_`` variable is unknown or not of its form.
    """
    refuse_unknown_variables(os.environ)
    return Workspace(
        home=Path(os.environ.get("KEEL_HOME") or ".keel").absolute(),
        clock=clock or SystemClock(),
        progress=progress or Silent(),
        author=author or os.environ.get("KEEL_AUTHOR") or getpass.getuser(),
        lake_uri=os.environ.get("KEEL_LAKE_URI", ""),
        data_remote=os.environ.get("KEEL_DATA_REMOTE", ""),
        tracking_uri=os.environ.get("KEEL_TRACKING_URI", ""),
        triton_grpc=_address("KEEL_TRITON_GRPC"),
        mail=mail_server(),
        feast_registry=os.environ.get("KEEL_FEAST_REGISTRY", ""),
        feast_online=os.environ.get("KEEL_FEAST_ONLINE", ""),
        stack_folder=Path(os.environ["KEEL_STACK"]).absolute() if os.environ.get("KEEL_STACK") else None,
        approvers=approvers(),
        airflow_url=os.environ.get("KEEL_AIRFLOW_URL", "").rstrip("/"),
        airflow_run=_airflow_run(),
    )


def default_instrument() -> str:
    """The instrument of what names none."""
    return os.environ.get("KEEL_INSTRUMENT", "").strip() or DEFAULT_INSTRUMENT


def schedule_owner() -> str:
    """Who answers for what no person started: the schedule's owner, else the author of this process; empty: neither is
    set."""
    return os.environ.get("KEEL_SCHEDULE_OWNER", "").strip() or os.environ.get("KEEL_AUTHOR", "")


def approvers() -> tuple[str, ...]:
    """Who may approve; empty: any person."""
    names = os.environ.get("KEEL_APPROVERS", "").split(",")
    return tuple(name for each in names if (name := each.strip()))


def mail_server() -> MailServer | None:
    """The mail server that the environment describes.

    Raises:
        SettingsError: settings of it without its address, or ones that cannot work or would show the password.
    """
    address = _address("KEEL_MAIL")
    names = [name for name in VARIABLES if name.startswith("KEEL_SMTP_")]
    given = {name: value for name in names if (value := os.environ.get(name))}
    if address is None:
        for name in given:
            raise SettingsError(f"{name} is set but no mail server is; set KEEL_MAIL=host:port")
        return None
    return MailServer(
        host=address.host,
        port=address.port,
        security=given.get("KEEL_SMTP_SECURITY", ""),
        user=given.get("KEEL_SMTP_USER", ""),
        password=SecretStr(_smtp_password(given)),
        ca_file=given.get("KEEL_SMTP_CA_FILE", ""),
        sender=given.get("KEEL_SMTP_FROM", ""),
    )


def _smtp_password(given: Mapping[str, str]) -> str:
    file = given.get("KEEL_SMTP_PASSWORD_FILE")
    if not file:
        return given.get("KEEL_SMTP_PASSWORD", "")
    if "KEEL_SMTP_PASSWORD" in given:
        raise SettingsError("expected KEEL_SMTP_PASSWORD or KEEL_SMTP_PASSWORD_FILE, saw both")
    try:
        return Path(file).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the password in KEEL_SMTP_PASSWORD_FILE={file}: {error}") from None


def _airflow_run() -> str:
    """Page of the run whose task this process is, where Airflow and its address are known."""
    url, dag = os.environ.get("KEEL_AIRFLOW_URL", "").rstrip("/"), os.environ.get("AIRFLOW_CTX_DAG_ID", "")
    run = quote(os.environ.get("AIRFLOW_CTX_DAG_RUN_ID", ""), safe="")
    return f"{url}/dags/{dag}/runs/{run}" if url and dag and run else ""


def kafka_topic(url: str) -> tuple[Cluster, str]:
    """The cluster and the topic of ``kafka://host:port/topic``; without servers in it KEEL_KAFKA_SERVERS says which.

    Raises:
        SettingsError: not of this form, or the cluster's settings cannot work.
    """
    scheme, _, rest = url.partition("://")
    servers, slash, topic = rest.partition("/")
    servers = servers or os.environ.get("KEEL_KAFKA_SERVERS", "")
    if scheme != "kafka" or not slash or not servers:
        raise SettingsError(f"expected kafka://host:port/topic (or kafka:///topic and KEEL_KAFKA_SERVERS), saw {url!r}")
    names = [each.name for each in dataclasses.fields(Cluster) if each.name != "servers"]
    given = {name: os.environ.get(f"KEEL_KAFKA_{name.upper()}", "") for name in names}
    return Cluster(servers=servers, **given), topic_named(topic)


class StageConfig:
    """Base of a configuration that people write: unknown keys are refused, so that a typing mistake cannot pass for a
    setting."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


def stage_config(
    section: str, config: type[T], overrides: Mapping[str, Any] | None = None, *, params: Path | None = None
) -> T:
    """The configuration of one stage: its section of the parameters with ``overrides`` laid over it. ``params`` is read
    instead of the file that KEEL_PARAMS names.

    Raises:
        SettingsError: an unknown key or a value of the wrong kind, named.
    """
    fields = dataclasses.fields(config) if dataclasses.is_dataclass(config) else ()
    unnamed = {each.name: default_instrument() for each in fields if each.default == DEFAULT_INSTRUMENT}
    values = {**unnamed, **_laid_over(_section(section, params), overrides or {})}
    try:
        return TypeAdapter(config).validate_python(values)
    except ValidationError as error:
        raise SettingsError(f"{section}: {_first_problem(error)}") from None


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, group by group: what a group does not name stays."""
    laid = dict(below)
    for name, value in above.items():
        there = laid.get(name)
        groups = isinstance(there, Mapping) and isinstance(value, Mapping)
        laid[name] = _laid_over(dict(there or {}), value) if groups else value
    return laid


def _nested(name: str, separator: str, value: Any) -> dict[str, Any]:
    """``("model.family", ".", "mlp")`` as ``{"model": {"family": "mlp"}}``."""
    first, _, rest = name.partition(separator)
    return {first: _nested(rest, separator, value) if rest else value}


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """``["epochs=3", "model.family=mlp"]`` as ``{"epochs": 3, "model": {"family": "mlp"}}``; values are YAML."""
    parsed: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise SettingsError(f"expected NAME=VALUE, saw {assignment!r}; for instance --set epochs=3")
        parsed = _laid_over(parsed, _nested(name, ".", yaml.safe_load(value)))
    return parsed


def refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """Raise SettingsError for a ``KEEL_`` variable that nothing reads."""
    sections = _params()
    for name in environment:
        if not name.startswith("KEEL_") or name in VARIABLES:
            continue
        section = name.removeprefix("KEEL_").partition("__")[0].lower()
        if "__" not in name or section not in sections:
            known = ", ".join([*VARIABLES, *(f"KEEL_{s.upper()}__<PARAMETER>" for s in sections)])
            raise SettingsError(f"unknown variable {name}; known are {known}")


def parameters() -> dict[str, dict[str, Any]]:
    """Every section with the parameters in force."""
    return {section: _section(section) for section in _params()}


def _params(instead: Path | None = None) -> dict[str, dict[str, Any]]:
    merged = {name: dict(values or {}) for name, values in _read_yaml(PARAMS).items()}
    extra = instead or os.environ.get("KEEL_PARAMS")
    for name, values in (_read_yaml(Path(extra)) if extra else {}).items():
        if name not in merged:
            raise SettingsError(f"{extra}: unknown section {name!r}; known are {', '.join(merged)}")
        merged[name].update(values or {})
    return merged


def _section(section: str, params: Path | None = None) -> dict[str, Any]:
    values = _params(params).get(section, {})
    prefix = f"KEEL_{section.upper()}__"
    for name, text in os.environ.items():
        if name.startswith(prefix):
            values = _laid_over(values, _nested(name.removeprefix(prefix).lower(), "__", yaml.safe_load(text)))
    return values


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SettingsError(f"cannot read the parameters in {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise SettingsError(f"{path}: expected one section a stage, saw {type(loaded).__name__}")
    return loaded


def _address(variable: str) -> Address | None:
    text = os.environ.get(variable)
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError(f"{variable}: expected host:port, saw {text!r}")
    return Address(host=host, port=int(port))


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"]) or "value"
    return f"{name}: {problem['msg']} (saw {problem['input']!r})"
