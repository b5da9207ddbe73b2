"""Station 8: mails, acknowledgement, escalation."""
