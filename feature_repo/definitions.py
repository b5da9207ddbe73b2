"""The Feast definitions: one entity, the instrument, and the two kinds of features of the catalog.

``tick_features`` are computed after every event; here they are thinned to the last row of each second, for look-ups
and comparisons, not for training at full rate. ``slow_features`` (funding, mark price) are joined point-in-time into
training rows and pushed online while a session runs: ``event_timestamp`` is the time a value refers to, ``known_at``
the time it became known here, and a row may only use values known by then.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Float32

from market.features import catalog, meaning

HOME = Path(os.environ["KEEL_FEAST_HOME"])

instrument = Entity(
    name="instrument", join_keys=["instrument"], value_type=ValueType.STRING, description="venue.SYMBOL"
)

tick_source = FileSource(
    name="tick_rows",
    path=str(HOME / "tick_features"),
    timestamp_field="event_timestamp",
    created_timestamp_column="known_at",
)

slow_source = FileSource(
    name="slow_records",
    path=str(HOME / "slow_features"),
    timestamp_field="event_timestamp",
    created_timestamp_column="known_at",
)

slow_push = PushSource(name="slow_push", batch_source=slow_source)

tick_features = FeatureView(
    name="tick_features",
    entities=[instrument],
    ttl=timedelta(0),
    schema=[Field(name=name, dtype=Float32) for name in catalog.tick_names()],
    source=tick_source,
    tags={"feature_set": meaning.feature_set()},
)

slow_features = FeatureView(
    name="slow_features",
    entities=[instrument],
    ttl=timedelta(0),  # the last known value holds until the next one
    schema=[Field(name=name, dtype=Float32) for name in catalog.slow_names()],
    source=slow_push,
    tags={"feature_set": meaning.feature_set()},
)
