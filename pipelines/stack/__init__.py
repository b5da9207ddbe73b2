"""The real local stack: which servers there are, how they are brought up in order, watched and stopped."""
