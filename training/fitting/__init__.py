"""The training loop: plan, steps, objective, checkpoints, workers."""
