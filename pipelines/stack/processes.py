"""Processes and ports of this machine: whose port it is, and which processes a stack has left behind."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable

import psutil

from market.errors import PortInUseError
from pipelines.stack.server import Server
from pipelines.stack.site import HOST, Site

# Every process of a stack, and every child of one, has this in its environment; its value is the stack's folder.
MARK = "QUOTEKEEL_STACK_PROCESS"
END_SECONDS = 15.0


def require_free_ports(site: Site, servers: Iterable[Server]) -> None:
    """Look at every port of these servers before any is started.

    Raises:
        PortInUseError: all that are taken, by whom, and what to do.
    """
    wanted = [(server.name, site.port(name)) for server in servers for name in server.ports]
    taken = [f"{port} ({server}){_holder(port)}" for server, port in wanted if not _is_free(port)]
    if taken:
        raise PortInUseError(
            f"expected free ports on {HOST}, saw taken: {'; '.join(taken)}. End what holds them, or move the whole "
            f"stack: keel up --first-port {site.chosen.first_port + 1000}"
        )


def left_behind(site: Site) -> list[psutil.Process]:
    """Every live process of this stack, children first."""
    found = [each for each in psutil.process_iter() if environment_of(each).get(MARK) == str(site.folder)]
    marked = {process.pid: process for process in found}
    for process in list(marked.values()):
        with contextlib.suppress(psutil.NoSuchProcess):
            marked |= {child.pid: child for child in process.children(recursive=True)}
    return sorted(marked.values(), key=lambda p: p.pid, reverse=True)


def end(processes: list[psutil.Process]) -> int:
    """Ask each to end, then end it; returns how many there were."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=END_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=END_SECONDS)
    return len(processes)


def memory_of(pid: int) -> int:
    """Bytes of a process and all its children; what they share is counted once, where the kernel tells."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += _share(each)
    return total


def _share(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)


def environment_of(process: psutil.Process) -> dict[str, str]:
    """Empty where it is gone or may not be read."""
    try:
        return dict(process.environ())
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return {}


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    """Who listens there, where this account may know it."""
    try:
        found = [c.pid for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.pid]
        return f" by process {found[0]}, {psutil.Process(found[0]).name()}" if found else ""
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return ""
