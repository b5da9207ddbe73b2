"""One file a kind of server: its command line, what it needs, how one asks it whether it is well."""
