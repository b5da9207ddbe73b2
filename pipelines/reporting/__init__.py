"""What a report is made of: pictures and sections."""
