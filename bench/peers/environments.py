"""Environments of peers that cannot be installed with us: created once, in an ignored folder, from version lists."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from bench.peers.turns import ROOT

_FOLDER = ROOT / ".peers"


def python_of(name: str) -> Path:
    """The interpreter of the environment that ``<name>.txt`` next to this file describes; created if missing.

    Raises:
        RuntimeError: the packages cannot be installed.
    """
    wanted = Path(__file__).with_name(f"{name}.txt")
    folder = _FOLDER / name
    stamp, digest = folder / "installed", hashlib.sha256(wanted.read_bytes()).hexdigest()
    python = folder / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != digest:
        shutil.rmtree(folder, ignore_errors=True)
        print(f"installing {name} into {folder.relative_to(ROOT)}", flush=True)
        for command in _commands(folder, python, wanted):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}; check the network")
        stamp.write_text(digest)
    return python


def _commands(folder: Path, python: Path, wanted: Path) -> list[list[str]]:
    ours = ROOT / ".boot" / "bin" / "uv"
    uv = str(ours) if ours.is_file() else shutil.which("uv")
    if uv is None:
        return [
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "install", "-q", "-r", str(wanted)],
        ]
    return [
        [uv, "venv", "-q", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "-q", "--python", str(python), "-r", str(wanted)],
    ]
