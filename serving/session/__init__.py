"""A quoting session: what drives it, what it records, who follows it, its heartbeat."""
