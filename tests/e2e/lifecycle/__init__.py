"""A package, so that its one stack is taken down when its last test has ended: pytest knows no other folders."""
