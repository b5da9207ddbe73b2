"""What tests are built from, each named by what it builds: markets, lakes, sessions, servers, forked processes."""
