"""Pages and traces for people."""
