"""Who may decide: a person with a name and a reason, who is not a program and, where a list is set, is on it.

A name on the command line is only what was typed; only Airflow's sign-in proves it. What is reliably excluded is a
program that decides by mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from market.errors import ApprovalError

NOBODY: Final = "nobody (timeout)"  # who rejects when no person answers in time
_PROGRAMS: Final = frozenset({"airflow", "anonymous", "keel", "quotekeel", NOBODY})


def same_person(one: str, other: str) -> bool:
    """Whether two names are one person's: case and spaces do not count."""
    return _plain(one) == _plain(other)


def is_program(name: str) -> bool:
    """Whether a name is one of ours or of the scheduler's, and so no person's."""
    return _plain(name) in _PROGRAMS


def require_person(name: str, doing: str) -> None:
    """Raise ApprovalError unless ``name`` may be a person's; ``doing`` as in "an approval"."""
    if not name:
        raise ApprovalError(f"{doing} needs the name of a person; give --name")
    if is_program(name):
        raise ApprovalError(f"{doing} needs the name of a person; {name} is not one. Give your own with --name")


def require_reason(name: str, reason: str, doing: str) -> None:
    """Raise ApprovalError for an empty reason."""
    if not reason:
        raise ApprovalError(f"{doing} needs a reason; {name} should say why with --reason")


def require_listed(name: str, allowed: Sequence[str], doing: str) -> None:
    """Raise ApprovalError unless ``name`` is one of ``allowed``; an empty list allows everyone."""
    if allowed and not any(same_person(name, each) for each in allowed):
        raise ApprovalError(f"{name} may not give {doing}; those who may are {', '.join(allowed)} (KEEL_APPROVERS)")


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()
