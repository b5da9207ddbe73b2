"""``keel down``: each server stopped in its own way, before what it needs; nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from filelock import FileLock, Timeout

from market.errors import ServiceError
from pipelines.settings import StageConfig
from pipelines.stack.catalog import every_server
from pipelines.stack.processes import end, left_behind
from pipelines.stack.server import Server
from pipelines.stack.site import Site, find
from pipelines.stack.supervisor import Supervisor
from pipelines.stack.up import LOCK_FILE
from pipelines.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class DownConfig(StageConfig):
    """Nothing to choose: what is stopped is what was started in this folder."""


@dataclass(frozen=True, kw_only=True)
class DownResult:
    """``stopped`` as they should be; ``ended``: processes that had outlived their server or the supervisor."""

    folder: str
    stopped: tuple[str, ...]
    ended: int

    def line(self) -> str:
        if not self.stopped and not self.ended:
            return f"nothing was up in {self.folder}"
        rest = f"; {self.ended} processes left behind were ended too" if self.ended else ""
        return f"stopped {len(self.stopped)} servers{rest}; their data stays in {self.folder}"


def down(
    config: DownConfig,  # noqa: ARG001  # every stage has one
    *,
    workspace: Workspace,
    tell: Callable[[str], None] = lambda _line: None,
) -> DownResult:
    """Stop the stack.

    Raises:
        ServiceError: another keel up or down is at work, or a process does not end.
    """
    site = find(workspace.stack)
    if site is None:
        return DownResult(folder=str(workspace.stack), stopped=(), ended=0)
    try:
        with FileLock(site.folder / LOCK_FILE, timeout=0):
            return _down(site, tell)
    except Timeout:
        raise ServiceError(f"another keel up or keel down is at work on {site.folder}; wait for it") from None


def _down(site: Site, tell: Callable[[str], None]) -> DownResult:
    supervisor = Supervisor(site)
    stopped: tuple[str, ...] = ()
    if supervisor.is_up():
        stopped = _stop_all(site, supervisor, tell)
        supervisor.shutdown()
    ended = end(left_behind(site))
    still = left_behind(site)
    if still:
        raise ServiceError(f"these processes do not end: {', '.join(f'{p.pid} ({p.name()})' for p in still)}")
    return DownResult(folder=str(site.folder), stopped=stopped, ended=ended)


def _stop_all(site: Site, supervisor: Supervisor, tell: Callable[[str], None]) -> tuple[str, ...]:
    """Each as soon as nobody needs it any more."""
    running = {name for name, state in supervisor.states().items() if not state.given_up}
    servers = [server for server in every_server(site) if server.name in running]
    futures: dict[str, Future[None]] = {}

    def stop(server: Server) -> None:
        for other in servers:
            if server.name in other.needs:
                futures[other.name].result()
        supervisor.stop_server(server.name)
        tell(f"  {server.name:18} stopped")

    with ThreadPoolExecutor(max(1, len(servers)), thread_name_prefix="down") as pool:
        for server in sorted(servers, key=lambda s: _depth(s, servers), reverse=True):
            futures[server.name] = pool.submit(stop, server)
    for future in futures.values():
        future.result()
    return tuple(server.name for server in servers)


def _depth(server: Server, servers: list[Server]) -> int:
    """How many servers stand one on another below this one."""
    return max((1 + _depth(other, servers) for other in servers if other.name in server.needs), default=0)
