"""Speed, measured against a named peer in the same run: ``make bench`` writes docs/benchmarks/."""
