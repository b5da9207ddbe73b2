"""From a dataset to an evaluated, exported, registered challenger."""
