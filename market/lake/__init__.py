"""The lake: Delta tables of raw frames, ticks, features and records; schemas, conditions, versions, inventory."""
