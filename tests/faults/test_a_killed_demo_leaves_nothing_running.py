"""kill -9 of a whole run: its servers and Ray end with it, and the next run stops the Triton that could not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipelines.workspace import Workspace
from serving.triton.server import default_install, find_running

PATIENCE_S = 240.0
SAID = "stopped by Ctrl-C; what was committed stays, and running the same command again goes on from there"


@contextmanager
def demo(home: Path) -> Iterator[subprocess.Popen[str]]:
    variables = {"KEEL_HOME": str(home), "APPROVE_AS": "ada", "KEEL_AUTHOR": "grace", "KEEL_TRAIN__WORKERS": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KEEL_")}
    triton = {"KEEL_TRITON_HOME": str(default_install())}
    with (home.parent / "said").open("w") as said:
        child = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", "demo", "--set=learn_seconds=60"],
            env={**kept, **triton, **variables},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            text=True,
        )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def alive(processes: list[psutil.Process]) -> list[str]:
    """Command lines of those that still run."""
    left = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(" ".join(process.cmdline()))
        except psutil.NoSuchProcess:
            continue
    return left


def runs(child: subprocess.Popen[str], *words: str) -> bool:
    """Whether a command of every one of these words runs below the demo."""
    assert child.poll() is None, "the demo ended by itself"
    lines = alive(descendants(child.pid))
    return all(any(word in line for line in lines) for word in words)


@pytest.mark.heavy
def test_what_a_killed_demo_started_is_gone_when_the_next_one_runs(tmp_path: Path) -> None:
    if not (default_install() / "installed").is_file():
        pytest.skip("no Triton server here; run infra/triton/install.sh")
    workspace = Workspace(home=tmp_path / "keel")
    with demo(workspace.home) as child:
        servers = ("pipelines.stack.mail_sink", "market.simulator", "tritonserver")
        until(lambda: runs(child, *servers, "raylet"), "Ray and the servers run")
        left = find_running(workspace.triton_repository)
        assert left is not None
        triton = [psutil.Process(left.pid), *descendants(left.pid)]
        others = [process for process in descendants(child.pid) if process not in triton]
        child.kill()
        child.wait()
    until(lambda: not alive(others), f"everything but Triton ends by itself: {alive(others)}")
    with demo(workspace.home) as child:
        until(lambda: runs(child, *servers), "the servers of the second run")
        assert not alive(triton)
        started = descendants(child.pid)
        child.send_signal(signal.SIGINT)
        assert child.wait() == 130
    until(lambda: not alive(started), f"after Ctrl-C nothing runs: {alive(started)}")
    assert (tmp_path / "said").read_text().strip().endswith(SAID)
