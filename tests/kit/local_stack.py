"""A local stack in a folder of its own, driven as a person drives it: by `keel` and through Airflow's API."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml

from kit.ring import ROOT, run_keel
from pipelines.stack.environment import variables
from pipelines.stack.server import certificates
from pipelines.stack.servers.airflow import token
from pipelines.stack.site import HOST, PORTS, Site, find

POLL_SECONDS = 0.2
LONG = 900.0  # seconds: a machine may be busy


@dataclass(frozen=True, kw_only=True)
class Stack:
    """``home`` is what a person's shell names; the stack keeps its models and data in a home of its own beside it.
    ``tokens`` are those that Airflow gave for a day, by account."""

    home: Path
    first_port: int
    tokens: dict[str, str] = field(default_factory=dict)

    def keel(self, *words: str, code: int | None = 0, **settings: str) -> Any:
        """What a verb prints as JSON; ``settings`` are variables."""
        done = run_keel(self.home, *words, "--json", **settings)
        assert code is None or done.returncode == code, done.stdout[-2000:] + done.stderr[-6000:]
        return orjson.loads(done.stdout)

    def on_stack(self, *words: str, code: int | None = 0, **settings: str) -> Any:
        """A verb in a shell that works on the stack, as after ``eval "$(keel up --env)"``."""
        return self.keel(*words, code=code, **{**variables(self.site), **settings})

    def up(self, *words: str) -> Any:
        return self.keel("up", "--first-port", str(self.first_port), *words)

    def is_well(self) -> bool:
        """every server to answer: none is late for good because the machine was busy at one look"""
        return bool(self.keel("status", code=None)["well"])

    @property
    def site(self) -> Site:
        site = find(self.home / "stack")
        assert site is not None
        return site

    def states(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in self.keel("status", code=None)["servers"]}

    @contextmanager
    def airflow(self, account: str) -> Iterator[httpx.Client]:
        """Airflow's API, signed in."""
        if account not in self.tokens:
            self.tokens[account] = token(self.site, account)
        headers = {"Authorization": f"Bearer {self.tokens[account]}"}
        base = f"{self.site.url('airflow')}/api/v2"
        with httpx.Client(base_url=base, headers=headers, timeout=60, trust_env=False, verify=certificates()) as api:
            yield api


@contextmanager
def running_stack(*words: str, params: Mapping[str, Any] | None = None, lake_bytes: int = 0) -> Iterator[Stack]:
    """A stack that is up, started with ``keel up WORDS``; ``params`` are its own numbers, by section.

    ``lake_bytes``: its lake has a file system of its own of that size, where a test may mount one.
    """
    installed = subprocess.run(
        ["bash", str(ROOT / "infra" / "local" / "install_stack.sh")], capture_output=True, text=True, check=False
    )
    if installed.returncode:
        pytest.skip(installed.stderr)
    # not under pytest's own folder, which it closes to the account that PostgreSQL runs as
    folder = Path(tempfile.mkdtemp(prefix="keel-stack-"))
    folder.chmod(0o711)
    stack = Stack(home=folder / "home", first_port=free_ports(len(PORTS)))
    if params:
        numbers = stack.home / "stack" / "params.yaml"
        numbers.parent.mkdir(parents=True)
        numbers.write_text(yaml.safe_dump(dict(params)))
    lake = stack.home / "stack" / "home" / "lake"
    mounted = lake_bytes > 0 and mounts(lake, lake_bytes)
    try:
        stack.up(*words)
        yield stack
    finally:
        stack.keel("down", code=None)
        if mounted:
            subprocess.run(["umount", str(lake)], check=True)
        shutil.rmtree(folder)


def mounts(folder: Path, size: int) -> bool:
    """Make ``folder`` a file system of its own, if that is allowed here."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0


def leave_no_room(folder: Path) -> None:
    """Make such a file system hardly larger than what is in it, so that nobody can add a megabyte to it."""
    for _ in range(10):
        now = os.statvfs(folder)
        if resize(folder, (now.f_blocks - now.f_bfree) * now.f_frsize + (1 << 20)):
            return
    pytest.fail(f"{folder} grows faster than it can be made small")


def resize(folder: Path, size: int) -> bool:
    """Give such a file system another size; False where more than that is in use."""
    command = ["mount", "-o", f"remount,size={size}", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def free_ports(count: int) -> int:
    """The first of ``count`` ports in a row that nobody has, below those the kernel hands out."""
    for first in range(22_000, 32_000, 100):
        if all(is_free(port) for port in range(first, first + count)):
            return first
    pytest.fail(f"no {count} free ports in a row")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def until(what: Callable[[], Any], seconds: float = 240.0, *, every: float = POLL_SECONDS) -> Any:
    """The first true answer of ``what``, whose docstring says what is waited for. ``every``: seconds between two looks;
    one at the status of every server costs half a second of the machine."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := what():
            return answer
        time.sleep(every)
    pytest.fail(f"waited in vain for {what.__doc__ or what}")
