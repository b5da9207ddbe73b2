"""Station 2: the quality gate, its limits, quarantine."""
