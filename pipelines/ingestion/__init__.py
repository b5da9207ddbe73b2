"""Station 1: frames of exchanges and recordings into the lake."""
