"""Commits of one or more sources to the lake, in order, on a separate thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import pyarrow as pa

from market.lake.lake import Lake

_JOBS_WAITING: Final = 16


class Writer:
    """Appends in order, on one thread; after a failure nothing more is written."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lander")
        self._jobs: deque[Future[None]] = deque()
        self._stopped = False

    def append(
        self, table: str, rows: Callable[[], pa.Table], *, source: str, position: int, after: int | None = None
    ) -> None:
        """Queue one commit (its rows are also built on the thread); raises the error of an earlier one."""
        while self._jobs and (self._jobs[0].done() or len(self._jobs) >= _JOBS_WAITING):
            self._jobs.popleft().result()
        self._jobs.append(self._thread.submit(self._append, table, rows, source, (position, after)))

    def _append(self, table: str, rows: Callable[[], pa.Table], source: str, step: tuple[int, int | None]) -> None:
        if self._stopped:
            return
        try:
            self._lake.append(table, rows(), source=source, position=step[0], after=step[1])
        except BaseException:
            self._stopped = True
            raise

    def drain(self) -> None:
        """Wait until everything queued is committed; raises the error of a failed commit."""
        while self._jobs:
            self._jobs.popleft().result()

    def finish(self) -> None:
        """As :meth:`drain`, then accept nothing more."""
        self.drain()
        self._thread.shutdown()

    def stop(self) -> None:
        """Drop what is queued, then accept nothing more."""
        self._stopped = True
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._jobs.clear()
