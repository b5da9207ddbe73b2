"""How events travel between processes."""
