"""The in-process hot path: events in shared memory to quote decisions in shared memory, in compiled code."""
