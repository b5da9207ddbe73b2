"""Two hidden layers on the newest row alone; no memory."""
