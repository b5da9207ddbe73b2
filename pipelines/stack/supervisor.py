"""The process supervisor: supervisord keeps each server up, writes its log and stops it (docs/adr/0002)."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from market.errors import ServiceError
from pipelines.stack.processes import MARK
from pipelines.stack.server import Server
from pipelines.stack.site import Site

_SOCKET_PATH_MAX = 107  # of the kernel
_START_SECONDS = 20.0
_POLL_S = 0.1
# What a server may inherit; a variable of the person's shell must not change what it does.
_INHERITED = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR", "TZ", "USER", "KEEL_TRITON_HOME", "JAVA_HOME")


@dataclass(frozen=True, kw_only=True)
class State:
    """How the supervisor sees one server. ``word`` is its own: RUNNING, STARTING, BACKOFF, STOPPED, EXITED, FATAL."""

    word: str
    pid: int
    started: float
    said: str

    @property
    def running(self) -> bool:
        return self.word == "RUNNING"

    @property
    def given_up(self) -> bool:
        return self.word in ("FATAL", "EXITED", "STOPPED", "UNKNOWN")


class Supervisor:
    """The supervisor of one site. Nothing is held between calls, so that threads may share it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._socket = site.run / "supervisor.sock"
        self._pid_file = site.run / "supervisord.pid"

    def start(self, servers: Iterable[Server]) -> None:
        """Start it with the configuration of ``servers``; none of them is started yet.

        Raises:
            ServiceError: it does not come up.
        """
        if len(str(self._socket)) > _SOCKET_PATH_MAX:
            raise ServiceError(
                f"{self._socket} is longer than the {_SOCKET_PATH_MAX} characters a socket's path may have; put the "
                "stack elsewhere with KEEL_STACK=FOLDER"
            )
        conf = self._write(servers)
        self._socket.unlink(missing_ok=True)
        self._pid_file.unlink(missing_ok=True)
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(conf)],
            env={**inherited, MARK: str(self._site.folder)},
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_up():
            if done.returncode or time.monotonic() > deadline:
                said = " ".join((done.stderr + done.stdout).split())[-400:]
                raise ServiceError(f"supervisord did not start: {said or self._site.log('supervisord')}")
            time.sleep(_POLL_S)

    def learn(self, servers: Iterable[Server]) -> None:
        """Tell a supervisor that is up what is new since it was started; what runs is left as it is."""
        self._write(servers)
        added, changed, _removed = self._rpc().reloadConfig()[0]
        running = {name for name, state in self.states().items() if not state.given_up}
        for name in changed:
            if name not in running:
                self._rpc().removeProcessGroup(name)
                added.append(name)
        for name in added:
            self._rpc().addProcessGroup(name)

    def is_up(self) -> bool:
        try:
            self._rpc().getSupervisorVersion()
        except (OSError, xmlrpc.client.Error):
            return False
        return True

    def states(self) -> dict[str, State]:
        """Every server it knows; empty when it is not up."""
        try:
            found = self._rpc().getAllProcessInfo()
        except (OSError, xmlrpc.client.ProtocolError):
            return {}
        return {
            info["name"]: State(
                word=info["statename"], pid=info["pid"], started=float(info["start"]), said=info["spawnerr"]
            )
            for info in found
        }

    def start_server(self, name: str) -> None:
        """Have a server started, once it is not; does not wait.

        Raises:
            ServiceError: its program cannot be run.
        """
        try:
            self._rpc().startProcess(name, False)
        except xmlrpc.client.Fault as fault:
            if "ALREADY_STARTED" not in fault.faultString:
                raise ServiceError(f"{name} cannot be started: {fault.faultString}") from None

    def stop_server(self, name: str) -> None:
        """Stop a server and wait for it, as long as its configuration gives it."""
        try:
            self._rpc().stopProcess(name, True)
        except xmlrpc.client.Fault as fault:
            if "NOT_RUNNING" not in fault.faultString:
                raise ServiceError(f"{name} cannot be stopped: {fault.faultString}") from None

    def shutdown(self) -> None:
        """End the supervisor itself, and wait for that."""
        pid = int(self._pid_file.read_text())
        self._rpc().shutdown()
        try:
            psutil.Process(pid).wait(_START_SECONDS)
        except psutil.NoSuchProcess:
            pass
        except psutil.TimeoutExpired:
            raise ServiceError(
                f"supervisord (process {pid}) did not end; see {self._site.log('supervisord')}"
            ) from None

    def _write(self, servers: Iterable[Server]) -> Path:
        return self._site.render(
            "local/supervisord.conf.j2",
            servers=servers,
            root=os.geteuid() == 0,
            command=lambda server: _plain(shlex.join(server.command)),
            environment=_environment,
        )

    def _rpc(self) -> Any:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor


def _environment(server: Server) -> str:
    """``NAME="value",...`` in supervisord's own form."""
    # SPT_NOENV: programs that rename themselves leave their environment, and with it our mark, readable
    values = {**server.environment, "SPT_NOENV": "1", "PYTHONUNBUFFERED": "1"}
    if any('"' in value for value in values.values()):
        raise ServiceError(f"{server.name}: a variable's value holds a quotation mark, which supervisord cannot read")
    return ",".join(f'{name}="{_plain(value)}"' for name, value in values.items())


def _plain(text: str) -> str:
    return text.replace("%", "%%")
