"""What venues' files and frames have in common: JSON frames, rows, Parquet, archives, checksums."""
