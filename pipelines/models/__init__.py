"""Station 4: a dataset becomes a trained, evaluated, exported, registered version."""
