"""What holds whatever a model predicts: the safe state."""
