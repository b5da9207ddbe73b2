"""A Triton server as a child process: unpacked by ``infra/triton/install.sh``, on loopback, explicit model control.

The process is recorded in ``server.json`` next to the model repository, so that a later run finds a server that is
still up, and stops one that an interrupted run left behind.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import msgspec

from market.errors import PortInUseError, ServiceError
from market.files import replacing

HOST = "127.0.0.1"
HOME_VARIABLE = "KEEL_TRITON_HOME"
START_TRIES = 3
STOP_AFTER_S = 15.0
_POLL_S = 0.05
# What nobody needs here, and what attacks on Triton have come through: barred by a key that no client is given.
_BARRED = "shared-memory,trace,logging"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a server listens."""

    host: str = HOST
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """``install``: folder made by ``infra/triton/install.sh``. A port of 0 takes a free one."""

    install: Path
    repository: Path
    logs: Path
    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    start_timeout_s: float = 60.0


class Running(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A started server. ``born`` is the kernel's start time of the process, since a process id may be used again;
    ``owner`` is the process that started it. ``shm`` begins the names of its areas in shared memory."""

    pid: int
    born: int
    owner: int
    owner_born: int
    shm: str
    grpc: int
    http: int
    metrics: int
    log: str

    @property
    def endpoint(self) -> Endpoint:
        """The gRPC endpoint."""
        return Endpoint(port=self.grpc)

    @property
    def alive(self) -> bool:
        return _born(self.pid) == self.born

    @property
    def orphaned(self) -> bool:
        """Whether the process that started it is gone, without having stopped it."""
        return _born(self.owner) != self.owner_born


def default_install() -> Path:
    """``KEEL_TRITON_HOME``, else ``.serving`` in the checkout this file lies in."""
    return Path(os.environ.get(HOME_VARIABLE) or Path(__file__).parents[2] / ".serving").absolute()


def record_path(repository: Path) -> Path:
    """Where the server of a model repository is recorded."""
    return repository.parent / "server.json"


def find_running(repository: Path) -> Running | None:
    """The server of this model repository if one is up, answers, and has somebody who will stop it.

    One that another process is just starting is waited for.
    """
    deadline = time.monotonic() + TritonConfig.start_timeout_s
    while time.monotonic() < deadline:
        running = _read_record(repository)
        if running is None or not running.alive or running.orphaned:
            return None
        if _ready(running.http):
            return running
        time.sleep(_POLL_S)
    return None


@contextmanager
def running_triton(repository: Path, *, logs: Path, install: Path | None = None) -> Iterator[Endpoint]:
    """A server of ``repository`` on free ports for the length of the block; yields its gRPC endpoint.

    Raises:
        ServiceError: it is not installed or does not get ready.
    """
    config = TritonConfig(install=install or default_install(), repository=repository, logs=logs)
    with TritonServer(config) as server:
        yield server.running.endpoint


class TritonServer:
    """Starts and stops one server process; a context manager."""

    def __init__(self, config: TritonConfig) -> None:
        self.config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._running: Running | None = None

    @property
    def running(self) -> Running:
        """Process and ports.

        Raises:
            ServiceError: it was not started.
        """
        if self._running is None:
            raise ServiceError("the Triton server was not started")
        return self._running

    def start(self) -> Running:
        """Start the process and wait until it is ready. A server that an earlier run left behind is stopped first.

        Raises:
            PortInUseError: a port that was asked for is taken.
            ServiceError: not installed, or it died or was not ready in time; the message ends with its log.
        """
        binary = _server_folder(self.config.install) / "bin" / "tritonserver"
        if not binary.is_file() or not (self.config.install / "installed").is_file():
            raise ServiceError(
                f"no Triton server in {self.config.install}; run 'bash infra/triton/install.sh' (or 'make install'), "
                f"or name a server that is already up with KEEL_TRITON_GRPC=host:port"
            )
        stop_recorded(self.config.repository)
        self.config.repository.mkdir(parents=True, exist_ok=True)
        self.config.logs.mkdir(parents=True, exist_ok=True)
        for tries_left in reversed(range(START_TRIES)):
            process, running = self._launch(binary)
            self._process, self._running = process, running
            try:
                # recorded before it is ready: after a kill -9 in between, the next run must find it
                _write_record(self.config.repository, running)
                if self._wait(process, running, may_retry=tries_left > 0):
                    return running
            except BaseException:  # a Ctrl-C too: the server has a session of its own, and nothing else would stop it
                self.stop()
                raise
        raise ServiceError("the Triton server found its ports taken in every try")  # pragma: no cover

    def watch(self) -> NoReturn:
        """Wait for as long as the process lives.

        Raises:
            ServiceError: it was not started, or it has ended by itself.
        """
        running = self.running
        code = self._process.wait() if self._process is not None else None
        raise ServiceError(f"the Triton server (process {running.pid}) ended with {code}; {_last_words(running.log)}")

    def stop(self) -> None:
        """Ask the process to end, then end it; nothing happens when it is not up."""
        if self._process is None:
            return
        _end(self._process)
        if self._running is not None:
            _remove_shared_memory(self._running.shm)
        self._process, self._running = None, None
        record_path(self.config.repository).unlink(missing_ok=True)

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, binary: Path) -> tuple[subprocess.Popen[bytes], Running]:
        ports = [
            _port(wanted, what)
            for what, wanted in (
                ("gRPC", self.config.grpc_port),
                ("HTTP", self.config.http_port),
                ("metrics", self.config.metrics_port),
            )
        ]
        log = self.config.logs / "triton.log"
        shm = f"keel-triton-{secrets.token_hex(4)}-"
        with log.open("ab") as sink:
            process = subprocess.Popen(
                [str(binary), *_arguments(self.config, ports, shm)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=_environment(self.config.install),
                start_new_session=True,  # Ctrl-C at the terminal reaches us, and we stop the server in our order
            )
        grpc, web, metrics = ports
        return process, Running(
            pid=process.pid,
            born=_born(process.pid),
            owner=os.getpid(),
            owner_born=_born(os.getpid()),
            shm=shm,
            grpc=grpc,
            http=web,
            metrics=metrics,
            log=str(log),
        )

    def _wait(self, process: subprocess.Popen[bytes], running: Running, *, may_retry: bool) -> bool:
        """True when ready; False when a free port was taken by somebody else in the meantime."""
        deadline = time.monotonic() + self.config.start_timeout_s
        while time.monotonic() < deadline:
            if process.poll() is not None:
                if may_retry and "in use" in _tail(running.log):
                    return False
                raise ServiceError(f"the Triton server ended while starting; {_last_words(running.log)}")
            if _ready(running.http) and _listens(running.metrics):
                return True
            time.sleep(_POLL_S)
        raise ServiceError(
            f"the Triton server was not ready after {self.config.start_timeout_s:.0f} s; {_last_words(running.log)}"
        )


def stop_recorded(repository: Path) -> bool:
    """Stop the server that ``server.json`` names, if it is still that process. True if there was one."""
    running = _read_record(repository)
    if running is None:
        return False
    stopped = running.alive
    if stopped:
        _end_process(running)
    _remove_shared_memory(running.shm)
    record_path(repository).unlink(missing_ok=True)
    return stopped


def stop_orphan(repository: Path) -> bool:
    """As :func:`stop_recorded`, but only a server whose owner is gone."""
    running = _read_record(repository)
    return running is not None and running.orphaned and stop_recorded(repository)


def _server_folder(install: Path) -> Path:
    return install / "triton" / "pytriton" / "tritonserver"


def _arguments(config: TritonConfig, ports: list[int], shm: str) -> list[str]:
    grpc, web, metrics = ports
    secret = secrets.token_hex(16)
    return [
        f"--model-repository={config.repository.absolute()}",
        f"--backend-directory={_server_folder(config.install).absolute() / 'backends'}",
        "--model-control-mode=explicit",
        "--exit-on-error=false",
        "--strict-readiness=false",
        "--exit-timeout-secs=5",
        f"--grpc-address={HOST}",
        f"--grpc-port={grpc}",
        f"--grpc-restricted-protocol={_BARRED}:keel-barred={secret}",
        f"--http-address={HOST}",
        f"--http-port={web}",
        f"--http-restricted-api={_BARRED},model-repository:keel-barred={secret}",
        f"--metrics-address={HOST}",
        f"--metrics-port={metrics}",
        "--allow-gpu-metrics=false",
        # Triton's shared memory lies in /dev/shm; small steps, since containers give 64 MB
        "--backend-config=python,shm-default-byte-size=1048576",
        "--backend-config=python,shm-growth-byte-size=1048576",
        f"--backend-config=python,shm-region-prefix-name={shm}",
    ]


def _environment(install: Path) -> dict[str, str]:
    """Only what the server needs: its stub must find the serving environment's Python and nobody else's."""
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR", "LANG", "USER") if name in os.environ}
    return {
        **kept,
        "PATH": f"{install / 'venv' / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "LD_LIBRARY_PATH": str(install / "lib"),
        "OMP_NUM_THREADS": "1",
    }


def _port(wanted: int, what: str) -> int:
    """``wanted`` if it is free, or a free one for 0."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError:
            raise PortInUseError(
                f"port {wanted} on {HOST} (Triton's {what}) is taken by another process; "
                f"stop that process or choose another port (0 takes a free one)"
            ) from None
        return int(probe.getsockname()[1])


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2.0)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _listens(port: int) -> bool:
    """The metrics service is the last to start: once it listens, no port can fail any more."""
    try:
        socket.create_connection((HOST, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _born(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 when there is none (or only its remains)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_AFTER_S)
    except subprocess.TimeoutExpired:
        _kill_group(process.pid)
        process.wait()


def _end_process(running: Running) -> None:
    """As :func:`_end` for a process that is not our child."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_AFTER_S
    while running.alive and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    if running.alive:
        _kill_group(running.pid)


def _kill_group(pid: int) -> None:
    """The server leads a process group of its own; its model stubs are in it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _remove_shared_memory(prefix: str) -> None:
    """Areas of model processes that were killed; those that ended by themselves have removed theirs."""
    for area in Path("/dev/shm").glob(f"{prefix}*"):  # noqa: S108
        area.unlink(missing_ok=True)


def _read_record(repository: Path) -> Running | None:
    try:
        return msgspec.json.decode(record_path(repository).read_bytes(), type=Running)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _write_record(repository: Path, running: Running) -> None:
    with replacing(record_path(repository)) as draft:
        draft.write_bytes(msgspec.json.encode(running))


def _last_words(log: str) -> str:
    return f"its log {log} ends:\n{_tail(log)}"


def _tail(log: str, lines: int = 12) -> str:
    return "\n".join(Path(log).read_text(errors="replace").splitlines()[-lines:])
