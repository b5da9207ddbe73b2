"""Station 10: evidence, trial, champion change, rollback."""
