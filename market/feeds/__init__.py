"""The sources of events: recorded captures, live WebSockets, the simulated exchange."""
