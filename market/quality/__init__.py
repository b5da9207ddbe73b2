"""What a batch of ticks is validated by: its columns, the figures over them, the rules and their limits."""
