"""Station 5: a version reaches the inference server and its role."""
