"""Station 6: sessions that quote, and their safe state."""
