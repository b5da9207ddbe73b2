"""What a batch of ticks is judged by: its columns, the figures over them, the rules and their limits."""
