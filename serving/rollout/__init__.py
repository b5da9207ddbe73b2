"""Which version serves which block: roles, assignment, line-up, guardrails."""
