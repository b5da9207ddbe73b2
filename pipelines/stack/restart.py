"""Start a server of the stack anew: end what a killed one before it left running, then become the server.

Airflow's LocalExecutor forks workers, which outlive a scheduler that was killed with 9 and would go on with tasks that
the next scheduler starts again.
"""

from __future__ import annotations

import os
import sys

import psutil

from pipelines.stack.processes import MARK, end, environment_of

_NAME = "SUPERVISOR_PROCESS_NAME"  # supervisord tells it to each server, and that to its children


def left_by_predecessor() -> list[psutil.Process]:
    """Processes of the same server of the same stack, other than this one."""
    mine = {name: os.environ[name] for name in (MARK, _NAME)}
    others = [process for process in psutil.process_iter() if process.pid != os.getpid()]
    return [process for process in others if mine.items() <= environment_of(process).items()]


def main() -> None:
    """``python -m pipelines.stack.restart COMMAND...``"""
    end(left_by_predecessor())
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 the words are those of supervisord.conf


if __name__ == "__main__":
    main()
