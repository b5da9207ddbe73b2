"""The vocabulary of the market: events, instruments, books, feeds, the lake, features and labels."""
