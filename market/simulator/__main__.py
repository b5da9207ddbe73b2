"""``python -m market.simulator``: the exchange as a process. Prints its port, runs until stopped.

With ``--with-parent`` it also ends when its standard input closes, that is, when its parent process has ended.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys

from market.errors import KeelError
from market.simulator.config import REGIMES, ExchangeConfig
from market.simulator.exchange import run


def main() -> int:
    """Exit code 0 after a stop, 2 to 6 as defined in :mod:`market.errors`."""
    parser = argparse.ArgumentParser(prog="python -m market.simulator", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="loopback port; 0 picks a free one")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--regime", choices=list(REGIMES), default="calm")
    parser.add_argument("--with-parent", action="store_true", help="exit when standard input closes")
    args = parser.parse_args()
    try:
        config = ExchangeConfig(port=args.port, seed=args.seed, regime=args.regime)
        asyncio.run(_serve(config, with_parent=args.with_parent))
    except KeelError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code
    return 0


async def _serve(config: ExchangeConfig, *, with_parent: bool) -> None:
    serving = asyncio.create_task(run(config, _announce))
    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, serving.cancel)
    if with_parent:
        loop.add_reader(sys.stdin, lambda: serving.cancel() if not os.read(sys.stdin.fileno(), 4096) else None)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def _announce(port: int) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
