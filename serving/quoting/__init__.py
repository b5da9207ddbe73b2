"""The quoting policy and the engine that keeps its quotes at the exchange."""
