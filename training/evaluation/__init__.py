"""How good a model is: scores, calibration, baselines, sequential tests."""
