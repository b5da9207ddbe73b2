"""The set-up script of the Triton server on machines that lack something, and on one where all is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serving.triton.server import default_install

SCRIPT = Path(__file__).parents[2] / "infra" / "triton" / "install.sh"
TOOLS = ("bash", "dirname", "uname", "cut", "grep", "cat", "sha256sum", "mkdir", "rm", "awk", "df", "head", "id")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with nothing installed."""
    script = tmp_path / "checkout" / "infra" / "triton" / "install.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(SCRIPT, script)
    (tmp_path / "checkout" / "constraints.txt").write_text("onnxruntime==1.31.1\n")
    return tmp_path / "checkout"


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with the shell's tools and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None, name
        (folder / name).symlink_to(found)
    return folder


def say(tools: Path, name: str, answer: str) -> None:
    (tools / name).unlink(missing_ok=True)
    (tools / name).write_text(f"#!/bin/bash\nprintf '{answer}\\n'\n")
    (tools / name).chmod(0o755)


def run(checkout: Path, tools: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shutil.which("bash") or "bash", str(checkout / "infra" / "triton" / "install.sh")],
        env={"PATH": str(tools), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_python_3_11_it_says_how_to_get_it(checkout: Path, tools: Path) -> None:
    done = run(checkout, tools)
    assert done.returncode == 1
    assert "Python 3.11 was not found" in done.stderr
    assert "apt-get install python3.11" in done.stderr


def test_another_machine_is_told_to_use_a_container(checkout: Path, tools: Path) -> None:
    say(tools, "uname", "Linux aarch64")
    done = run(checkout, tools, PYTHON=sys.executable)
    assert done.returncode == 1
    assert "aarch64" in done.stderr
    assert "KEEL_TRITON_GRPC" in done.stderr


def test_a_full_disk_is_said_before_anything_is_fetched(checkout: Path, tools: Path) -> None:
    say(tools, "df", "head\\n/dev/x 1 1 1024 1 /")
    done = run(checkout, tools, PYTHON=sys.executable)
    assert done.returncode == 1
    assert "need 900 MB" in done.stderr
    assert not (checkout / ".serving" / "installed").exists()


def test_what_is_installed_is_not_installed_again() -> None:
    if not (default_install() / "installed").is_file():
        pytest.skip("no Triton server here; run infra/triton/install.sh")
    before = (default_install() / "installed").stat().st_mtime_ns
    done = subprocess.run(
        ["bash", str(SCRIPT)], env=os.environ, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stderr == ""
    assert (default_install() / "installed").stat().st_mtime_ns == before
