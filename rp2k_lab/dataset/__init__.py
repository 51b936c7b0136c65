"""Data sets: every source becomes one index table, and an index becomes batches."""
