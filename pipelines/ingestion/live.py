"""Live feeds into the lake: several venues and instruments in one process, each with a connection and a lander.

One that fails does not end the others. Its frames so far are landed, and its error is reported when all have ended.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

from market.clock import NS_PER_S
from market.errors import EmptyDataError, KeelError
from market.feeds import websocket
from market.feeds.intake import Intake, IntakeConfig, Shed, Taker
from market.feeds.landing import Lander
from market.instruments import Instrument
from market.lake.lake import Lake
from market.venues.binance import snapshot_url
from pipelines.workspace import Workspace, tracked

PROGRESS_EVERY = 2_000  # frames
_COMPACTED = ("raw", "ticks")  # a live source commits these often


@dataclass(frozen=True, kw_only=True)
class Feed:
    """A stream of one instrument; ``source`` is what it is landed as (nothing, where it goes into a topic).
    ``snapshot_url`` empty: the venue's own."""

    url: str
    instrument: Instrument
    source: str = ""
    snapshot_url: str = ""
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Taken:
    """The outcome of a feed."""

    feed: Feed
    lander: Lander
    shed: Shed


async def land(
    feeds: list[Feed], lake: Lake, workspace: Workspace, *, intake: IntakeConfig | None = None
) -> list[Taken]:
    """Land all feeds until each has ended, or until this is cancelled: then everything that came is landed.

    Raises:
        KeelError: of the first feed that failed, with how many did; frames of the others are landed.
    """
    outcomes = await asyncio.gather(*(_land(feed, lake, workspace, intake) for feed in feeds), return_exceptions=True)
    failed = [(feed, each) for feed, each in zip(feeds, outcomes, strict=True) if isinstance(each, BaseException)]
    for table in _COMPACTED:
        await asyncio.to_thread(lake.compact, table)
    for _, error in failed:
        if len(feeds) == 1 or not isinstance(error, KeelError):
            raise error
    if failed:
        said = "; ".join(f"{feed.instrument.key}: {error}" for feed, error in failed)
        kind = type(failed[0][1])
        raise kind(f"{len(failed)} of {len(feeds)} feeds failed, what came of all is landed: {said}")
    return [each for each in outcomes if isinstance(each, Taken)]


async def _land(feed: Feed, lake: Lake, workspace: Workspace, config: IntakeConfig | None) -> Taken:
    lander = Lander(feed.source, feed.instrument, lake, clock=workspace.clock)
    connection = websocket.ConnectionConfig(
        snapshot_url=feed.snapshot_url or snapshot_url(feed.instrument, feed.url),
        wants_snapshot=lambda: not lander.normaliser.synced,
    )
    with tracked(workspace.progress, f"landing {feed.url}"):
        shed = await take(feed, lander, connection, workspace, intake=config)
    if not lander.stats.frames:
        raise EmptyDataError(f"{feed.url} sent no frames; look at its stream names")
    return Taken(feed=feed, lander=lander, shed=shed)


async def take(
    feed: Feed,
    taker: Taker,
    connection: websocket.ConnectionConfig,
    workspace: Workspace,
    *,
    intake: IntakeConfig | None = None,
) -> Shed:
    """Hand a feed's frames over until it ends, or its seconds of market time are over; what had to be shed.

    Raises as :func:`market.feeds.websocket.stream`, and what the taker raises.
    """
    waits = websocket.waits_for_us(feed.url)
    until_ns: int | None = None
    progress = workspace.progress

    def tell(number: int) -> None:
        if number % PROGRESS_EVERY == 0:
            progress.advance(PROGRESS_EVERY)

    incoming = websocket.stream(feed.url, clock=workspace.clock, config=connection)
    async with Intake(taker, intake, tell) as buffer, aclosing(incoming):
        async for _, recv_ns, payload in incoming:
            if until_ns is None and feed.seconds is not None:
                until_ns = recv_ns + int(feed.seconds * NS_PER_S)
            if until_ns is not None and recv_ns >= until_ns:
                break
            if waits:
                await buffer.room()
            buffer.offer(recv_ns, payload)
    return buffer.shed
