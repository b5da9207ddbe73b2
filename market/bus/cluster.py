"""Which Kafka cluster to use and how to authenticate: all that differs between a loopback node and production."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from market.errors import SettingsError

SECURITY: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """``servers``: host:port, comma-separated. Its repr shows no secrets.

    Without ``security`` a cluster on loopback is used unencrypted; for any other cluster ``security`` is required.
    """

    servers: str
    security: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    key_password: str = field(default="", repr=False)
    sasl_mechanism: str = ""
    sasl_user: str = ""
    sasl_password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Raises SettingsError before anything is sent if the settings cannot work or would expose a secret."""
        hosts = [_host(server) for server in self.servers.split(",")]
        local = all(map(_is_loopback, hosts))
        if not self.security and not local:
            raise SettingsError(
                f"expected the security of the Kafka cluster at {self.servers}, which is not on this machine; "
                f"set KEEL_KAFKA_SECURITY to one of {', '.join(SECURITY)}"
            )
        if self._protocol not in SECURITY:
            raise SettingsError(f"expected a Kafka security of {', '.join(SECURITY)}, saw {self.security!r}")
        self._check_tls()
        self._check_sasl(local)

    @property
    def _protocol(self) -> str:
        return self.security or "PLAINTEXT"

    def _check_tls(self) -> None:
        given = {"ca_file": self.ca_file, "certificate_file": self.certificate_file, "key_file": self.key_file}
        if not self._protocol.endswith("SSL"):
            for name in (name for name, value in given.items() if value):
                raise SettingsError(
                    f"Kafka's {name} is given but its security is {self._protocol}; use SSL or SASL_SSL"
                )
            return
        if bool(self.certificate_file) != bool(self.key_file):
            raise SettingsError("expected Kafka's certificate_file and key_file together, or neither")
        if self.key_password and not self.key_file:
            raise SettingsError("Kafka's key_password is given without a key_file")
        for name, value in given.items():
            if value and not Path(value).is_file():
                raise SettingsError(f"Kafka's {name}: there is no file {value}")

    def _check_sasl(self, local: bool) -> None:
        given = bool(self.sasl_mechanism or self.sasl_user or self.sasl_password)
        if not self._protocol.startswith("SASL"):
            if given:
                raise SettingsError(
                    f"a Kafka user is given but the security is {self._protocol}; use SASL_SSL, or leave the user out"
                )
            return
        if self.sasl_mechanism not in MECHANISMS:
            raise SettingsError(
                f"expected Kafka's sasl_mechanism of {', '.join(MECHANISMS)}, saw {self.sasl_mechanism!r}"
            )
        if not (self.sasl_user and self.sasl_password):
            raise SettingsError("expected Kafka's sasl_user and sasl_password with its sasl_mechanism")
        if self._protocol == "SASL_PLAINTEXT" and self.sasl_mechanism == "PLAIN" and not local:
            raise SettingsError("SASL_PLAINTEXT with PLAIN sends the password in the clear; use SASL_SSL, or SCRAM")

    def client(self) -> dict[str, str | int | float | bool]:
        """Settings for any librdkafka client of this cluster, including secrets: pass them only to the library."""
        found: dict[str, str | int | float | bool] = {
            "bootstrap.servers": self.servers,
            "security.protocol": self._protocol,
            "ssl.ca.location": self.ca_file,
            "ssl.certificate.location": self.certificate_file,
            "ssl.key.location": self.key_file,
            "ssl.key.password": self.key_password,
            "sasl.mechanism": self.sasl_mechanism,
            "sasl.username": self.sasl_user,
            "sasl.password": self.sasl_password,
            "log_level": 2,  # errors are raised, not printed
            "reconnect.backoff.max.ms": 1_000,
        }
        return {name: value for name, value in found.items() if value != ""}


def topic_named(name: str) -> str:
    """``name``, if Kafka allows it.

    Raises:
        SettingsError: it does not.
    """
    if not _TOPIC.fullmatch(name) or name in (".", ".."):
        raise SettingsError(f"expected a topic of up to 249 letters, digits and ._- , saw {name!r}")
    return name


def _host(server: str) -> str:
    host, _, port = server.strip().rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError(f"expected comma-separated Kafka servers host:port, saw {server.strip()!r}")
    return host.strip("[]")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
