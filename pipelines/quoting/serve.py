"""Quote for a while: at an exchange, with orders and outcomes; or along a recording, where no fill can be claimed.

The hot path serves the versions that ``deploy`` and ``promote`` put into service. Registry, Triton and feature store
are not in the loop: bundles are read from disk and verified again, slow features are read before the first decision.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from market import instruments
from market.clock import NS_PER_S
from market.errors import EmptyDataError, InputError, SettingsError
from market.feeds import landing
from market.instruments import Instrument
from market.lake.lake import Lake
from market.sources import live_source
from market.venues.formats import line_files
from pipelines import in_service
from pipelines.features.slow import SlowSource
from pipelines.governance.approve import require_recorded
from pipelines.quoting.companions import COMPACTED
from pipelines.quoting.follow import follow
from pipelines.quoting.session_run import (
    ServeConfig,
    ServeResult,
    place_of,
    proven_bundle,
    result_of,
    write_session,
)
from pipelines.workspace import Workspace, tracked
from serving.manifest import require_comparable
from serving.rollout.lineup import Lineup
from serving.session import drivers
from serving.session.runner import run_session
from serving.session.session import Plan
from training.registry.registry import model_name

__all__ = ["ServeConfig", "ServeResult", "serve"]


def serve(config: ServeConfig, *, workspace: Workspace) -> ServeResult:
    """Run one session, or with ``follow`` one after the other. Ctrl-C (and SIGTERM) cancels all orders, writes
    everything down and is then passed on.

    Raises:
        SettingsError, InputError: the configuration does not fit together, or names something unknown.
        ModelError: nobody plays a wanted role, or a bundle does not pass.
        ServiceError: the exchange is away or broke off; what came before is in the lake.
        LakeError: a table cannot be written.
        KeyboardInterrupt: after a clean end.
    """
    instrument = _check(config)
    recovered = landing.recover_all(Lake(workspace.lake))
    with _stoppable() as stop:
        if config.follow:
            result = follow(config, workspace, instrument, stop)
        else:
            result = _serve_once(config, workspace, instrument, stop, recovered)
    if stop.is_set():
        raise KeyboardInterrupt
    if not result.frames:
        raise EmptyDataError(f"{config.url or config.capture} sent no frames; look at its address and stream names")
    return result


def _serve_once(
    config: ServeConfig, workspace: Workspace, instrument: Instrument, stop: threading.Event, recovered: tuple[str, ...]
) -> ServeResult:
    lake = Lake(workspace.lake)
    roles = in_service.roles_of(workspace, config.instrument)
    versions = tuple(roles.version(arm, config.instrument) for arm in config.arms)
    require_recorded(workspace, model_name(config.instrument), versions[0])  # the champion's
    bundles = tuple(proven_bundle(workspace, config.instrument, version) for version in versions)
    for other in bundles[1:]:
        require_comparable(other.manifest, bundles[0].manifest)
    slow = SlowSource(workspace, instrument, lake)
    place = place_of(config, instrument, workspace)
    plan = Plan(
        session=live_source(config.url or str(config.capture), workspace.clock),
        instrument=instrument,
        lineup=_lineup(config, versions, roles.test),
        block_ns=int(config.block_seconds * NS_PER_S),
        seed=config.seed,
        trades=place.sends_orders,
        first_slow=slow.known_at,
        start_ns=config.start_ns or 0,
        inventory_limit=config.policy.max_inventory_lots,
    )
    progress = workspace.progress
    until = drivers.Until(seconds=config.seconds, stop=stop, advance=progress.advance, end_ns=config.end_ns)
    with tracked(progress, "quoting" if plan.trades else "deciding", until.seconds):
        session, truncated = run_session(place, plan, bundles, config.policy, until)
    if session.lander.slow is not None:
        slow.learned(session.lander.slow)
    for table in COMPACTED:
        lake.compact(table)
    result = result_of(config, session, truncated=truncated, recovered=recovered)
    write_session(workspace, config, session, result)
    return result


def _lineup(config: ServeConfig, versions: tuple[int, ...], test: int) -> Lineup:
    if len(versions) == 1:
        return Lineup(versions=versions)
    return Lineup(versions=versions, phase="shadow" if config.shadow else "switchback", test=test)


def _check(config: ServeConfig) -> Instrument:
    """The instrument, when the configuration fits together."""
    if (config.url is None) == (config.capture is None):
        raise SettingsError("expected an exchange or a recording: `keel serve --url URL` or `--set capture=FILE`")
    if config.arms not in (("champion",), ("champion", "challenger")):
        raise SettingsError(f"expected arms [champion] or [champion, challenger], saw {list(config.arms)}")
    if config.url is not None and not (config.start_ns is None and config.end_ns is None):
        raise SettingsError("start_ns and end_ns cut a stretch out of a recording; give seconds with an exchange")
    if config.block_seconds < 1 or (config.seconds is not None and config.seconds <= 0):
        raise SettingsError("expected blocks of at least 1 second, and a positive number of seconds to serve for")
    if config.follow and config.url is None:
        raise SettingsError("expected an exchange to follow what is in service at: `keel serve --follow --url URL`")
    if config.pace is not None and config.pace <= 0:
        raise SettingsError(f"expected a pace above 0 (a multiple of real time), saw {config.pace}")
    if config.roll_seconds < 60 or config.shadow_blocks < 0:
        raise SettingsError("expected roll_seconds of at least 60, and shadow_blocks of at least 0")
    instrument = instruments.find(config.instrument)
    if config.capture is not None:
        seen = line_files.recognise_key(Path(config.capture))
        if seen.partition(".")[2] != instrument.symbol:
            raise InputError(f"{config.capture} is a recording of {seen}, not of {instrument.key}")
    return instrument


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; a second one interrupts at once. Elsewhere than in the main
    thread signals are the main thread's business, and the event stays unset."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def first(*_: object) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, first)
    try:
        yield stop
    finally:
        restore()
