"""Data sets: one index table for every source, and batches from an index."""
