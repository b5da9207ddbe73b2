"""``keel up``: every server of the stack, in the order of what needs what, each asked through its own protocol."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from market.errors import ServiceError, SettingsError
from pipelines.settings import StageConfig
from pipelines.stack.catalog import chosen_servers, every_server
from pipelines.stack.environment import write_environment
from pipelines.stack.processes import end, left_behind, require_free_ports
from pipelines.stack.server import Server
from pipelines.stack.site import PORTS, Chosen, Site, establish, find
from pipelines.stack.supervisor import Supervisor
from pipelines.workspace import Workspace

LOCK_FILE = ".lock"
_POLL_S = 0.25

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class UpConfig(StageConfig):
    """``first_port``: the servers take the ports from here on (None: as the last time, else 21000). ``without``:
    servers to leave out (None: as the last time, else none). ``pace``: how much faster than real time the exchange runs
    for the quoter (None: as the last time, else 1)."""

    first_port: int | None = None
    without: tuple[str, ...] | None = None
    pace: float | None = None


@dataclass(frozen=True, kw_only=True)
class UpResult:
    """What is up. ``started`` are the servers this call started, ``ended`` how many processes of a dead stack it ended
    first, ``pages`` what a person opens."""

    folder: str
    started: tuple[str, ...]
    up: tuple[str, ...]
    ended: int
    pages: dict[str, str]
    passwords: str
    environment: str

    def line(self) -> str:
        pages = "\n".join(f"  {name:14} {page}" for name, page in self.pages.items())
        return (
            f"{len(self.up)} servers are up ({len(self.started)} started now)\n{pages}\n"
            f"  passwords      {self.passwords}\n"
            f'to work on them in this shell: eval "$(keel up --env)"; to see them: keel status; to stop them: keel down'
        )


def up(config: UpConfig, *, workspace: Workspace, tell: Tell = lambda _line: None) -> UpResult:
    """Bring up what is not up. Running it again is free, also after a kill -9 of everything.

    Raises:
        SettingsError: a port or a server's name that cannot be.
        PortInUseError: a port is taken by somebody else.
        ServiceError: a server is not installed or does not come up; the others stay up.
    """
    folder = workspace.stack
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            return _up(config, folder, tell)
    except Timeout:
        raise ServiceError(f"another keel up or keel down is at work on {folder}; wait for it") from None


def _up(config: UpConfig, folder: Path, tell: Tell) -> UpResult:
    before = find(folder)
    running = before is not None and Supervisor(before).is_up()
    chosen = _choose(config, before.chosen if before else Chosen())
    if before is not None and running and before.chosen != chosen:
        raise SettingsError(
            f"the stack in {folder} is up with first port {before.chosen.first_port}, without "
            f"{', '.join(before.chosen.without) or 'nothing'} and at pace {before.chosen.pace:g}; keel down first, "
            "then keel up with other settings"
        )
    site = establish(folder, chosen)
    servers = chosen_servers(site)
    _require_known(site, servers)
    _require_installed(servers)
    supervisor = Supervisor(site)
    ended = 0 if running else end(left_behind(site))
    if ended:
        tell(f"ended {ended} processes of a stack whose supervisor was gone")
    there = {name for name, state in supervisor.states().items() if state.pid}
    absent = [server for server in servers if server.name not in there]
    require_free_ports(site, absent)
    write_environment(site)
    if running:
        supervisor.learn(servers)
    else:
        supervisor.start(servers)
    _bring_up(site, supervisor, servers, tell)
    return UpResult(
        folder=str(folder),
        started=tuple(server.name for server in absent),
        up=tuple(server.name for server in servers),
        ended=ended,
        pages={server.name: server.page for server in servers if server.page},
        passwords=str(folder / Site.PASSWORDS_FILE),
        environment=str(folder / Site.ENVIRONMENT_FILE),
    )


def _choose(config: UpConfig, before: Chosen) -> Chosen:
    first_port = before.first_port if config.first_port is None else config.first_port
    without = before.without if config.without is None else tuple(sorted(config.without))
    if not 1024 <= first_port <= 65_535 - len(PORTS):
        raise SettingsError(f"first_port: expected 1024 to {65_535 - len(PORTS)}, saw {first_port}")
    pace = before.pace if config.pace is None else config.pace
    if not 0 < pace <= 1000:
        raise SettingsError(f"pace: expected a multiple of real time above 0 and up to 1000, saw {pace}")
    return Chosen(first_port=first_port, without=without, pace=pace)


def _require_known(site: Site, servers: Iterable[Server]) -> None:
    known = {server.name for server in every_server(site)}
    unknown = sorted(set(site.chosen.without) - known)
    if unknown:
        raise SettingsError(f"no server named {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    names = {server.name for server in servers}
    for server in servers:
        gone = sorted(set(server.needs) - names)
        if gone:
            raise SettingsError(f"{server.name} needs {', '.join(gone)}; leave both out or neither")


def _require_installed(servers: Iterable[Server]) -> None:
    missing = [f"{server.name} ({server.command[0]})" for server in servers if shutil.which(server.command[0]) is None]
    if missing:
        raise ServiceError(
            f"not installed: {', '.join(missing)}. Install what is missing with 'bash infra/local/install_stack.sh' "
            "(or 'make up'), or leave servers out with --without NAME"
        )


class _Stopped(Exception):  # noqa: N818  # no error: another server has failed
    """Nobody waits for this server any more."""


def _bring_up(site: Site, supervisor: Supervisor, servers: tuple[Server, ...], tell: Tell) -> None:
    """Each server in a thread that first waits for what it needs; the first error stops the waiting of the others."""
    stop = threading.Event()
    began = time.monotonic()
    futures: dict[str, Future[None]] = {}

    def bring(server: Server) -> None:
        try:
            for need in server.needs:
                futures[need].result()
            _make_folder(site, server)
            server.prepare()
            supervisor.start_server(server.name)
            _wait_until_well(site, supervisor, server, stop)
            server.settle()
        except BaseException:
            stop.set()
            raise
        tell(f"  {server.name:18} up after {time.monotonic() - began:5.1f} s   {server.what}")

    with ThreadPoolExecutor(len(servers), thread_name_prefix="up") as pool:
        for server in _in_order(servers):
            futures[server.name] = pool.submit(bring, server)
        try:
            wait(futures.values())
        finally:
            stop.set()
    errors = [error for future in futures.values() if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda e: isinstance(e, _Stopped)):
        raise error


def _in_order(servers: tuple[Server, ...]) -> list[Server]:
    """Each after what it needs."""
    import graphlib

    by_name = {server.name: server for server in servers}
    graph = {server.name: server.needs for server in servers}
    return [by_name[name] for name in graphlib.TopologicalSorter(graph).static_order()]


def _make_folder(site: Site, server: Server) -> None:
    folder = site.data(server.name)
    folder.mkdir(mode=0o700, exist_ok=True)
    if server.account:
        shutil.chown(folder, user=server.account)


def _wait_until_well(site: Site, supervisor: Supervisor, server: Server, stop: threading.Event) -> None:
    deadline = time.monotonic() + server.start_seconds
    last = "it did not run"
    while time.monotonic() < deadline:
        if stop.is_set():
            raise _Stopped(server.name)
        state = supervisor.states().get(server.name)
        if state is None or state.given_up:
            break
        if state.pid:
            try:
                server.probe()
            except ServiceError as error:
                last = str(error)
            else:
                return
        stop.wait(_POLL_S)
    raise ServiceError(
        f"{server.name} did not come up ({last}). Its log {site.log(server.name)} ends:\n{tail(site.log(server.name))}"
        "\nThe others stay up: put right what it says and run keel up again, or stop all with keel down"
    )


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    try:
        size = log.stat().st_size
        with log.open("rb") as file:
            file.seek(max(0, size - 16_384), os.SEEK_SET)
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "(nothing)"
