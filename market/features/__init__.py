"""The feature catalog and the one compiled step that computes it, live and in batch."""
