"""One parser per wire format, and nothing else."""
