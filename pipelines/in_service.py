"""What is in service in a workspace: versions by role, and for which instruments."""

from __future__ import annotations

from pathlib import Path

from pipelines.workspace import Workspace
from serving.rollout.roles import Roles, read_roles, read_state


def state_path(workspace: Workspace) -> Path:
    """Where it is written which versions are in service."""
    return workspace.roles


def roles_of(workspace: Workspace, instrument: str) -> Roles:
    """Versions in service for an instrument, by role."""
    return read_roles(state_path(workspace), instrument)


def instruments(workspace: Workspace) -> list[str]:
    """Instruments with a champion, by key."""
    return sorted(key for key, roles in read_state(state_path(workspace)).items() if roles.champion)
