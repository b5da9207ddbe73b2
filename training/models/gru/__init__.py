"""One gated recurrent layer, carried from event to event."""
