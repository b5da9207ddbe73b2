"""Who did what: the audit record, people, approvals."""
