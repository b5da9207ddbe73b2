"""One stack on this machine: its folder, its ports, its passwords.

::

    FOLDER/site.json         first port and what was left out: what `down` and `status` go by
    FOLDER/passwords.json    made at the first start, readable by the owner only
    FOLDER/stack.env         the variables with which the pipeline works on this stack
    FOLDER/params.yaml       numbers of this stack, laid over pipelines/params.yaml, where a person wrote some down
    FOLDER/conf/             written anew at every start from the templates in infra/
    FOLDER/data/SERVER/      what a server keeps
    FOLDER/logs/SERVER.log   what it says
    FOLDER/run/              socket and process id of the supervisor
    FOLDER/home/             KEEL_HOME of the stack: lake, datasets, models, reports
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from market.errors import SettingsError
from market.files import replacing
from pipelines.workspace import Address

HOST = "127.0.0.1"
CHECKOUT = Path(__file__).resolve().parents[2]

# In this order from the first port on; new ones are added at the end, so that bookmarks stay good.
PORTS = (
    "postgresql",
    "redis",
    "kafka",
    "kafka-controller",
    "mlflow",
    "airflow",
    "triton-grpc",
    "triton-http",
    "triton-metrics",
    "prometheus",
    "alertmanager",
    "mail",
    "mail-page",
    "exchange",
    "probe",
)
# Who has a password. MLflow asks for 12 characters or more.
ACCOUNTS = (
    "postgresql",
    "postgresql-airflow",
    "postgresql-mlflow",
    "postgresql-feast",
    "redis",
    "mlflow-admin",
    "mlflow-keel",
    "mlflow-quant",
    "mlflow-cookies",
    "airflow-admin",
    "airflow-engineer",
    "airflow-quant",
    "airflow-cookies",
    "airflow-tokens",
    "airflow-fernet",
)


class Chosen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person decided about a stack: kept in ``site.json``. ``pace`` of the exchange: a multiple of real time."""

    first_port: int = 21_000
    without: tuple[str, ...] = ()
    pace: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Site:
    """A stack's folder with what was chosen and made for it."""

    SITE_FILE: ClassVar[str] = "site.json"
    PASSWORDS_FILE: ClassVar[str] = "passwords.json"  # a file's name
    ENVIRONMENT_FILE: ClassVar[str] = "stack.env"

    folder: Path
    chosen: Chosen
    passwords: Mapping[str, str]

    def port(self, name: str) -> int:
        return self.chosen.first_port + PORTS.index(name)

    def has(self, server: str) -> bool:
        return server not in self.chosen.without

    def address(self, name: str) -> Address:
        return Address(host=HOST, port=self.port(name))

    def url(self, name: str) -> str:
        return f"http://{self.address(name)}"

    def database(self, name: str, *, account: str | None = None, driver: str = "postgresql+psycopg2") -> str:
        """SQLAlchemy's address of a database, with its owner's password: never for a command line or a message."""
        owner = account or name
        return f"{driver}://{owner}:{self.passwords[f'postgresql-{owner}']}@{self.address('postgresql')}/{name}"

    @property
    def params(self) -> Path:
        return self.folder / "params.yaml"

    @property
    def conf(self) -> Path:
        return self.folder / "conf"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def data(self, server: str) -> Path:
        return self.folder / "data" / server

    def log(self, server: str) -> Path:
        return self.logs / f"{server}.log"

    def render(self, template: str, **values: Any) -> Path:
        """``conf/NAME`` from ``infra/…/NAME.j2``, readable by the owner only: passwords may be in it."""
        import jinja2

        source = CHECKOUT / "infra" / template
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)  # noqa: S701  # no HTML
        text = environment.from_string(source.read_text()).render(site=self, **values)
        target = self.conf / source.name.removesuffix(".j2")
        write_private(target, text)
        return target


def find(folder: Path) -> Site | None:
    """The stack that was started in ``folder`` at some time, or None.

    Raises:
        SettingsError: its files are not what they were written as.
    """
    try:
        chosen = msgspec.json.decode((folder / Site.SITE_FILE).read_bytes(), type=Chosen)
        passwords = _read_passwords(folder)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise SettingsError(
            f"{folder / Site.SITE_FILE} or {Site.PASSWORDS_FILE} beside it cannot be read: {error}; restore it, or "
            "remove the folder to begin with an empty stack"
        ) from None
    return Site(folder=folder, chosen=chosen, passwords=passwords)


def establish(folder: Path, chosen: Chosen) -> Site:
    """The stack in ``folder``: folders are made, and a password for every account that has none."""
    # others may pass through, for PostgreSQL has an account of its own when root starts the stack; none may look
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)
    (folder / "data").mkdir(mode=0o711, exist_ok=True)
    for name in ("conf", "logs", "run", "home"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    try:
        passwords = _read_passwords(folder)
    except FileNotFoundError:
        passwords = {}
    missing = {name: _new_password(name) for name in ACCOUNTS if name not in passwords}
    if missing:
        passwords |= missing
        write_private(folder / Site.PASSWORDS_FILE, msgspec.json.format(msgspec.json.encode(passwords)).decode() + "\n")
    write_private(folder / Site.SITE_FILE, msgspec.json.encode(chosen).decode() + "\n")
    return Site(folder=folder, chosen=chosen, passwords=passwords)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, at once or not at all."""
    with replacing(path) as draft:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)


def _read_passwords(folder: Path) -> dict[str, str]:
    return msgspec.json.decode((folder / Site.PASSWORDS_FILE).read_bytes(), type=dict[str, str])


def _new_password(account: str) -> str:
    if account == "airflow-fernet":
        from cryptography.fernet import Fernet

        return Fernet.generate_key().decode()
    # hexadecimal: stands in an address, an .ini file and a shell line without a mark before it
    return secrets.token_hex(16)
