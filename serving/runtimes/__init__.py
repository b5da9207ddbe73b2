"""What runs an exported step model in this process."""
