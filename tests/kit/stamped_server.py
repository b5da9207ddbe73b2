"""A real WebSocket server on a free loopback port that sends given lines and then says that the stream ends."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from websockets.sync.server import Server, ServerConnection, serve

END = b'1 {"stream":"keel@end","data":{}}'


class StampedServer:
    """``with StampedServer(lines) as server: ... server.url``; ``messages_a_second`` None means as fast as it goes."""

    def __init__(self, lines: list[bytes], *, messages_a_second: float | None = None, end: bool = True) -> None:
        self._lines = lines
        self._pause_s = 1 / messages_a_second if messages_a_second else 0.0
        self._end = end
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._server = serve(self._talk, "127.0.0.1", 0, compression=None)
        self.url = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}/stream?stamp=1"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._thread.join()

    def _talk(self, connection: ServerConnection) -> None:
        for line in self._lines:
            connection.send(line, text=True)
            if self._pause_s:
                time.sleep(self._pause_s)
        if self._end:
            connection.send(END, text=True)
