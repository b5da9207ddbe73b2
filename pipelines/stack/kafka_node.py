"""A Kafka broker on loopback: one KRaft node as a child process, for the local stack, for tests and for a laptop.

The jars are those that ``infra/kafka/install.sh`` fetched. Topics and offsets lie in a folder; a node that is started
on the same folder again, after a clean stop or after kill -9, has everything that it acknowledged.
"""

from __future__ import annotations

import base64
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from market.errors import PortInUseError, ServiceError
from pipelines.workspace import Address

HOST: Final = "127.0.0.1"
HOME_VARIABLE: Final = "KEEL_KAFKA_HOME"
START_SECONDS: Final = 60.0  # a cold start takes 3 s, one with logs to recover up to 12 s; machines may be slow
STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.1
_TRIES: Final = 3
_HEAP: Final = ("-Xms64m", "-Xmx384m", "-XX:+UseSerialGC")


@dataclass(frozen=True, kw_only=True)
class KafkaConfig:
    """``folder`` keeps everything of the node; ``install`` is the folder made by ``infra/kafka/install.sh``. Ports of 0
    take free ones; the second is for the node's own controller. ``settings`` are added to ``server.properties``."""

    folder: Path
    install: Path
    port: int = 0
    controller_port: int = 0
    settings: tuple[tuple[str, str], ...] = ()


def default_install() -> Path:
    """``KEEL_KAFKA_HOME``, else ``.kafka`` in the checkout this file lies in."""
    return Path(os.environ.get(HOME_VARIABLE) or Path(__file__).parents[2] / ".kafka").absolute()


@contextmanager
def running_kafka(folder: Path, *, port: int = 0, install: Path | None = None) -> Iterator[Address]:
    """A node with its data in ``folder`` while the block runs; ``port`` 0 takes a free one.

    Raises:
        PortInUseError: ``port`` is taken.
        ServiceError: it is not installed, the folder is in use, or it did not come up.
    """
    with KafkaNode(KafkaConfig(folder=folder, install=install or default_install(), port=port)) as node:
        yield node.address


class KafkaNode:
    """Starts, stops and restarts one broker; a context manager.

    The process ends when the block ends, and when the thread that started it does, whatever ends that
    (``PR_SET_PDEATHSIG``): start it from a thread that lives as long as the broker is needed.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self.config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._address: Address | None = None

    @property
    def address(self) -> Address:
        """Where the broker listens; the same after a restart.

        Raises:
            ServiceError: it was never started.
        """
        if self._address is None:
            raise ServiceError("the Kafka node was not started")
        return self._address

    @property
    def log(self) -> Path:
        """What the broker said."""
        return self.config.folder / "kafka.log"

    @property
    def process_id(self) -> int | None:
        """The broker's process, None when it is not up."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def command(self) -> tuple[str, ...]:
        """What a process supervisor runs, once :meth:`prepare` is done, in place of :meth:`start`."""
        return _java(self.config.install, "kafka.Kafka", str(self._properties_path))

    def prepare(self) -> None:
        """Write the settings for the configured ports and format empty storage, for :attr:`command`.

        Raises:
            ServiceError: not installed, or the storage cannot be formatted.
        """
        self._check_installed()
        data = self.config.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        address = Address(host=HOST, port=self.config.port)
        self._format(data, self._write_properties(address, self.config.controller_port))

    def start(self) -> Address:
        """Start the broker and wait until it answers clients. Data that lies in the folder is taken up.

        Raises:
            PortInUseError: a port that was asked for is taken.
            ServiceError: not installed, the folder is in use, or it ended or did not answer in time.
        """
        self._check_installed()
        data = self.config.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        _wait_for_lock(data / ".lock")
        wanted = self._address.port if self._address is not None else self.config.port
        for tries_left in reversed(range(_TRIES)):
            address = Address(host=HOST, port=_free_port(wanted))
            properties = self._write_properties(address, _free_port(self.config.controller_port))
            self._format(data, properties)
            self._process = self._launch("kafka.Kafka", str(properties))
            if self._wait(address):
                self._address = address
                return address
            self.stop()
            if not tries_left or "Address already in use" not in self._last_words():
                break
        raise ServiceError(f"the Kafka broker did not come up on {address}; {self._last_words()}")

    def stop(self) -> None:
        """Let the broker put its logs away and end; nothing happens when it is not up."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9, for those who try what then happens; :meth:`start` brings it back with its data."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _properties_path(self) -> Path:
        return self.config.folder / "server.properties"

    def _check_installed(self) -> None:
        install = self.config.install
        if not (install / "installed").is_file() or shutil.which("java") is None:
            raise ServiceError(
                f"no Kafka broker in {install}; run 'bash infra/kafka/install.sh', "
                f"or name a broker that is already up with KEEL_KAFKA_SERVERS=host:port"
            )

    def _write_properties(self, address: Address, controller_port: int) -> Path:
        path = self._properties_path
        lines = {**_properties(self.config.folder / "data", address, controller_port), **dict(self.config.settings)}
        path.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        return path

    def _format(self, data: Path, properties: Path) -> None:
        """Give empty storage its cluster id."""
        if (data / "meta.properties").is_file():
            return
        process = self._launch("kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(properties))
        if process.wait(START_SECONDS):
            raise ServiceError(f"the Kafka broker's storage in {data} could not be formatted; {self._last_words()}")

    def _launch(self, main: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as sink:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *_java(self.config.install, main, *arguments)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,  # Ctrl-C reaches us, and we stop the broker in our order
            )

    def _wait(self, address: Address) -> bool:
        """Whether the broker answers a client before the time is up."""
        assert self._process is not None  # noqa: S101 start() has just launched it
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if answers(address):
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _last_words(self) -> str:
        text = self.log.read_text(errors="replace").splitlines()[-12:]
        return f"its log {self.log} ends:\n" + "\n".join(text)


def _java(install: Path, main: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs a class of the broker's jars."""
    settings = f"-Dlog4j2.configurationFile={install.absolute() / 'log4j2.properties'}"
    return ("java", *_HEAP, settings, "-cp", f"{install.absolute()}/libs/*", main, *arguments)


def answers(address: Address) -> bool:
    """Whether a Kafka client gets the cluster's description from this very broker."""
    try:
        socket.create_connection((address.host, address.port), timeout=1).close()
    except OSError:
        return False
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": str(address), "log_level": 0})
    try:
        brokers = client.list_topics(timeout=2).brokers.values()
    except KafkaException:
        return False
    return str(address) in {f"{broker.host}:{broker.port}" for broker in brokers}


def _properties(data: Path, address: Address, controller_port: int) -> dict[str, str]:
    """One node is both broker and controller. Internal topics have one partition and one copy: there is one node."""
    listener = f"PLAINTEXT://{address}"
    one = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "listeners": f"{listener},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": listener,
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(data.absolute()),
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        # after kill -9 the node waits until its former self is taken for gone: 9 s unless told otherwise
        "broker.session.timeout.ms": "4000",
        "broker.heartbeat.interval.ms": "1000",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.num.partitions": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        **{f"{topic}.replication.factor": "1" for topic in one},
    }


def _cluster_id() -> str:
    """A random id in Kafka's own form; it may not begin with a dash, which its tools would take for an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _wait_for_lock(path: Path) -> None:
    """A broker whose owner was killed still puts its logs away; one that goes on belongs to somebody else.

    Raises:
        ServiceError: the folder stays in use.
    """
    deadline = time.monotonic() + STOP_SECONDS
    while path.exists():
        with path.open("r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() > deadline:
                    raise ServiceError(
                        f"another Kafka broker is running on {path.parent}; stop it, or choose another folder"
                    ) from None
            else:
                return
        time.sleep(_POLL_SECONDS)


def _free_port(wanted: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError:
            raise PortInUseError(
                f"port {wanted} on {HOST} is taken by another process; end it, or take a free port with 0"
            ) from None
        return int(probe.getsockname()[1])
