"""The compiled step of each family of networks."""
