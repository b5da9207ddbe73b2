"""Where events come from: recorded captures, live WebSockets, the simulated exchange."""
