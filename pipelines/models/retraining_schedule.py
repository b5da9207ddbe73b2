"""When instruments in service are retrained by the clock, whether or not anything drifted.

Light on purpose: Airflow reads this each time it parses the DAG files.
"""

from __future__ import annotations

import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final

import croniter

from pipelines.settings import stage_config

_FIELDS: Final = 5  # minute, hour, day, month, weekday: no seconds, no @aliases
_LOOK_AHEAD: Final = timedelta(days=366)


@dataclass(frozen=True, kw_only=True)
class RetrainingSchedule:
    """``cron`` (minute, hour, day of the month, month, weekday; empty: never) in ``timezone``, a name of the IANA
    database, so that a night stays a night when clocks change."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "ignore"}  # the section has what `keel retrain` reads too

    cron: str = "0 2 * * *"
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        """Raises ValueError: no such time or zone."""
        if self.cron and (len(self.cron.split()) != _FIELDS or not croniter.croniter.is_valid(self.cron)):
            raise ValueError(f"expected a cron expression of five fields such as '0 2 * * *', saw {self.cron!r}")
        try:
            zoneinfo.ZoneInfo(self.timezone)
        except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError):
            raise ValueError(f"expected a time zone such as Europe/Berlin, saw {self.timezone!r}") from None

    def leaves_more_than(self, period: timedelta, *, start: datetime) -> bool:
        """Whether there is a longer time than ``period`` between two retrainings of the year from ``start`` on (aware).

        Jumps to the last retraining within reach of the one before: at most a year's worth of periods is looked at.
        """
        if not self.cron:
            return True
        at = start.astimezone(UTC)
        while at < start + _LOOK_AHEAD:
            # in UTC: what matters is how long a model stands, not local time
            reach = (at + period).astimezone(zoneinfo.ZoneInfo(self.timezone))
            last: datetime = croniter.croniter(self.cron, reach + timedelta(seconds=1)).get_prev(datetime)
            if last.astimezone(UTC) <= at:
                return True
            at = last.astimezone(UTC)
        return False


def retraining_schedule() -> RetrainingSchedule:
    """The schedule in the settings.

    Raises:
        SettingsError: no such time or zone.
    """
    return stage_config("retrain", RetrainingSchedule)


def too_rare(schedule: RetrainingSchedule, expires_days: float, *, now: datetime) -> str:
    """A sentence where models may expire before the clock has had two chances to replace them; empty where not.

    Two, since one night may be missed and one challenger may not pass its gate.
    """
    if not schedule.cron:
        return (
            f"nothing is retrained by the clock (retrain.cron is empty), and a model expires after {expires_days:g} "
            "days; set retrain.cron, for instance to '0 2 * * *'"
        )
    if not schedule.leaves_more_than(timedelta(days=expires_days / 2), start=now):
        return ""
    return (
        f"expected at least two scheduled retrainings in the {expires_days:g} days after which a model expires; "
        f"retrain.cron '{schedule.cron}' leaves more than {expires_days / 2:g} days between two. Make it more "
        "frequent, or raise export.expires_days"
    )
